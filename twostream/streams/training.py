"""Train one stream: Lightning's loop with curves, the best epoch on validation, and resumption after each epoch.

A killed run continues after its last finished epoch and ends with the same bytes as an undisturbed one, because no
random state outlives a step: views and their order follow from (seed, epoch), dropout and mixup from (seed, step).
"""

from __future__ import annotations

import io
import json
import logging
import math
import os
import shutil
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.callbacks import Checkpoint
from torch.nn import functional

import twostream
from twostream.clipstore import ClipReader
from twostream.core.allocator import available_memory, keep_freed_memory
from twostream.core.cache import FileCache, code_digest, key_of
from twostream.core.files import sha256_of
from twostream.core.parallel import progress
from twostream.errors import UserError
from twostream.networks.pretrained import weights_source
from twostream.networks.registry import SegmentConsensus
from twostream.params import Runtime, Stream
from twostream.streams.network import build_network
from twostream.views.frame_store import frame_store
from twostream.views.loading import EpochSampler, Example, TrainingViews, ValidationViews, make_loader, normalise

MODEL_FILES = ("model.pt", "history.json", "config.json")
_CURVES = ("train_loss", "train_top1", "val_loss", "val_top1")
_STORE_SHARE = 0.25  # of the available memory: loaders and the network need the rest


@dataclass(frozen=True)
class Task:
    """Everything that the result of one training run follows from: the stream, its data, `train.precision`, ..."""

    name: str
    modality: str
    stream: Stream
    classes: list[str]
    train: list[Example]
    val: list[Example]
    seed: int
    precision: str
    compile: bool = False


def train_stream(task: Task, cache: FileCache, runtime: Runtime, model_dir: Path, curves_dir: Path) -> None:
    """Train a stream and write its model folder and its DVCLive curves.

    Args:
        task: what to train, and on what.
        cache: keeps the state after each epoch until the run has finished, and the finished model.
        model_dir: gets `model.pt` (weights of the best epoch), `config.json` (all that prediction needs) and
            `history.json` (loss and top-1 of every epoch).
        curves_dir: gets DVCLive's `metrics.json` and `plots/`.

    Raises:
        UserError: the stream's parameters do not fit its modality or network.
    """
    if task.stream.demean and task.modality != "flow":
        raise UserError(
            f"streams.{task.name}.demean: removes camera motion from flow, but this stream reads rgb; set it to false"
        )
    _quiet_lightning()
    pl.seed_everything(task.seed, verbose=False)
    # Deterministic algorithms come with a debugging aid that fills new tensors with NaN, at 6 to 17 % of a CPU step.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    precision = _precision(task.precision, runtime.accelerator)
    key = _key(task, precision)
    curves = _Curves(curves_dir)
    if all(cache.serve(f"{key}-{name}", model_dir / name) for name in MODEL_FILES):
        print(f"{task.name}: finished before, nothing to train", flush=True)
        curves.update(json.loads((model_dir / "history.json").read_text()))
        return
    state_dir = cache.root / "training" / key
    module = _Module(task)
    epochs = _Epochs(task, state_dir / "last.ckpt", curves)
    if not epochs.finished():
        _fit(task, module, epochs, runtime, precision)
    if not module.is_main_process:
        return
    best = epochs.best()
    print(f"{task.name}: best epoch {best['epoch']} of {len(epochs.history)}, {best['val_top1']:.1%} on validation")
    contents = (_weights_bytes(epochs.best_weights), _json(epochs.history), _json(_config(task, module.model)))
    for name, content in zip(MODEL_FILES, contents, strict=True):
        cache.make(f"{key}-{name}", model_dir / name, partial(_write, content))
    shutil.rmtree(state_dir, ignore_errors=True)


def best_epoch(history: list[dict[str, Any]], clips: int) -> dict[str, Any]:
    """Return the best epoch: the smallest validation loss among those about as accurate as the most accurate.

    On a hundred validation clips the best top-1 is luck as much as skill; the loss also sees how confident the network
    was. So an epoch counts if its top-1 is within one standard error of the best so far, and the last one to lower the
    loss of those is the best. The rule looks back only, so that it can stop a training.

    Args:
        history: epochs in order, each with `val_top1` and `val_loss`; not empty.
        clips: number of validation clips.
    """
    best, top = history[0], 0.0
    for row in history:
        top = max(top, row["val_top1"])
        floor = top - math.sqrt(top * (1 - top) / clips)
        if row["val_top1"] >= floor and (row["val_loss"] < best["val_loss"] or best["val_top1"] < floor):
            best = row
    return best


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

    def __init__(self, task: Task):
        super().__init__()
        stream = task.stream
        self.task = task
        self.model = build_network(stream, task.modality, len(task.classes), stream.weights)
        self._frozen = _frozen_layers(task, self.model)
        self.is_main_process = True
        if task.compile:
            self.model.compile()
        self.train()

    def train(self, mode: bool = True) -> _Module:
        super().train(mode)
        for layer in self._frozen:
            layer.eval()
        return self

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
        loss = functional.cross_entropy(logits, targets, label_smoothing=self.task.stream.label_smoothing)
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


def _frozen_layers(task: Task, model: torch.nn.Module) -> Sequence[torch.nn.Module]:
    """Return the batch norms that keep the statistics they were loaded with; their scales and shifts still learn.

    Partial, as in Wang et al. 2016, section 3.2: all but the first, whose input is new.
    """
    freeze = task.stream.freeze_bn
    norms = [layer for layer in model.modules() if isinstance(layer, torch.nn.modules.batchnorm._BatchNorm)]
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

    def __init__(self, task: Task, path: Path, curves: _Curves):
        self.task, self.path, self.curves = task, path, curves
        self.history: list[dict[str, Any]] = []
        self.best_weights: dict[str, torch.Tensor] = {}
        if path.is_file():
            state = torch.load(path, map_location="cpu", weights_only=True)
            self.load_state_dict(state["callbacks"][self.state_key])
            curves.update(self.history)
            print(f"{task.name}: going on after epoch {len(self.history)}", flush=True)

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
            self.curves.update(self.history)
            row = self.history[-1]
            self.bar.clear()  # or the line would stand in it
            print(
                f"epoch {row['epoch']}/{self.task.stream.epochs}: train loss {row['train_loss']:.3f}, top-1 "
                f"{row['train_top1']:.1%}; validation loss {row['val_loss']:.3f}, top-1 {row['val_top1']:.1%}",
                flush=True,
            )

    def state_dict(self) -> dict[str, Any]:
        return {"history": self.history, "best_weights": self.best_weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.history, self.best_weights = state["history"], state["best_weights"]


class _Curves:
    """The training curves on disk, as DVCLive writes them: one step per epoch."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._live: Any = None

    def update(self, history: list[dict[str, Any]]) -> None:
        """Write the epochs of a history that are not written yet; of several processes only the first one does."""
        if os.environ.get("LOCAL_RANK", "0") != "0":
            return
        if self._live is None:
            from dvclive import Live

            self._live = Live(str(self._folder), dvcyaml=False, save_dvc_exp=False, report=None, monitor_system=False)
        for row in history[self._live.step :]:
            for name in _CURVES:
                self._live.log_metric(name.replace("_", "/"), row[name])
            self._live.next_step()


def _fit(task: Task, module: _Module, epochs: _Epochs, runtime: Runtime, precision: str) -> None:
    stream = task.stream
    devices = _devices(runtime)
    budget = int(_STORE_SHARE * available_memory() / devices)
    open_clip = frame_store([example.path for example in task.train + task.val], budget)
    views = TrainingViews(task.train, stream.sampling, stream.augment, stream.size, task.seed, stream.demean, open_clip)
    # The epoch comes from the history: Lightning's own counter is set later after a resumption.
    sampler = EpochSampler(len(task.train), task.seed, lambda: len(epochs.history))
    train = make_loader(views, stream.batch_size, runtime.workers, sampler)
    middles = ValidationViews(task.val, stream.sampling, stream.size, stream.demean, open_clip)
    val = make_loader(middles, stream.batch_size, runtime.workers)
    trainer = pl.Trainer(
        max_epochs=stream.epochs,
        accelerator=runtime.accelerator,
        devices=devices,
        precision=precision,  # type: ignore[arg-type]
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
    module.is_main_process = trainer.is_global_zero


def _quiet_lightning() -> None:
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # tips and lists of devices
    warnings.filterwarnings("ignore", message=r".*isinstance\(treespec, LeafSpec\)")  # its own use of torch
    warnings.filterwarnings("ignore", message=r"Found \d+ module\(s\) in eval mode")  # frozen batch norms, as intended


def _precision(wanted: str, accelerator: str) -> str:
    if wanted != "auto":
        return {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}[wanted]
    on_gpu = accelerator != "cpu" and torch.cuda.is_available()
    return "bf16-mixed" if on_gpu and torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"


def _devices(runtime: Runtime) -> int:
    if runtime.accelerator == "cpu" or not torch.cuda.is_available():
        return 1
    return runtime.devices or torch.cuda.device_count()


def _key(task: Task, precision: str) -> str:
    """Return what the result follows from: parameters, data, code and the machine's kind of arithmetic."""
    package = Path(twostream.__file__).parent
    files = [package / "clipstore/__init__.py", package / "streams/training.py", package / "streams/network.py"]
    for room in ("views", "networks"):
        files += sorted((package / room).glob("*.py"))
    weights = task.stream.weights
    return key_of(
        name=task.name,
        stream=task.stream.model_dump(),
        classes=task.classes,
        seed=task.seed,
        precision=precision,
        compile=task.compile,
        cuda=torch.cuda.is_available(),
        torch=torch.__version__,
        threads=torch.get_num_threads(),
        weights=sha256_of(weights) if os.path.isfile(weights) else weights,
        code=code_digest(*files),
        train=[_fingerprint(example) for example in task.train],
        val=[_fingerprint(example) for example in task.val],
    )


def _fingerprint(example: Example) -> list[Any]:
    with ClipReader(example.path) as clip:
        return [example.clip_id, example.label, clip.meta]


def _config(task: Task, model: SegmentConsensus) -> dict[str, Any]:
    with ClipReader(task.train[0].path) as clip:
        extraction = clip.meta["settings"]
    source = weights_source(task.stream.model, task.stream.weights)
    return {
        "stream": task.name,
        "modality": task.modality,
        "weights": source["weights"],
        "weights_sha256": source["sha256"],
        "classes": task.classes,
        **task.stream.model_dump(include={"model", "size", "dropout", "sampling", "demean"}),
        "normalisation": model.normalisation,
        "extraction": extraction,
    }


def _write(content: bytes, path: Path) -> None:
    path.write_bytes(content)


def _json(values: Any) -> bytes:
    return (json.dumps(values, indent=1, ensure_ascii=False) + "\n").encode()


def _weights_bytes(weights: dict[str, torch.Tensor]) -> bytes:
    # Saved to memory first: the archive that torch.save writes to a file holds that file's name.
    buffer = io.BytesIO()
    torch.save(weights, buffer)
    return buffer.getvalue()
