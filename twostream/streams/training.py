"""Train one stream: find a finished training in the cache, or run one and write its model folder.

Nothing here imports torch or Lightning before it is known that there is something to train.
"""

from __future__ import annotations

import json
import os
import shutil
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from twostream.clipstore import ClipReader
from twostream.core.cache import FileCache, code_digest, key_of, read_json
from twostream.core.device import device_of
from twostream.core.files import sha256_of
from twostream.core.imports import import_closure
from twostream.errors import UserError
from twostream.networks.names import network_files
from twostream.params import Runtime
from twostream.streams.task import Arithmetic, Task, best_epoch
from twostream.views.examples import Example

MODEL_FILES = ("model.pt", "history.json", "config.json")
_CURVES = ("train_loss", "train_top1", "val_loss", "val_top1")


def train_stream(task: Task, cache: FileCache, runtime: Runtime, model_dir: Path, curves_dir: Path) -> None:
    """Train a stream and write its model folder and its DVCLive curves.

    Args:
        task: what to train, and on what.
        cache: keeps the state after each epoch until the run has finished, and the finished model.
        model_dir: gets `model.pt` (weights of the best epoch), `config.json` (all that prediction needs) and
            `history.json` (loss and top-1 of every epoch).
        curves_dir: gets DVCLive's `metrics.json` and `plots/`.

    Raises:
        UserError: the stream's parameters do not fit its modality or network, or its batch the number of GPUs.
    """
    if task.stream.demean and task.modality != "flow":
        raise UserError(
            f"streams.{task.name}.demean: removes camera motion from flow, but this stream reads rgb; set it to false"
        )
    arithmetic = _arithmetic(task, runtime)
    key = _key(task, arithmetic)
    curves = Curves(curves_dir)
    if _serve(cache, key, model_dir) or (_adopt(cache, key, model_dir) and _serve(cache, key, model_dir)):
        print(f"{task.name}: finished before, nothing to train", flush=True)
        curves.update(json.loads((model_dir / "history.json").read_text()))
        return
    from twostream.streams.fitting import fit

    state = _state(cache, key)
    trained = fit(task, state, curves, runtime.workers, arithmetic)
    if trained is None:
        return
    best = best_epoch(trained.history, len(task.val))
    print(f"{task.name}: best epoch {best['epoch']} of {len(trained.history)}, {best['val_top1']:.1%} on validation")
    contents = (trained.weights, _json(trained.history), _json(_config(task, key, trained.normalisation)))
    for name, content in zip(MODEL_FILES, contents, strict=True):
        cache.make(f"{key}-{name}", model_dir / name, partial(_write, content))
    shutil.rmtree(state.parent, ignore_errors=True)


def finished_epochs(task: Task, cache: FileCache, runtime: Runtime, model_dir: Path) -> int | None:
    """Return after which epoch :func:`train_stream` would go on, 0 for the start; None if there is nothing to train."""
    key = _key(task, _arithmetic(task, runtime))
    if all(cache.has(f"{key}-{name}") for name in MODEL_FILES) or _pulled(cache, key, model_dir):
        return None
    if not _state(cache, key).is_file():
        return 0
    import torch

    return 1 + torch.load(_state(cache, key), map_location="cpu", weights_only=True, mmap=True)["epoch"]


def _state(cache: FileCache, key: str) -> Path:
    return cache.root / "training" / key / "last.ckpt"


def _serve(cache: FileCache, key: str, model_dir: Path) -> bool:
    return all(cache.serve(f"{key}-{name}", model_dir / name) for name in MODEL_FILES)


def _adopt(cache: FileCache, key: str, model_dir: Path) -> bool:
    """Record in the cache a model that DVC pulled from another machine, and return whether it is this training's."""
    pulled = _pulled(cache, key, model_dir)
    for name, stored in pulled.items():
        cache.record(f"{key}-{name}", stored)
    return bool(pulled)


def _pulled(cache: FileCache, key: str, model_dir: Path) -> dict[str, Path]:
    """Return the files of a model that DVC pulled from another machine; none if it is not this training's."""
    recorded = cache.recorded(model_dir)
    config = read_json(recorded.get("config.json"))
    if not isinstance(config, dict) or config.get("key") != key or not set(MODEL_FILES) <= set(recorded):
        return {}
    return {name: recorded[name] for name in MODEL_FILES}


class Curves:
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


def _arithmetic(task: Task, runtime: Runtime) -> Arithmetic:
    device, wanted = device_of(runtime.accelerator), task.precision
    if device == "cpu":
        devices = 1
    else:
        import torch

        devices = runtime.devices or torch.cuda.device_count()
    if wanted == "auto":
        wanted = "bf16" if device == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False) else "32"
    if task.stream.batch_size % devices:
        raise UserError(
            f"streams.{task.name}.batch_size: {task.stream.batch_size} clips cannot be divided among {devices} GPUs; "
            "choose a multiple, or set runtime.devices"
        )
    return Arithmetic(device, devices, {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}[wanted])


def _key(task: Task, arithmetic: Arithmetic) -> str:
    """Return what the result follows from: parameters, data, code and the kind of arithmetic."""
    weights = task.stream.weights
    files = [Path(__file__).with_name("fitting.py"), *network_files(task.stream.model, weights)]
    return key_of(
        name=task.name,
        stream=task.stream.model_dump(),
        classes=task.classes,
        seed=task.seed,
        compile=task.compile,
        arithmetic=arithmetic,
        torch=version("torch"),
        weights=sha256_of(weights) if os.path.isfile(weights) else weights,
        code=code_digest(*import_closure(files)),
        train=[_content(example) for example in task.train],
        val=[_content(example) for example in task.val],
    )


def _content(example: Example) -> list[Any]:
    with ClipReader(example.path) as clip:
        return [example.label, clip.digest()]


def _config(task: Task, key: str, normalisation: dict[str, list[float]]) -> dict[str, Any]:
    from twostream.networks.registry import weights_source

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
        "normalisation": normalisation,
        "extraction": extraction,
        "key": key,
    }


def _write(content: bytes, path: Path) -> None:
    path.write_bytes(content)


def _json(values: Any) -> bytes:
    return (json.dumps(values, indent=1, ensure_ascii=False) + "\n").encode()
