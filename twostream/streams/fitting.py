"""The training loop of one stream, in Lightning: steps, epochs, the best weights, and resumption after each epoch.

A killed run continues after its last finished epoch and ends with the same bytes as an undisturbed one, because no
random state outlives a step: views and their order follow from (seed, epoch), dropout and mixup from (seed, step). On
a GPU this does not hold for networks with overlapping 3D pooling: PyTorch has no deterministic gradient for it.
"""

from __future__ import annotations

import io
import logging
import math
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.plugins.environments import LightningEnvironment
from torch.nn import functional

from twostream.core.allocator import available_memory, keep_freed_memory
from twostream.core.files import is_intact
from twostream.core.parallel import progress
from twostream.errors import UserError
from twostream.networks.registry import SegmentConsensus
from twostream.params import Stream
from twostream.streams.gpu import memory_as_user_error, prefer_channels_last
from twostream.streams.network import build_network
from twostream.streams.task import (
    Arithmetic,
    Processes,
    Task,
    best_epoch,
    by_torchrun,
    class_weights,
    is_first_process,
)
from twostream.views.difference import opener
from twostream.views.frame_store import frame_store
from twostream.views.loading import EpochSampler, SharedSampler, TrainingViews, ValidationViews, make_loader, normalise

if TYPE_CHECKING:
    from twostream.streams.training import Curves

_STORE_SHARE = 0.25  # of the available memory: loaders and the network need the rest


class Trained(NamedTuple):
    """What training gives: one row per epoch, the weights of the best epoch as a file, how the input is normalised."""

    history: list[dict[str, Any]]
    weights: bytes
    normalisation: dict[str, list[float]]


def fit(task: Task, state: Path, curves: Curves, workers: int, arithmetic: Arithmetic, processes: Processes) -> Trained:
    """Train a stream, or finish its training.

    Args:
        task: what to train, and on what.
        state: the file that holds the state after each epoch, to go on from.
        curves: gets every epoch.
        workers: processes of each loader; 0: one per core.
        processes: how many call this function, each in a process of its own; only the first one writes and prints.

    Raises:
        UserError: the stream's parameters do not fit its network, a batch does not fit into the GPU's memory, or
            several processes train batch norms on CPUs.
    """
    _quiet_lightning()
    pl.seed_everything(task.seed, verbose=False)
    # Deterministic algorithms come with a debugging aid that fills new tensors with NaN: up to 5 % of a CPU step,
    # by benchmarks/training_step.py.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    module = _Module(task, arithmetic.device, processes.total)
    epochs = _Epochs(task, state, curves)
    if not epochs.finished():
        with memory_as_user_error(f"set streams.{task.name}.batch_size below {task.stream.batch_size}"):
            _fit(task, module, epochs, workers, arithmetic, processes)
    return Trained(epochs.history, _weights_bytes(epochs.best_weights), module.model.normalisation)


def mix_clips(inputs: torch.Tensor, targets: torch.Tensor, alpha: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Mix the clips of a batch in random pairs by one share from Beta(alpha, alpha) (Zhang et al. 2018, algorithm 1).

    torchvision's MixUp refuses tensors of more than five dimensions.

    Args:
        inputs: float [N, ...].
        targets: float [N, classes], probabilities.

    Returns:
        inputs and targets of the same shapes.
    """
    share = float(torch.distributions.Beta(alpha, alpha).sample())
    partners = torch.randperm(len(inputs)).to(inputs.device)
    return share * inputs + (1 - share) * inputs[partners], share * targets + (1 - share) * targets[partners]


class _Module(pl.LightningModule):
    """Cross-entropy on the mean logits over segments."""

    def __init__(self, task: Task, device: str, processes: int):
        super().__init__()
        stream = task.stream
        self.task = task
        self.model = build_network(stream, task.modality, len(task.classes), stream.weights)
        if processes > 1 and device == "cuda":
            torch.nn.SyncBatchNorm.convert_sync_batchnorm(self.model)  # a batch norm then sees the clips of all
        self._frozen = [*_frozen_norms(task, self.model), *(freeze_body(self.model) if stream.tune == "last" else [])]
        loss = stream.balance == "loss"
        self._class_weights = torch.tensor(class_weights(_labels(task), len(task.classes))) if loss else None
        if task.compile:
            self.model.compile()
        self.train()
        if processes > 1 and device == "cpu" and any(layer.training for layer in _batch_norms(self.model)):
            raise UserError(
                f"streams.{task.name}: several processes train {stream.model} on GPUs only, since CPUs cannot share "
                "its batch norms; start one process, or freeze them (freeze_bn: all)"
            )

    def train(self, mode: bool = True) -> _Module:
        super().train(mode)
        for layer in self._frozen:
            layer.eval()
        return self

    def on_fit_start(self) -> None:
        prefer_channels_last(self.model, self.device)

    def on_train_batch_start(self, *_: Any) -> None:
        # Dropout and mixup then go on after a resumption as they would have without the interruption. Every step, not
        # every epoch: loaders draw from the same generator when they start, which is at another moment then.
        seeds = np.random.SeedSequence((self.task.seed, self.trainer.global_step, self.global_rank))
        torch.manual_seed(int(seeds.generate_state(1)[0]))

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], _: int) -> torch.Tensor:
        views, labels = batch
        inputs, targets = normalise(views, **self.model.normalisation), labels
        if self.task.stream.mixup:
            one_hot = functional.one_hot(labels, len(self.task.classes)).to(inputs.dtype)
            inputs, targets = mix_clips(inputs, one_hot, self.task.stream.mixup)
        logits = self.model(inputs)
        weights = None if self._class_weights is None else self._class_weights.to(logits)
        loss = functional.cross_entropy(logits, targets, weights, label_smoothing=self.task.stream.label_smoothing)
        self._log("train", loss, logits, targets)
        return loss

    def on_train_batch_end(self, _outputs: Any, _batch: Any, index: int) -> None:
        if index == 0 and self.device.type == "cpu":
            keep_freed_memory()  # after a step, when the process is as large as it gets

    def validation_step(self, batch: tuple[torch.Tensor, torch.Tensor], _: int) -> None:
        views, labels = batch
        logits = self.model(normalise(views, **self.model.normalisation))
        self._log("val", functional.cross_entropy(logits, labels), logits, labels)

    def _log(self, subset: str, loss: torch.Tensor, logits: torch.Tensor, targets: torch.Tensor) -> None:
        top = logits.argmax(1, keepdim=True)
        correct = top[:, 0] == targets if targets.ndim == 1 else targets.gather(1, top)  # labels, or shares of mixup
        values = {f"{subset}_loss": loss, f"{subset}_top1": correct.float().mean()}
        self.log_dict(values, on_step=False, on_epoch=True, batch_size=len(logits), sync_dist=True)

    def configure_optimizers(self) -> Any:
        stream = self.task.stream
        kinds: dict[str, Any] = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}
        momentum = {"momentum": 0.9, "nesterov": True} if stream.optimizer == "sgd" else {}
        groups = _parameter_groups(self.model, stream)
        optimizer = kinds[stream.optimizer](groups, lr=stream.lr, weight_decay=stream.weight_decay, **momentum)
        steps_per_epoch = max(1, int(self.trainer.estimated_stepping_batches) // stream.epochs)
        warmup, total = stream.warmup_epochs * steps_per_epoch, stream.epochs * steps_per_epoch

        def factor(step: int) -> float:
            """Linear warm-up, then constant or half a cosine down to zero."""
            if step < warmup:
                return (step + 1) / warmup
            done = (step - warmup) / max(1, total - warmup)
            return 1.0 if stream.schedule == "constant" else 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def freeze_body(model: SegmentConsensus) -> list[torch.nn.Module]:
    """Freeze all but the last block of a network and what follows it, and return the layers to keep in evaluation mode.

    A block is a layer of several layers with parameters (a residual block, an Inception block, a transformer block); in
    a network without blocks, the last layer with a matrix or kernel before the classifier is taken.
    """
    units = dict(_units(model))
    body = {
        name: unit for name, unit in units.items() if not any(f"{c}.".startswith(f"{name}.") for c in model.classifier)
    }
    kernels = [name for name, unit in body.items() if any(parameter.ndim > 1 for parameter in unit.parameters())]
    blocks = [name for name in kernels if sum(bool(layer._parameters) for layer in body[name].modules()) > 1]
    names = list(units)
    first = names.index((blocks or kernels)[-1]) if kernels else len(body)
    model.requires_grad_(False)
    for name in names[first:]:
        units[name].requires_grad_(True)
    return [units[name] for name in names[:first]]


def _units(module: torch.nn.Module, name: str = "") -> Iterator[tuple[str, torch.nn.Module]]:
    """Yield the layers of a network in order, each with its name; what is inside a block is not listed."""
    for child_name, child in module.named_children():
        wrapper = child_name in ("network", "backbone")
        if wrapper or isinstance(child, torch.nn.Sequential | torch.nn.ModuleList):
            yield from _units(child, f"{name}{child_name}.")
        else:
            yield f"{name}{child_name}", child


def _labels(task: Task) -> np.ndarray:
    return np.array([example.label for example in task.train])


def _batch_norms(model: torch.nn.Module) -> list[torch.nn.Module]:
    return [layer for layer in model.modules() if isinstance(layer, torch.nn.modules.batchnorm._BatchNorm)]


def _frozen_norms(task: Task, model: torch.nn.Module) -> Sequence[torch.nn.Module]:
    """Return the batch norms that keep the statistics they were loaded with; their scales and shifts still learn.

    Partial, as in Wang et al. 2016, section 3.2: all but the first, whose input is new.
    """
    freeze = task.stream.freeze_bn
    norms = _batch_norms(model)
    if freeze != "none" and not norms:
        raise UserError(
            f"streams.{task.name}.freeze_bn: {task.stream.model} has no batch norm to freeze; set it to none"
        )
    return {"none": [], "partial": norms[1:], "all": norms}[freeze]


def _parameter_groups(model: SegmentConsensus, stream: Stream) -> list[dict[str, Any]]:
    """Return the optimizer's groups: loaded layers at `lr`, new ones at `lr_new` times it; one group if equal."""
    new = set(model.new_parameters) if stream.lr_new != 1 else set()
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    loaded = {"params": [parameter for name, parameter in named if name not in new]}
    fresh = {"params": [parameter for name, parameter in named if name in new], "lr": stream.lr * stream.lr_new}
    return [group for group in (loaded, fresh) if group["params"]]


class _Epochs(Checkpoint):
    """After each epoch: keep the best weights, save the state to resume from, extend the curves, stop when finished.

    A Checkpoint, because Lightning calls those after all other callbacks at an epoch's end.
    """

    def __init__(self, task: Task, path: Path, curves: Curves):
        self.task, self.path, self.curves = task, path, curves
        self.history: list[dict[str, Any]] = []
        self.best_weights: dict[str, torch.Tensor] = {}
        self.saved = 0  # epochs that the state on disk holds
        if is_intact(path):
            state = torch.load(path, map_location="cpu", weights_only=True)
            self.load_state_dict(state["callbacks"][self.state_key])
            curves.update(self.history)
        if path.is_file() and is_first_process():
            after = f"going on after epoch {len(self.history)}"
            damaged = "the state of an earlier run is damaged, starting again"
            print(f"{task.name}: {after if self.history else damaged}", flush=True)

    def best(self) -> dict[str, Any]:
        return best_epoch(self.history, len(self.task.val))

    def finished(self) -> bool:
        epochs, stream = len(self.history), self.task.stream
        return bool(epochs) and (epochs >= stream.epochs or epochs - self.best()["epoch"] >= stream.patience)

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if trainer.is_global_zero:
            steps = int(trainer.num_training_batches) * (self.task.stream.epochs - len(self.history))
            self.bar = progress(steps, f"train {self.task.name}", "step")

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.is_global_zero:
            self.bar.update()

    def on_train_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.is_global_zero:
            self.bar.close()

    def on_train_epoch_end(self, trainer: pl.Trainer, module: Any) -> None:
        values = {name: round(float(value), 6) for name, value in trainer.callback_metrics.items()}
        self.history.append({"epoch": trainer.current_epoch + 1, **values})
        if self.best() is self.history[-1]:
            weights = module.model.state_dict()
            self.best_weights = {name: value.detach().cpu().clone() for name, value in weights.items()}
        trainer.should_stop = self.finished()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_suffix(".part")
        trainer.save_checkpoint(temporary, weights_only=False)  # in all processes, but the first one alone writes
        if trainer.is_global_zero:
            os.replace(temporary, self.path)
            self.saved = len(self.history)
            self.curves.update(self.history)
            row = self.history[-1]
            self.bar.clear()  # or the line would stand in it
            print(
                f"epoch {row['epoch']}/{self.task.stream.epochs}: train loss {row['train_loss']:.3f}, top-1 "
                f"{row['train_top1']:.1%}; validation loss {row['val_loss']:.3f}, top-1 {row['val_top1']:.1%}",
                flush=True,
            )

    def on_exception(self, trainer: pl.Trainer, module: pl.LightningModule, exception: BaseException) -> None:
        if trainer.is_global_zero:
            if hasattr(self, "bar"):
                self.bar.close()
            print(f"{self.task.name}: the next run starts with epoch {self.saved + 1}", flush=True)

    def state_dict(self) -> dict[str, Any]:
        return {"history": self.history, "best_weights": self.best_weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.history, self.best_weights = state["history"], state["best_weights"]
        self.saved = len(self.history)


def _fit(
    task: Task, module: _Module, epochs: _Epochs, workers: int, arithmetic: Arithmetic, processes: Processes
) -> None:
    stream = task.stream
    batch_size = stream.batch_size // processes.total
    budget = int(_STORE_SHARE * available_memory() / processes.per_node)
    open_clip = opener(stream.input, frame_store([example.path for example in task.train + task.val], budget))
    views = TrainingViews(task.train, stream.sampling, stream.augment, stream.size, task.seed, stream.demean, open_clip)
    # The epoch comes from the history: Lightning's own counter is set later after a resumption.
    shares = class_weights(_labels(task), len(task.classes))[_labels(task)] if stream.balance == "sampler" else None
    sampler = EpochSampler(len(task.train), task.seed, lambda: len(epochs.history), shares)
    train = make_loader(views, batch_size, workers, sampler)
    middles = ValidationViews(task.val, stream.sampling, stream.size, stream.demean, open_clip)
    val = make_loader(middles, batch_size, workers, SharedSampler(len(task.val)))
    trainer = pl.Trainer(
        max_epochs=stream.epochs,
        accelerator=arithmetic.device,
        devices=processes.per_node,
        num_nodes=processes.nodes,
        strategy="ddp" if processes.total > 1 else "auto",
        plugins=None if by_torchrun() else LightningEnvironment(),  # or it takes the tasks of a Slurm job for its own
        precision=arithmetic.precision,  # type: ignore[arg-type]
        deterministic="warn",
        gradient_clip_val=stream.clip_grad or None,
        callbacks=[epochs],
        enable_checkpointing=True,
        enable_model_summary=False,
        enable_progress_bar=False,
        logger=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )
    resume = str(epochs.path) if epochs.history else None
    trainer.fit(module, train, val, ckpt_path=resume, weights_only=True)


def _quiet_lightning() -> None:
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # tips and lists of devices
    warnings.filterwarnings("ignore", message=r".*isinstance\(treespec, LeafSpec\)")  # its own use of torch
    warnings.filterwarnings("ignore", message="The `srun` command is available")  # torchrun starts several processes
    warnings.filterwarnings("ignore", message=r"Found \d+ module\(s\) in eval mode")  # frozen batch norms, as intended


def _weights_bytes(weights: dict[str, torch.Tensor]) -> bytes:
    # Saved to memory first: the archive that torch.save writes to a file holds that file's name.
    buffer = io.BytesIO()
    torch.save(weights, buffer)
    return buffer.getvalue()
