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

import numpy as np

from twostream.clipstore import ClipReader
from twostream.core.cache import FileCache, code_digest, key_of, read_json
from twostream.core.device import device_of
from twostream.core.files import is_intact
from twostream.core.imports import import_closure
from twostream.errors import UserError
from twostream.networks.names import CHANNELS, HF, module_of, network_files
from twostream.params import Runtime
from twostream.streams.config import HEAD_FILE, OUT_OF_FOLD_FILE
from twostream.streams.features import FrozenStream, weights_identity
from twostream.streams.rows import content_of
from twostream.streams.task import Arithmetic, Processes, Task, best_epoch, by_torchrun, is_first_process
from twostream.views.examples import Example

MODEL_FILES = ("model.pt", "history.json", "config.json")
_CURVES = ("train_loss", "train_top1", "val_loss", "val_top1")


def train_stream(task: Task, cache: FileCache, runtime: Runtime, model_dir: Path, curves_dir: Path) -> None:
    """Train a stream and write its model folder and its DVCLive curves.

    With `tune: head` no epoch is trained: a linear classifier is fitted to the features of a frozen network, on the
    clips of train and val together.

    Args:
        task: what to train, and on what.
        cache: keeps the state after each epoch until the run has finished, the features of a frozen network, and the
            finished model.
        model_dir: gets `model.pt` (weights of the best epoch, or of the frozen network), `config.json` (all that
            prediction needs) and `history.json` (loss and top-1 of every epoch). A head also gets `head.safetensors`
            and `out_of_fold.json`: see :mod:`twostream.streams.config`.
        curves_dir: gets DVCLive's `metrics.json` and `plots/`, and `weights.json`: the weights that were loaded, with
            their licence; none without weights.

    Raises:
        UserError: the stream's parameters do not fit its modality or network, or its batch the number of processes.
    """
    if task.stream.demean and task.modality != "flow":
        raise UserError(
            f"streams.{task.name}.demean: removes camera motion from flow, but this stream reads rgb; set it to false"
        )
    arithmetic = _arithmetic(task, runtime)
    frozen = _frozen(task, cache, runtime)
    key = _key(task, arithmetic, frozen)
    files = _model_files(key, frozen)
    curves = Curves(curves_dir)
    if _serve(cache, files, model_dir) or (_adopt(cache, key, files, model_dir) and _serve(cache, files, model_dir)):
        print(f"{task.name}: finished before, nothing to train", flush=True)
        curves.update(json.loads((model_dir / "history.json").read_text()))
    elif frozen:
        _check_flow(task)
        _train_head(task, frozen, key, cache, model_dir, curves)
    else:
        _check_flow(task)
        _train_network(task, key, cache, runtime, arithmetic, model_dir, curves)
    if task.stream.weights != "none" and (model_dir / "config.json").is_file():
        _report_weights(task, json.loads((model_dir / "config.json").read_text()), curves_dir)


def _train_network(
    task: Task, key: str, cache: FileCache, runtime: Runtime, arithmetic: Arithmetic, model_dir: Path, curves: Curves
) -> None:
    from twostream.networks.registry import weights_source
    from twostream.streams.fitting import fit

    state = _state(cache, key)
    try:
        trained = fit(task, state, curves, runtime.workers, arithmetic, _processes(task, arithmetic.device, runtime))
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise UserError(
            f"streams.{task.name}: of {len(task.train)} clips, the last batch has one, in which a batch norm of "
            f"{task.stream.model} finds one value per channel; change batch_size, or set a larger size"
        ) from None
    best = best_epoch(trained.history, len(task.val))
    print(f"{task.name}: best epoch {best['epoch']} of {len(trained.history)}, {best['val_top1']:.1%} on validation")
    source = weights_source(task.stream.model, task.stream.weights)
    config = _config(task, source, trained.normalisation, key=key)
    contents = (trained.weights, _json(trained.history), _json(config))
    _keep(cache, key, dict(zip(MODEL_FILES, contents, strict=True)), model_dir)
    shutil.rmtree(state.parent, ignore_errors=True)


def join_training(task: Task, cache: FileCache, runtime: Runtime, model_dir: Path) -> None:
    """Take part in a training that another process leads; write nothing."""
    if finished_epochs(task, cache, runtime, model_dir) is None or task.stream.tune == "head":
        return
    from twostream.streams.fitting import fit

    arithmetic = _arithmetic(task, runtime)
    state = _state(cache, _key(task, arithmetic, None))
    processes = _processes(task, arithmetic.device, runtime)
    fit(task, state, Curves(model_dir), runtime.workers, arithmetic, processes)


def _train_head(task: Task, frozen: FrozenStream, key: str, cache: FileCache, model_dir: Path, curves: Curves) -> None:
    from safetensors.numpy import save

    from twostream.streams.head import fit_head, log_loss

    examples = [*task.train, *task.val]
    features = frozen.features(examples)
    if not np.isfinite(features).all():
        raise UserError(
            f"streams.{task.name}.weights: with {task.stream.weights} {task.stream.model} gives features that are not "
            "numbers; fetch the file again, or take other weights"
        )
    labels = np.array([example.label for example in examples])
    balanced = task.stream.balance != "none"
    head = fit_head(features, labels, np.array(task.groups), len(task.classes), balanced=balanced, seed=task.seed)
    row: dict[str, Any] = {"epoch": 1}
    for subset, logits in (("train", head.logits(features)), ("val", head.out_of_fold)):
        row[f"{subset}_loss"] = round(log_loss(logits, labels), 6)
        row[f"{subset}_top1"] = round(float((logits.argmax(1) == labels).mean()), 6)
    print(
        f"{task.name}: head of shrinkage {head.shrinkage:g}, {row['val_top1']:.1%} out of fold on {len(labels)} clips"
    )
    curves.update([row])
    logits_of = dict(zip(map(content_of, examples), head.out_of_fold.astype(float).round(6).tolist(), strict=True))
    contents = {
        "history.json": _json([{**row, "shrinkage": head.shrinkage}]),
        "config.json": _json(_config(task, **frozen.facts(), key=key, features=frozen.key, mirrored=frozen.mirrored)),
        HEAD_FILE: save({"weight": head.weight, "bias": head.bias}),
        OUT_OF_FOLD_FILE: json.dumps(logits_of).encode(),
    }
    _keep(cache, key, contents, model_dir)
    frozen.write_body(model_dir / "model.pt")


def _check_flow(task: Task) -> None:
    """Compare the flow that a stream's weights were trained on, where this is known, with the flow that it reads.

    It is known from the `config.json` beside a file from a model folder, and of I3D's published weights for flow.

    Raises:
        UserError: other `flow.bound`. Another method is a warning.
    """
    file = Path(task.stream.weights)
    if task.modality != "flow" or not file.is_file():
        return
    config = read_json(file.with_name("config.json")) or {}
    known = config.get("extraction", {}) if config.get("modality") == "flow" else {}
    if not config and module_of(task.stream.model) == "i3d":
        from twostream.networks.i3d import FLOW
        from twostream.networks.weight_files import read_weights

        kernels = [value for value in read_weights(file).values() if value.ndim == 5]
        known = FLOW if kernels and kernels[0].shape[1] == CHANNELS["flow"] else {}
    with ClipReader(task.train[0].path) as clip:
        own = clip.meta["settings"]
    what = f"streams.{task.name}.weights: {file} was trained on flow"
    if "bound" in known and known["bound"] != own["bound"]:
        raise UserError(
            f"{what} with bound {known['bound']:g}, and flow.bound is {own['bound']:g}, where the same code is another "
            f"motion; set flow.bound to {known['bound']:g}, or take other weights"
        )
    if "method" in known and known["method"] != own["method"]:
        print(f"WARNING: {what} of {known['method']}, and flow.method is {own['method']}: it may fit less well")


def _report_weights(task: Task, config: dict[str, Any], curves_dir: Path) -> None:
    """Print and write what weights the training started from, and their licence."""
    licence = config.get("licence")
    print(f"{task.name}: weights {config['weights']} of {config['model']}, licence: {licence or 'not stated'}")
    source = {"model": config["model"], "weights": config["weights"], "sha256": config["weights_sha256"]}
    (curves_dir / "weights.json").write_bytes(_json({**source, "licence": licence}))


def _keep(cache: FileCache, key: str, contents: dict[str, bytes], model_dir: Path) -> None:
    for name, content in contents.items():
        cache.make(f"{key}-{name}", model_dir / name, partial(_write, content))


def finished_epochs(task: Task, cache: FileCache, runtime: Runtime, model_dir: Path) -> int | None:
    """Return after which epoch :func:`train_stream` would go on, 0 for the start; None if there is nothing to train."""
    frozen = _frozen(task, cache, runtime)
    key = _key(task, _arithmetic(task, runtime), frozen)
    files = _model_files(key, frozen)
    if all(map(cache.has, files.values())) or _pulled(cache, key, files, model_dir):
        return None
    if frozen or not is_intact(_state(cache, key)):
        return 0
    import torch

    return 1 + torch.load(_state(cache, key), map_location="cpu", weights_only=True, mmap=True)["epoch"]


def count_missing_features(task: Task, cache: FileCache, runtime: Runtime) -> int:
    """Return how many training clips the frozen network of a head has to see; 0 for a stream that is not a head."""
    frozen = _frozen(task, cache, runtime)
    return frozen.count_missing([*task.train, *task.val]) if frozen else 0


def _frozen(task: Task, cache: FileCache, runtime: Runtime) -> FrozenStream | None:
    if task.stream.tune != "head":
        return None
    return FrozenStream(task.name, task.stream, task.modality, runtime, cache)


def _model_files(key: str, frozen: FrozenStream | None) -> dict[str, str]:
    """Return the files of the model folder, each with its key in the cache; all heads share the network's file."""
    names = (*MODEL_FILES, HEAD_FILE, OUT_OF_FOLD_FILE) if frozen else MODEL_FILES
    return {name: f"{frozen.key if frozen and name == 'model.pt' else key}-{name}" for name in names}


def _state(cache: FileCache, key: str) -> Path:
    return cache.root / "training" / key / "last.ckpt"


def _serve(cache: FileCache, files: dict[str, str], model_dir: Path) -> bool:
    return all(cache.serve(key, model_dir / name) for name, key in files.items())


def _adopt(cache: FileCache, key: str, files: dict[str, str], model_dir: Path) -> bool:
    """Record in the cache a model that DVC pulled from another machine, and return whether it is this training's."""
    pulled = _pulled(cache, key, files, model_dir)
    for name, stored in pulled.items():
        cache.record(files[name], stored)
    return bool(pulled)


def _pulled(cache: FileCache, key: str, files: dict[str, str], model_dir: Path) -> dict[str, Path]:
    """Return the files of a model that DVC pulled from another machine; none if it is not this training's."""
    recorded = cache.recorded(model_dir)
    config = read_json(recorded.get("config.json"))
    if not isinstance(config, dict) or config.get("key") != key or not set(files) <= set(recorded):
        return {}
    if not is_intact(recorded["model.pt"]):  # it was damaged before DVC took it
        return {}
    return {name: recorded[name] for name in files}


class Curves:
    """The training curves on disk, as DVCLive writes them: one step per epoch."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._live: Any = None

    def update(self, history: list[dict[str, Any]]) -> None:
        """Write the epochs of a history that are not written yet; of several processes only the first one does."""
        if not is_first_process():
            return
        if self._live is None:
            from dvclive import Live

            self._live = Live(str(self._folder), dvcyaml=False, save_dvc_exp=False, report=None, monitor_system=False)
        for row in history[self._live.step :]:
            for name in _CURVES:
                self._live.log_metric(name.replace("_", "/"), row[name])
            self._live.next_step()


def _arithmetic(task: Task, runtime: Runtime) -> Arithmetic:
    device, best = device_of(runtime.accelerator), "32"
    if device == "cuda":
        from twostream.streams.gpu import has_bf16

        best = "bf16" if has_bf16() else "32"
    names = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}
    return Arithmetic(device, names[best if task.precision == "auto" else task.precision])


def _processes(task: Task, device: str, runtime: Runtime) -> Processes:
    """Return how many processes torchrun started; without it, one per GPU of `runtime.devices`, and one on a CPU.

    Raises:
        UserError: the machine has fewer GPUs than processes, or they cannot divide the batch evenly.
    """
    gpus = 0
    if device == "cuda":
        import torch

        gpus = torch.cuda.device_count()
    if by_torchrun():
        per_node = int(os.environ["LOCAL_WORLD_SIZE"])
        processes = Processes(per_node, int(os.environ["WORLD_SIZE"]) // per_node)
    else:
        processes = Processes((runtime.devices or gpus) if gpus else 1, 1)
    if gpus and processes.per_node > gpus:
        raise UserError(
            f"{processes.per_node} processes, but this machine has {gpus} GPUs; set runtime.devices to at most {gpus}, "
            "or torchrun's --nproc-per-node"
        )
    if task.stream.batch_size % processes.total:
        raise UserError(
            f"streams.{task.name}.batch_size: {task.stream.batch_size} clips cannot be divided among "
            f"{processes.total} processes; choose a multiple"
        )
    return processes


def _key(task: Task, arithmetic: Arithmetic, frozen: FrozenStream | None) -> str:
    """Return what the result follows from: parameters, data, code and the kind of arithmetic."""
    data = {subset: [_content(example) for example in getattr(task, subset)] for subset in ("train", "val")}
    if frozen:
        return key_of(
            name=task.name,
            features=frozen.key,
            balance=task.stream.balance,
            classes=task.classes,
            seed=task.seed,
            scikit_learn=version("scikit-learn"),
            code=code_digest(Path(__file__).with_name("head.py")),
            groups=np.unique(task.groups, return_inverse=True)[1].tolist(),  # renamed groups are the same
            **data,
        )
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
        weights=weights_identity(task.stream.model, weights),
        code=code_digest(*import_closure(files)),
        **data,
    )


def _content(example: Example) -> list[Any]:
    return [example.label, content_of(example)]


def _config(
    task: Task,
    source: dict[str, str | None],
    normalisation: dict[str, list[float]],
    **keys: Any,
) -> dict[str, Any]:
    more: dict[str, Any] = {"licence": source["licence"]} if source["licence"] else {}
    if task.stream.input != "frames":
        more["input"] = task.stream.input
    if task.stream.model.startswith(HF):
        from twostream.networks.huggingface import architecture

        more["architecture"] = architecture(task.stream.model)
    with ClipReader(task.train[0].path) as clip:
        extraction = clip.meta["settings"]
    return {
        "stream": task.name,
        "modality": task.modality,
        "weights": source["weights"],
        "weights_sha256": source["sha256"],
        "classes": task.classes,
        **task.stream.model_dump(include={"model", "size", "dropout", "sampling", "demean"}),
        **more,
        "normalisation": normalisation,
        "extraction": extraction,
        **keys,
    }


def _write(content: bytes, path: Path) -> None:
    path.write_bytes(content)


def _json(values: Any) -> bytes:
    return (json.dumps(values, indent=1, ensure_ascii=False) + "\n").encode()
