"""Training one stream: Lightning's loop with the best epoch on validation, curves, and resumption after the last epoch.

A killed run goes on after its last finished epoch and ends with the same bytes as an undisturbed one, because nothing
random outlives a step: views and order follow from (seed, epoch), dropout and mixup from (seed, step).
"""

from __future__ import annotations

import copy
import io
import json
import logging
import math
import os
import shutil
import warnings
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.callbacks import Checkpoint
from torch.nn import functional
from torch.optim.swa_utils import get_ema_multi_avg_fn

import twostream
from twostream.clipstore import ClipReader
from twostream.core.allocator import keep_freed_memory
from twostream.core.cache import FileCache, code_digest, key_of
from twostream.core.files import sha256_of
from twostream.errors import UserError
from twostream.networks.pretrained import weights_source
from twostream.networks.registry import create_model
from twostream.params import Runtime, Stream
from twostream.views.gpu_decode import EncodedViews, make_views
from twostream.views.loading import EpochSampler, Example, TrainingViews, ValidationViews, make_loader, normalise

MODEL_FILES = ("model.pt", "history.json", "config.json")


@dataclass(frozen=True)
class Task:
    """What one training run is: the stream, its data and everything else that its result follows from.

    The last three are the parameters `train.precision`, `train.decode` and `train.compile`.
    """

    name: str
    modality: str
    stream: Stream
    classes: list[str]
    train: list[Example]
    val: list[Example]
    seed: int
    precision: str
    decode: str = "cpu"
    compile: bool = False


def train_stream(task: Task, cache: FileCache, runtime: Runtime, model_dir: Path, curves_dir: Path) -> None:
    """Train a stream and write its model folder and its DVCLive curves.

    Args:
        task: what to train on what.
        cache: keeps the state after each epoch until the run is finished, and the finished weights.
        model_dir: gets `model.pt` (weights of the best epoch), `config.json` (all that prediction needs) and
            `history.json` (loss and top-1 of every epoch).
        curves_dir: gets DVCLive's `metrics.json` and `plots/`.

    Raises:
        UserError: a switch of the recipe asks for what the stream's modality or network does not have.
    """
    if task.stream.demean and task.modality != "flow":
        raise UserError(
            f"streams.{task.name}.demean: takes motion out of flow, and this stream reads rgb; set it to false"
        )
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # its tips and device lists
    warnings.filterwarnings("ignore", message=r".*isinstance\(treespec, LeafSpec\)")  # its own use of torch
    warnings.filterwarnings("ignore", message=r"Found \d+ module\(s\) in eval mode")  # frozen batch norms, as wanted
    pl.seed_everything(task.seed, verbose=False)
    precision = _precision(task.precision, runtime.accelerator)
    key = _key(task, precision)
    state_dir = cache.root / "training" / key
    curves = Curves(curves_dir)
    if all(cache.serve(f"{key}-{name}", model_dir / name) for name in MODEL_FILES):
        print(f"{task.name}: finished before, nothing to train", flush=True)
        curves.show(json.loads((model_dir / "history.json").read_text()))
        return
    module = _Module(task)
    progress = _Progress(task.stream, len(task.val), state_dir / "last.ckpt", curves)
    _fit(task, module, progress, runtime, precision)
    if not progress.is_main:
        return
    best = progress.best()
    print(f"{task.name}: kept epoch {best['epoch']} of {len(progress.history)}, {best['val_top1']:.1%} on validation")
    contents = (_weights_bytes(progress.best_weights), _json(progress.history), _json(_config(task, module.model)))
    for name, content in zip(MODEL_FILES, contents, strict=True):
        cache.make(f"{key}-{name}", model_dir / name, partial(Path.write_bytes, data=content))
    shutil.rmtree(state_dir, ignore_errors=True)


def create_model_for(task: Task) -> torch.nn.Module:
    """The task's network with its starting weights, drawn from the global seed where there are none."""
    stream = task.stream
    return create_model(
        stream.model,
        modality=task.modality,
        classes=len(task.classes),
        frames=stream.sampling.frames,
        dropout=stream.dropout,
        weights=stream.weights,
        input_size=stream.size,
    )


def best_epoch(history: list[dict[str, Any]], clips: int) -> dict[str, Any]:
    """The epoch to keep: the smallest validation loss among those about as accurate as the most accurate.

    On a hundred validation clips the best top-1 is luck as much as skill; the loss, which also sees how sure the
    network was, tells apart what top-1 cannot. So an epoch counts if its top-1 is within one standard error of the best
    so far, and the last one to lower the loss of those is kept. The rule looks back only, as training must.

    Args:
        history: epochs in order, each with `val_top1` and `val_loss`; not empty.
        clips: number of validation clips.
    """
    kept, top = history[0], 0.0
    for row in history:
        top = max(top, row["val_top1"])
        floor = top - math.sqrt(top * (1 - top) / clips)
        if row["val_top1"] >= floor and (row["val_loss"] < kept["val_loss"] or kept["val_top1"] < floor):
            kept = row
    return kept


class Curves:
    """The training curves on disk, as DVCLive writes them: one step an epoch."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._live: Any = None

    def show(self, history: list[dict[str, Any]]) -> None:
        """Write the epochs of a history that are not yet written; of several processes only the first one does."""
        if os.environ.get("LOCAL_RANK", "0") != "0":
            return
        if self._live is None:
            from dvclive import Live

            self._live = Live(str(self._folder), dvcyaml=False, save_dvc_exp=False, report=None, monitor_system=False)
        for row in history[self._live.step :]:
            for name in ("train_loss", "train_top1", "val_loss", "val_top1"):
                subset, metric = name.split("_")
                self._live.log_metric(f"{subset}/{metric}", row[name])
            self._live.next_step()


def draw_mixup(alpha: float, clips: int, *seed: int) -> tuple[float, torch.Tensor]:
    """How a batch is mixed (Zhang et al. 2018, algorithm 1): clip i becomes `part * i + (1 - part) * partners[i]`.

    Args:
        alpha: the part is drawn from Beta(alpha, alpha), once a batch.
        clips: number of clips in the batch.
        seed: what the draw follows from.

    Returns:
        The part, from 0 to 1, and the partners, an int64 permutation [clips].
    """
    rng = np.random.default_rng((*seed, 1))  # the 1: apart from what views draw from (seed, epoch, clip)
    return float(rng.beta(alpha, alpha)), torch.from_numpy(rng.permutation(clips))


@torch.no_grad()
def update_average(average: torch.nn.Module, network: torch.nn.Module, decay: float, steps: int) -> None:
    """One step of an exponential running average of a network's parameters and floating-point buffers, in place.

    After n steps it is `sum(decay ** (n - i) * w_i) * (1 - decay) / (1 - decay ** n)` of the weights w_1 to w_n after
    each: without the starting weights, by the correction of Kingma & Ba 2015, section 3, so that a short training is
    averaged too. Counters are copied.

    Args:
        steps: n, this step counted.
    """
    rate = (1 - decay) / (1 - decay**steps)
    pairs = list(zip(average.state_dict().values(), network.state_dict().values(), strict=True))
    floats = [(kept, now) for kept, now in pairs if kept.is_floating_point()]
    get_ema_multi_avg_fn(1 - rate)(*map(list, zip(*floats, strict=True)), None)
    for kept, now in pairs:
        if not kept.is_floating_point():
            kept.copy_(now)


class _Module(pl.LightningModule):
    """Cross-entropy on the mean logits over segments; the learning rate warms up, then stays or follows a cosine.

    `average` is the running average of `model` where the recipe wants one: it is then what validation sees and what
    is kept, and being a part of the module it is in the state to resume from.
    """

    def __init__(self, task: Task):
        super().__init__()
        self.task = task
        self.model = create_model_for(task)
        self.average = copy.deepcopy(self.model).requires_grad_(False) if task.stream.ema else None
        self._frozen = _frozen_layers(task, self.model)
        if task.compile:
            self.model.compile()
        self.train()

    @property
    def kept(self) -> torch.nn.Module:
        """The network that is validated and kept."""
        return self.model if self.average is None else self.average

    def train(self, mode: bool = True) -> _Module:
        super().train(mode)
        for layer in self._frozen:
            layer.eval()
        return self

    def on_after_batch_transfer(self, batch: tuple[Any, torch.Tensor], _: int) -> tuple[torch.Tensor, torch.Tensor]:
        views, labels = batch
        return (make_views(views, self.device) if isinstance(views, EncodedViews) else views), labels

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], _: int) -> torch.Tensor:
        views, labels = batch
        inputs = normalise(views, **self.model.normalisation)
        targets = [(1.0, labels)]
        if self.task.stream.mixup:
            step = self.trainer.global_step
            part, partners = draw_mixup(self.task.stream.mixup, len(labels), self.task.seed, step, self.global_rank)
            partners = partners.to(labels.device)
            inputs = part * inputs + (1 - part) * inputs[partners]
            targets = [(part, labels), (1 - part, labels[partners])]
        return self._loss(self.model(inputs), targets, "train", self.task.stream.label_smoothing)

    def validation_step(self, batch: tuple[torch.Tensor, torch.Tensor], _: int) -> None:
        views, labels = batch
        self._loss(self.kept(normalise(views, **self.model.normalisation)), [(1.0, labels)], "val", 0.0)

    def _loss(
        self, logits: torch.Tensor, targets: list[tuple[float, torch.Tensor]], subset: str, smoothing: float
    ) -> torch.Tensor:
        loss = sum(
            part * functional.cross_entropy(logits, labels, label_smoothing=smoothing) for part, labels in targets
        )
        top1 = sum(part * (logits.argmax(1) == labels).float().mean() for part, labels in targets)
        values = {f"{subset}_loss": loss, f"{subset}_top1": top1}
        self.log_dict(values, on_step=False, on_epoch=True, batch_size=len(logits), sync_dist=True)
        return loss

    def on_train_batch_start(self, *_: Any) -> None:
        # Dropout then goes on after a resumption as it would have without the interruption. Every step, not every
        # epoch, since loaders draw from the same generator when they start, which is at another moment then.
        torch.manual_seed((self.task.seed * 1_000_003 + self.trainer.global_step) * 1024 + self.global_rank)

    def on_train_batch_end(self, _outputs: Any, _batch: Any, number: int) -> None:
        if number == 0 and self.device.type == "cpu":
            keep_freed_memory()  # now that a step has shown how much it takes
        if self.average is not None:
            update_average(self.average, self.model, self.task.stream.ema, self.trainer.global_step)

    def configure_optimizers(self) -> dict[str, Any]:
        stream = self.task.stream
        kinds = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}
        momentum = {"momentum": 0.9, "nesterov": True} if stream.optimizer == "sgd" else {}
        groups = _parameter_groups(self.model, stream)
        optimizer = kinds[stream.optimizer](groups, lr=stream.lr, weight_decay=stream.weight_decay, **momentum)
        steps = max(1, int(self.trainer.estimated_stepping_batches) // stream.epochs)
        warmup, total = stream.warmup_epochs * steps, stream.epochs * steps

        def factor(step: int) -> float:
            if step < warmup:
                return (step + 1) / warmup
            if stream.schedule == "constant":
                return 1.0
            done = (step - warmup) / max(1, total - warmup)
            return 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def _frozen_layers(task: Task, model: torch.nn.Module) -> list[torch.nn.Module]:
    """The batch norms that use and keep the statistics they were loaded with; their scales and shifts still learn.

    Partial, as in Wang et al. 2016, section 3.2: all but the first, whose input is the one that is new.
    """
    freeze = task.stream.freeze_bn
    norms = [layer for layer in model.modules() if isinstance(layer, torch.nn.modules.batchnorm._BatchNorm)]
    if freeze != "none" and not norms:
        raise UserError(
            f"streams.{task.name}.freeze_bn: {task.stream.model} has no batch norm to freeze; set it to none"
        )
    return {"none": [], "partial": norms[1:], "all": norms}[freeze]


def _parameter_groups(model: torch.nn.Module, stream: Stream) -> list[dict[str, Any]]:
    """The optimizer's groups: loaded layers at `lr`, new ones at `lr_new` times it; one group where all are alike."""
    new = set(model.new_parameters) if stream.lr_new != 1 else set()
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    loaded = {"params": [parameter for name, parameter in named if name not in new]}
    fresh = {"params": [parameter for name, parameter in named if name in new], "lr": stream.lr * stream.lr_new}
    return [group for group in (loaded, fresh) if group["params"]]


class _Progress(Checkpoint):
    """After each epoch: keep the best weights, write the state to resume from, draw the curves, stop when it is time.

    A Checkpoint, since Lightning calls those after all other callbacks of an epoch's end.
    """

    def __init__(self, stream: Stream, val_clips: int, path: Path, curves: Curves):
        self.stream, self.val_clips, self.path, self.curves = stream, val_clips, path, curves
        self.history: list[dict[str, Any]] = []
        self.best_weights: dict[str, torch.Tensor] = {}
        self.is_main = True

    def best(self) -> dict[str, Any]:
        """The epoch whose weights are kept, see :func:`best_epoch`."""
        return best_epoch(self.history, self.val_clips)

    def finished(self) -> bool:
        epochs = len(self.history)
        return bool(epochs) and (epochs >= self.stream.epochs or epochs - self.best()["epoch"] >= self.stream.patience)

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        values = {name: round(float(value), 6) for name, value in trainer.callback_metrics.items()}
        self.history.append({"epoch": trainer.current_epoch + 1, **values})
        if self.best() is self.history[-1]:
            weights = module.kept.state_dict()
            self.best_weights = {name: value.detach().cpu().clone() for name, value in weights.items()}
        trainer.should_stop = self.finished()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        beside = self.path.with_suffix(".part")
        trainer.save_checkpoint(beside, weights_only=False)
        if trainer.is_global_zero:
            os.replace(beside, self.path)
            self.curves.show(self.history)
            row = self.history[-1]
            print(
                f"epoch {row['epoch']}/{self.stream.epochs}: train loss {row['train_loss']:.3f}, top-1 "
                f"{row['train_top1']:.1%}; validation loss {row['val_loss']:.3f}, top-1 {row['val_top1']:.1%}",
                flush=True,
            )

    def state_dict(self) -> dict[str, Any]:
        return {"history": self.history, "best_weights": self.best_weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.history, self.best_weights = state["history"], state["best_weights"]


def _fit(task: Task, module: _Module, progress: _Progress, runtime: Runtime, precision: str) -> None:
    stream = task.stream
    resume = None
    if progress.path.is_file():
        state = torch.load(progress.path, map_location="cpu", weights_only=True)
        progress.load_state_dict(state["callbacks"][progress.state_key])
        progress.curves.show(progress.history)
        print(f"{task.name}: going on after epoch {len(progress.history)}", flush=True)
        if progress.finished():
            return
        resume = str(progress.path)
    sampler = EpochSampler(len(task.train), task.seed, lambda: len(progress.history))
    encoded = task.decode == "device"
    views = TrainingViews(task.train, stream.sampling, stream.augment, stream.size, task.seed, stream.demean, encoded)
    train = make_loader(views, stream.batch_size, runtime.workers, sampler)
    middles = ValidationViews(task.val, stream.sampling, stream.size, stream.demean)
    val = make_loader(middles, stream.batch_size, runtime.workers)
    trainer = pl.Trainer(
        max_epochs=stream.epochs,
        accelerator=runtime.accelerator,
        devices=_devices(runtime),
        precision=precision,
        deterministic="warn",
        gradient_clip_val=stream.clip_grad or None,
        callbacks=[progress],
        enable_checkpointing=True,
        enable_model_summary=False,
        enable_progress_bar=False,
        logger=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )
    trainer.fit(module, train, val, ckpt_path=resume, weights_only=True)
    progress.is_main = trainer.is_global_zero


def _precision(wanted: str, accelerator: str) -> str:
    if wanted != "auto":
        return {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}[wanted]
    on_gpu = accelerator != "cpu" and torch.cuda.is_available()
    return "bf16-mixed" if on_gpu and torch.cuda.is_bf16_supported() else "32-true"


def _devices(runtime: Runtime) -> int | str:
    if runtime.accelerator == "cpu" or not torch.cuda.is_available():
        return 1
    return runtime.devices or "auto"


def _key(task: Task, precision: str) -> str:
    """What the result follows from: parameters, data, code and the machine's kind of arithmetic."""
    package = Path(twostream.__file__).parent
    files = ["streams/training.py", "views/loading.py", "views/sampling.py", "views/transforms.py", "views/jpeg.py"]
    files += ["clipstore/__init__.py", "flow/simd.py"]
    files += ["views/gpu_decode.py"] if task.decode == "device" else []
    files += [f"networks/{name}" for name in sorted(os.listdir(package / "networks")) if name.endswith(".py")]
    weights = task.stream.weights
    return key_of(
        name=task.name,
        stream=task.stream.model_dump(),
        classes=task.classes,
        seed=task.seed,
        precision=precision,
        decode=[task.decode, version("torchvision") if task.decode == "device" else ""],
        compile=task.compile,
        cuda=torch.cuda.is_available(),
        torch=torch.__version__,
        threads=torch.get_num_threads(),
        weights=sha256_of(weights) if os.path.isfile(weights) else weights,
        code=code_digest(*(package / file for file in files)),
        train=[_fingerprint(example) for example in task.train],
        val=[_fingerprint(example) for example in task.val],
    )


def _fingerprint(example: Example) -> list[Any]:
    with ClipReader(example.path) as clip:
        return [example.clip_id, example.label, clip.meta]


def _config(task: Task, model: torch.nn.Module) -> dict[str, Any]:
    with ClipReader(task.train[0].path) as clip:
        extraction = clip.meta["settings"]
    source = weights_source(task.stream.model, task.stream.weights)
    return {
        "stream": task.name,
        "modality": task.modality,
        "model": task.stream.model,
        "weights": source["weights"],
        "weights_sha256": source["sha256"],
        "classes": task.classes,
        "size": task.stream.size,
        "dropout": task.stream.dropout,
        "sampling": task.stream.sampling.model_dump(),
        "demean": task.stream.demean,
        "normalisation": model.normalisation,
        "extraction": extraction,
    }


def _json(values: Any) -> bytes:
    return (json.dumps(values, indent=1, ensure_ascii=False) + "\n").encode()


def _weights_bytes(weights: dict[str, torch.Tensor]) -> bytes:
    # Saved to memory first: the archive that torch.save writes to a file holds that file's name.
    buffer = io.BytesIO()
    torch.save(weights, buffer)
    return buffer.getvalue()
