"""The doctor: whether this machine suits the parameters, how much disk they need, and about how long they take.

It prints one line per check: `ok`, `warning` or `problem`, and what to do. It fetches and writes nothing. Sizes are
estimates within a factor of two or so; times are rougher.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import math
import os
import platform
import shutil
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from twostream.errors import UserError, reason

if TYPE_CHECKING:
    from twostream.params import Params

# Bytes per pixel and frame by JPEG quality, at a short side of 240 and, for flow, a bound of 20 pixels: means over 26
# real clips of HMDB51, UCF101 and surveillance; the ends are extrapolated. At another side a pixel costs (side / 240)
# to the power below, since smaller frames have more detail per pixel; flow costs (bound / 20, at 240) to its own.
_QUALITY = (1, 50, 75, 85, 92, 97, 100)
_RGB_BYTES = (0.02, 0.109, 0.151, 0.194, 0.255, 0.394, 0.75)
_FLOW_BYTES = (0.01, 0.036, 0.045, 0.056, 0.075, 0.130, 0.30)
_RGB_POWER, _FLOW_POWER, _BOUND_POWER = -0.65, -0.49, -0.4
_DEMO_BYTES = 0.22  # per pixel and frame of the generated videos, which are small and noisy

# Seconds that one core takes per million pixels: of flow with decoding and encoding (docs/flow.md), and of the input of
# a training step, forwards and backwards (one thread of a Zen 5 EPYC that others used too).
_CORE_SECONDS = {
    **{"tvl1 fast": 0.038, "tvl1 balanced": 0.067, "tvl1 accurate": 0.20, "farneback": 0.15, "dis": 0.08},
    **{"resnet18": 19, "resnet50": 12, "cnn3d_v1": 7.6, "cnn3d_v2": 4.6},
    **{"flow3d": 0.93, "timm/tf_efficientnet_lite0": 3},
}

_KEPT_FREE = 0.1  # fraction of the free disk that should stay free
_PROBED = 8  # videos of a folder that are decoded to estimate how long and how large they are


class Check(NamedTuple):
    """One line of the doctor: what was checked, its state, and what to do if something is wrong."""

    what: str
    level: Literal["ok", "warning", "problem"]
    message: str


class DatasetSize(NamedTuple):
    """The size of a data set; `source` states how it is known. `frames` is the mean per clip, `train` a fraction."""

    clips: int
    frames: float
    width: int
    height: int
    video_bytes: float
    train: float
    source: str


# Published data sets of 320x240 clips: mean frames, bytes of the videos, and the fraction in the training set.
_PUBLISHED = {"hmdb51": (93.0, 2.1e9, 3570 / 6766), "ucf101": (186.0, 7.0e9, 0.716)}


def doctor(params_path: str | Path = "params.yaml") -> int:
    """Print one line per check and the number of problems; return the exit code, 1 if there are problems, else 0."""
    levels = []
    for check in checks(params_path):
        levels.append(check.level)
        print(f"{check.level:<8} {check.what:<11} {check.message}", flush=True)
    problems, warnings = levels.count("problem"), levels.count("warning")
    summary = f"{_count(problems, 'problem')} to solve before a run" if problems else "ready"
    print(summary + (f", {_count(warnings, 'warning')}" if warnings else ""))
    return 1 if problems else 0


def checks(params_path: str | Path = "params.yaml") -> Iterator[Check]:
    """Yield all checks in turn; only the first ones if packages are missing or the parameters are not valid."""
    from twostream.params import load_params

    packages = _packages()
    yield packages
    try:
        params = load_params(params_path)
    except UserError as error:
        yield Check("parameters", "problem", str(error))
        return
    streams = ", ".join([*params.train.rgb, *params.train.flow])
    yield Check(
        "parameters", "ok", f"{params_path}: {params.dataset.name}, flow {params.flow.method}, streams {streams}"
    )
    yield _cores(params)
    if packages.level == "problem":
        return  # the other checks would fail in their imports
    yield _torch(params)
    yield _source(params)
    yield _unpackers(params)
    yield from _weights(params)
    try:
        size = dataset_size(params)
    except UserError as error:
        yield Check("clips", "warning", f"{error}; disk and time are not estimated")
        return
    shape = f"{size.clips:,} of about {size.frames:.0f} frames, {size.width}x{size.height}"
    yield Check("clips", "ok", f"{shape} ({size.source})")
    yield _disk(params, size)
    yield _time(params, size)


def _packages() -> Check:
    """Compare the installed packages with what the project requires."""
    from packaging.requirements import Requirement

    remedy = "pip install -r requirements.txt"
    try:
        required = [Requirement(text) for text in importlib.metadata.requires("twostream") or []]
    except importlib.metadata.PackageNotFoundError:
        return Check("packages", "problem", f"the project itself is not installed: {remedy}")
    wrong, required = [], [one for one in required if one.marker is None or one.marker.evaluate({"extra": ""})]
    for one in required:
        try:
            version = importlib.metadata.version(one.name)
            if not one.specifier.contains(version, prereleases=True):
                wrong.append(f"{one.name} {version} is not {one.specifier}")
        except importlib.metadata.PackageNotFoundError:
            wrong.append(f"{one.name} is not installed")
    if wrong:
        return Check("packages", "problem", f"{'; '.join(wrong)}: {remedy}")
    return Check("packages", "ok", f"Python {platform.python_version()}; all {len(required)} packages fit")


def _cores(params: Params) -> Check:
    import psutil

    from twostream.core.allocator import available_memory
    from twostream.core.parallel import cores

    workers, free = params.runtime.workers, available_memory()
    message = f"{cores()} cores, {psutil.virtual_memory().total / 1e9:.0f} GB of memory, {free / 1e9:.0f} GB of it free"
    if workers > 2 * cores():
        return Check("machine", "warning", f"{message}; runtime.workers {workers} is too many: 0 takes all cores")
    if free < (workers or cores()) * 0.7e9:
        return Check("machine", "warning", f"{message}; tight for so many processes: lower runtime.workers")
    return Check("machine", "ok", message)


def _torch(params: Params) -> Check:
    try:
        import torch
    except (ImportError, OSError) as error:
        return Check("PyTorch", "problem", f"cannot be loaded ({reason(error)}): pip install -r requirements.txt")
    runtime, flow, built = params.runtime, params.flow, f"{torch.__version__}, CUDA {torch.version.cuda or 'none'}"
    if not torch.cuda.is_available():
        if runtime.accelerator == "gpu" or flow.device == "cuda":
            key = "runtime.accelerator: gpu" if runtime.accelerator == "gpu" else "flow.device: cuda"
            return Check("PyTorch", "problem", f"{built}; {key}, but there is no GPU: install a driver, or write auto")
        if flow.method == "raft":
            return Check("PyTorch", "warning", f"{built}; no GPU, and raft is slow without one: use flow.method tvl1")
        return Check("PyTorch", "ok", f"{built}; no GPU: everything runs on the CPU")
    number, device = torch.cuda.device_count(), torch.cuda.get_device_properties(0)
    bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    built += f"; {number} x {device.name}, {device.total_memory / 2**30:.0f} GB, bf16 {'yes' if bf16 else 'no'}"
    if params.train.precision == "bf16" and not bf16:
        return Check("PyTorch", "problem", f"{built}; train.precision is bf16: write 16 or 32")
    if runtime.devices > number:
        return Check("PyTorch", "problem", f"{built}; runtime.devices is {runtime.devices}: write 0 for all")
    if runtime.accelerator == "cpu":
        return Check("PyTorch", "warning", f"{built}; runtime.accelerator: cpu does not use it")
    return Check("PyTorch", "ok", built)


def _source(params: Params) -> Check:
    """Check that the videos are there, without asking the network."""
    from twostream.sources import is_mirror_list, read_mirrors

    source = params.dataset.source
    if not is_mirror_list(source):
        if os.path.exists(source):
            return Check("source", "ok", f"{source} exists")
        remedy = "put the data there or correct the path"
        return Check("source", "problem", f"dataset.source: {source} does not exist; {remedy}")
    try:
        mirrors = read_mirrors(source).videos
    except UserError as error:
        return Check("source", "problem", str(error))
    for path in [mirror.path for mirror in mirrors if mirror.path] + ["data/videos"]:
        if os.path.exists(path):
            return Check("source", "ok", f"{path} exists")
    remote = [str(mirror) for mirror in mirrors if not mirror.path]
    if not remote:
        return Check("source", "problem", f"{source}: none of its paths exists; put a copy at {mirrors[0].path}")
    return Check("source", "warning", f"will be fetched, which needs a network: {remote[0]} (not tried here)")


def _unpackers(params: Params) -> Check:
    from twostream.sources import is_mirror_list
    from twostream.sources.archives import UNPACKER
    from twostream.sources.walk import walk_files

    source = params.dataset.source
    if shutil.which(UNPACKER):
        return Check("unpackers", "ok", f"{UNPACKER} for RAR and 7z")
    names = [str(path) for path in walk_files(Path(source))] if os.path.isdir(source) else [source]
    remedy = f"install {UNPACKER} (apt install libarchive-tools)"
    if any(name.lower().endswith((".rar", ".7z")) for name in names):
        return Check("unpackers", "problem", f"dataset.source holds RAR or 7z, which nothing here reads: {remedy}")
    if is_mirror_list(source):
        return Check("unpackers", "warning", f"none for RAR and 7z, the form of some copies of the data set: {remedy}")
    return Check("unpackers", "ok", "none for RAR and 7z; none is needed")


def _weights(params: Params) -> Iterator[Check]:
    """Check the weights of every trained stream and of RAFT: a file, a cached file, or something to fetch."""
    wanted = {f"streams.{name}": params.streams[name] for name in (*params.train.rgb, *params.train.flow)}
    found = [_weight(f"{key}.weights", one.model, one.weights) for key, one in wanted.items() if one.weights != "none"]
    raft = params.flow.raft.weights
    if params.flow.method == "raft" and raft != "pretrained":
        found.append(_weight("flow.raft.weights", "raft", raft))
    yield from found or [Check("weights", "ok", "none are needed")]


def _weight(key: str, model: str, weights: str) -> Check:
    if os.path.isfile(weights):
        return Check("weights", "ok", f"{key}: {weights} exists")
    published = None
    if model != "raft" and "/" not in weights and not weights.endswith((".pth", ".pt", ".safetensors")):
        from twostream.networks.pretrained import find_published  # imports torchvision or timm

        try:
            published = find_published(model, weights)
        except (UserError, RuntimeError, ValueError) as error:
            return Check("weights", "problem", f"{key}: {reason(error)}")
    if published is None:
        remedy = "put the file there, or write pretrained or none"
        return Check("weights", "problem", f"{key}: {weights} does not exist; {remedy}")
    if published.file():
        return Check("weights", "ok", f"{key}: {published.model} is in the cache")
    return Check("weights", "warning", f"{key}: {published.model} will be fetched over the network (not tried here)")


def dataset_size(params: Params) -> DatasetSize:
    """Return the size of the data set.

    The videos of a folder are counted and a few of them decoded. A public data set that is not there yet has its
    published size.

    Raises:
        UserError: the source is an archive or missing, so that its clips cannot be counted; or no video can be read.
    """
    from twostream.datasets import get_dataset

    dataset = params.dataset
    train = 1 - dataset.test_fraction
    if dataset.name == "demo":
        demo = dataset.demo
        clips = demo.groups * demo.takes * 9
        video_bytes = clips * demo.frames * demo.width * demo.height * _DEMO_BYTES
        return DatasetSize(clips, demo.frames, demo.width, demo.height, video_bytes, train, "to be generated")
    frames, video_bytes, train = _PUBLISHED.get(dataset.name, (0, 0, train))
    if os.path.isdir(dataset.source):
        found = _survey(Path(dataset.source), train)
        if found is not None:
            return found
    if dataset.name not in _PUBLISHED:
        raise UserError(f"dataset.source: {dataset.source} holds no videos that can be counted")
    clips = getattr(get_dataset(dataset.name), dataset.name.upper()).clips
    return DatasetSize(clips, frames, 320, 240, video_bytes, train, "as published")


def _survey(folder: Path, train: float) -> DatasetSize | None:
    """Count the videos of a folder and decode a few; return None if there are none."""
    from twostream.datasets import is_video
    from twostream.sources.walk import walk_files
    from twostream.video import probe

    sizes = {path: (folder / path).stat().st_size for path in walk_files(folder) if is_video(path)}
    if not sizes:
        return None
    by_size = sorted(sizes, key=lambda path: (sizes[path], path))  # so that short and long clips are among the few
    picked = dict.fromkeys(by_size[int((k + 0.5) / _PROBED * len(by_size))] for k in range(_PROBED))
    found = [clip for clip in (probe(folder / path) for path in picked) if clip.readable]
    if not found:
        raise UserError(f"none of the videos tried in {folder} can be read")
    width, height = (int(statistics.median(getattr(clip, side) for clip in found)) for side in ("width", "height"))
    frames = statistics.mean(clip.frames for clip in found)
    source = f"counted; {_count(len(found), 'clip')} decoded"
    return DatasetSize(len(sizes), frames, width, height, sum(sizes.values()), train, source)


def _disk(params: Params, size: DatasetSize) -> Check:
    parts = {"videos": size.video_bytes, **stored_bytes(params, size)}
    if not os.path.isdir(params.dataset.source) and params.dataset.name != "demo":
        parts["archive, temporarily"] = size.video_bytes
    present = sum(_tree_bytes(Path("data") / name) for name in ("videos", "rgb", "flow"))
    free = shutil.disk_usage(".").free
    needed = sum(parts.values())
    listed = ", ".join(f"{name} {_bytes(count)}" for name, count in parts.items())
    message = f"about {_bytes(needed)} ({listed}) and the models; {_bytes(free)} free"
    if present:
        message += f", {_bytes(present)} already written"
    if needed - present > free:
        remedy = "lower rgb.short_side, flow.short_side or jpeg_quality, or use another disk"
        return Check("disk", "problem", f"{message}; {remedy}")
    if needed - present > (1 - _KEPT_FREE) * free:
        return Check("disk", "warning", f"{message}, which leaves little")
    return Check("disk", "ok", message)


def stored_bytes(params: Params, size: DatasetSize) -> dict[str, float]:
    """Return the estimated bytes of the packed `rgb` and `flow` of all clips."""
    rgb, flow = params.rgb, params.flow
    rgb_side, flow_side = (min(short, size.width, size.height) / 240 for short in (rgb.short_side, flow.short_side))
    rgb_each = _by_quality(_RGB_BYTES, rgb.jpeg_quality) * rgb_side**_RGB_POWER
    flow_each = _by_quality(_FLOW_BYTES, flow.jpeg_quality) * flow_side**_FLOW_POWER
    flow_each *= (flow.bound / (20 * flow_side)) ** _BOUND_POWER
    return {
        "rgb": size.clips * size.frames * _pixels(size, rgb.short_side) * rgb_each,
        "flow": size.clips * _pairs(params, size) * _pixels(size, flow.short_side) * flow_each,
    }


def _by_quality(table: tuple[float, ...], quality: int) -> float:
    return math.exp(np.interp(quality, _QUALITY, np.log(table)))


def _pixels(size: DatasetSize, short_side: int) -> int:
    from twostream.clipstore import stored_size

    return math.prod(stored_size(size.width, size.height, short_side))


def _pairs(params: Params, size: DatasetSize) -> float:
    return (min(params.flow.frames, size.frames) if params.flow.frames else size.frames) - 1


def _time(params: Params, size: DatasetSize) -> Check:
    """Estimate the longest steps, flow and training, from measured rates; a GPU does them in a fraction of the time."""
    from twostream.core.parallel import cores
    from twostream.networks.names import VIDEO, VOLUME

    workers, flow = params.runtime.workers or cores(), params.flow
    method = f"tvl1 {flow.tvl1.preset}" if flow.method == "tvl1" else flow.method
    work = {"flow": (method, size.clips * _pairs(params, size) * _pixels(size, flow.short_side), workers)}
    for name in (*params.train.rgb, *params.train.flow):
        stream = params.streams[name]
        views = stream.epochs * size.clips * size.train * len(params.dataset.splits)
        # A 2D network sees the frames of a segment as the channels of one image.
        depth = stream.sampling.frames if stream.model in (*VOLUME, *VIDEO) else 1
        work[name] = stream.model, views * stream.sampling.segments * depth * stream.size**2, cores()
    seconds = {
        name: _CORE_SECONDS[what] * pixels / 1e6 / processes
        for name, (what, pixels, processes) in work.items()
        if what in _CORE_SECONDS
    }
    listed = ", ".join(f"{name} {_duration(seconds[name]) if name in seconds else 'unknown'}" for name in work)
    return Check("time", "ok", f"about {_duration(sum(seconds.values()))} without a GPU ({listed})")


def _tree_bytes(folder: Path) -> int:
    total = 0
    for path, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # a running stage may rename it
                total += os.stat(os.path.join(path, name)).st_size
    return total


def _count(number: int, one: str) -> str:
    return f"{number} {one}{'' if number == 1 else 's'}"


def _bytes(count: float) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 0.95e9 else f"{max(count, 0) / 1e6:,.0f} MB"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"
