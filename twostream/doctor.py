"""The doctor: whether this machine suits the parameters, how much disk they need, and about how long they take.

It prints one line per check: `ok`, `warning` or `problem`, and what to do. It fetches and writes nothing. Sizes are
estimates within a factor of two or so; times are rougher.
"""

from __future__ import annotations

import importlib.metadata
import math
import os
import platform
import shutil
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from twostream.errors import UserError, reason

if TYPE_CHECKING:
    from twostream.params import Params

# Bytes per pixel and frame at JPEG quality 92, a short side of 240 and a flow bound of 20: means over 26 real clips of
# HMDB51, UCF101 and surveillance. At another side a pixel costs (side / 240) to the power: smaller frames have more
# detail per pixel.
_RGB_BYTES, _RGB_POWER = 0.255, -0.65
_FLOW_BYTES, _FLOW_POWER = 0.075, -0.49
_DEMO_BYTES = 0.22  # per pixel and frame of the generated videos, which are small and noisy

# Seconds that one core takes per million pixels: of flow with decoding and encoding (docs/flow.md), and of the input of
# a training step, forwards and backwards (one thread of a Zen 5 EPYC that others used too).
_CORE_SECONDS = {
    **{"tvl1 fast": 0.038, "tvl1 balanced": 0.067, "tvl1 accurate": 0.20, "farneback": 0.15, "dis": 0.08},
    **{"resnet18": 19, "resnet50": 12, "cnn3d_v1": 7.6, "cnn3d_v2": 4.6},
    **{"flow3d": 0.93, "i3d": 4.3, "i3d_4f": 4.3, "timm/tf_efficientnet_lite0": 3},
}

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


# Data sets that are not there yet; the videos of both are 320x240.
_PUBLISHED = {
    "hmdb51": DatasetSize(6766, 93.0, 320, 240, 2.1e9, 3570 / 6766, "as published"),
    "ucf101": DatasetSize(13320, 186.0, 320, 240, 7.0e9, 0.716, "as published"),
}


def doctor(params_path: str | Path = "params.yaml") -> int:
    """Print one line per check and the number of problems; return the exit code, 1 if there are problems, else 0."""
    levels = []
    for check in checks(params_path):
        levels.append(check.level)
        print(f"{check.level:<8} {check.what:<11} {check.message}", flush=True)
    problems, warnings = levels.count("problem"), levels.count("warning")
    print(f"{'not ready' if problems else 'ready'}: problems {problems}, warnings {warnings}")
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
    yield _outputs(params)
    yield _unpacker(params)
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

    wrong = []
    try:
        required = [Requirement(text) for text in importlib.metadata.requires("twostream") or []]
        for one in required:
            if one.marker is None or one.marker.evaluate({"extra": ""}):
                version = importlib.metadata.version(one.name)
                if not one.specifier.contains(version, prereleases=True):
                    wrong.append(f"{one.name} {version} is not {one.specifier}")
    except importlib.metadata.PackageNotFoundError as error:
        wrong.append(f"{error.name} is not installed")
    if wrong:
        return Check("packages", "problem", f"{'; '.join(wrong)}: pip install -r requirements.txt")
    return Check("packages", "ok", f"Python {platform.python_version()}; all required packages fit")


def _cores(params: Params) -> Check:
    from twostream.core.allocator import available_memory
    from twostream.core.parallel import cores

    workers, free = params.runtime.workers, available_memory()
    message = f"{cores()} cores, {free / 1e9:.0f} GB of memory free"
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
        return Check("PyTorch", "ok", f"{built}; no GPU: everything runs on the CPU")
    number, device = torch.cuda.device_count(), torch.cuda.get_device_properties(0)
    bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    built += f"; {number} x {device.name}, {device.total_memory / 2**30:.0f} GB, bf16 {'yes' if bf16 else 'no'}"
    if params.train.precision == "bf16" and not bf16:
        return Check("PyTorch", "problem", f"{built}; train.precision is bf16: write 16 or 32")
    if runtime.devices > number:
        return Check("PyTorch", "problem", f"{built}; runtime.devices is {runtime.devices}: write 0 for all")
    return Check("PyTorch", "ok", built)


def _source(params: Params) -> Check:
    """Check that the videos are there, without asking the network."""
    from twostream.core.workspace import absent_in_experiments
    from twostream.sources import check_source, is_mirror_list, read_mirrors

    try:
        check_source(params.dataset.source)
    except UserError as error:
        return Check("source", "problem", str(error))
    if warning := absent_in_experiments(params.dataset.source):
        return Check("source", "warning", warning)
    paths, remote = [params.dataset.source], []
    if is_mirror_list(params.dataset.source):
        try:
            mirrors = read_mirrors(params.dataset.source).videos
        except UserError as error:
            return Check("source", "problem", str(error))
        paths = [*(mirror.path for mirror in mirrors if mirror.path), "data/videos"]
        remote = [str(mirror) for mirror in mirrors if not mirror.path]
    for path in paths:
        if os.path.exists(path):
            return Check("source", "ok", f"{path} exists")
    if remote:
        return Check("source", "warning", f"will be fetched, which needs a network: {remote[0]} (not tried here)")
    return Check("source", "problem", f"dataset.source: {paths[0]} does not exist; put the data there")


def _outputs(params: Params) -> Check:
    from stages.common import find_cache
    from twostream.core.outputs import output_folders, refuse_foreign

    try:
        refuse_foreign(output_folders(params), find_cache())
    except UserError as error:
        return Check("outputs", "problem", str(error))
    return Check("outputs", "ok", "no files of yours lie where stages write")


def _unpacker(params: Params) -> Check:
    from twostream.sources.archives import UNPACKER

    if shutil.which(UNPACKER):
        return Check("unpacker", "ok", f"{UNPACKER} for RAR and 7z")
    remedy = f"only RAR and 7z archives need {UNPACKER} (apt install libarchive-tools)"
    return Check("unpacker", "ok" if params.dataset.name == "demo" else "warning", f"none; {remedy}")


def _weights(params: Params) -> Iterator[Check]:
    """Check the weights of every trained stream and of RAFT: a file, a cached file, or something to fetch."""
    trained = {name: params.streams[name] for name in (*params.train.rgb, *params.train.flow)}
    wanted = {f"streams.{name}.weights": (one.model, one.weights) for name, one in trained.items()}
    if params.flow.method == "raft" and params.flow.raft.weights != "pretrained":
        wanted["flow.raft.weights"] = "raft", params.flow.raft.weights
    wanted = {key: value for key, value in wanted.items() if value[1] != "none"}
    if not wanted:
        yield Check("weights", "ok", "none are needed")
    for key, (model, weights) in wanted.items():
        yield _weight(key, model, weights)


def _weight(key: str, model: str, weights: str) -> Check:
    from twostream.networks.registry import find_published

    try:
        published = find_published(model, weights)
    except UserError as error:
        return Check("weights", "problem", f"{key}: {error}")
    if published is None and not os.path.isfile(weights):
        return Check("weights", "problem", f"{key}: {weights} does not exist; write pretrained, none or a file")
    if published is None or published.file():
        return Check("weights", "ok", f"{key}: {weights} is there")
    return Check("weights", "warning", f"{key}: {published.model} will be fetched over the network (not tried here)")


def dataset_size(params: Params) -> DatasetSize:
    """Return the size of the data set.

    The videos of a folder are counted and a few of them decoded. A public data set that is not there yet has its
    published size.

    Raises:
        UserError: the source is an archive or missing, so that its clips cannot be counted; or no video can be read.
    """
    dataset, train = params.dataset, 1 - params.dataset.test_fraction
    if dataset.name == "demo":
        demo = dataset.demo
        clips = demo.groups * demo.takes * 9
        video_bytes = clips * demo.frames * demo.width * demo.height * _DEMO_BYTES
        return DatasetSize(clips, demo.frames, demo.width, demo.height, video_bytes, train, "to be generated")
    published = _PUBLISHED.get(dataset.name)
    train = published.train if published else train
    found = (_survey(Path(dataset.source), train) if os.path.isdir(dataset.source) else None) or published
    if found is None:
        raise UserError(f"dataset.source: {dataset.source} holds no videos that can be counted")
    return found


def _survey(folder: Path, train: float) -> DatasetSize | None:
    """Count the videos of a folder and decode a few; return None if there are none."""
    from twostream.datasets import is_video
    from twostream.sources.walk import walk_files
    from twostream.video.probe import probe

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
    return DatasetSize(len(sizes), frames, width, height, sum(sizes.values()), train, f"{len(found)} of them decoded")


def _disk(params: Params, size: DatasetSize) -> Check:
    parts = {"videos": size.video_bytes, **stored_bytes(params, size)}
    if not os.path.isdir(params.dataset.source) and params.dataset.name != "demo":
        parts["archive, temporarily"] = size.video_bytes
    folders = (Path("data", name) for name in ("videos", "rgb", "flow"))
    present = sum(path.stat().st_size for folder in folders for path in folder.rglob("*") if path.is_file())
    free = shutil.disk_usage(".").free
    needed = sum(parts.values())
    listed = ", ".join(f"{name} {_bytes(count)}" for name, count in parts.items())
    message = f"about {_bytes(needed)} ({listed}) and models; {_bytes(free)} free, {_bytes(present)} written"
    if needed - present > free:
        remedy = "lower rgb.short_side or flow.short_side, or use another disk"
        return Check("disk", "problem", f"{message}; {remedy}")
    return Check("disk", "ok", message)


def stored_bytes(params: Params, size: DatasetSize) -> dict[str, float]:
    """Return the estimated bytes of the packed `rgb` and `flow` of all clips, at a JPEG quality of about 92."""
    rgb_side, flow_side = (min(one.short_side, size.width, size.height) for one in (params.rgb, params.flow))
    rgb_pixels = size.clips * size.frames * _pixels(size, rgb_side)
    flow_pixels = size.clips * _pairs(params, size) * _pixels(size, flow_side)
    return {
        "rgb": rgb_pixels * _RGB_BYTES * (rgb_side / 240) ** _RGB_POWER,
        "flow": flow_pixels * _FLOW_BYTES * (flow_side / 240) ** _FLOW_POWER,
    }


def _pixels(size: DatasetSize, short_side: int) -> int:
    from twostream.clipstore.frames import stored_size

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
        if stream.tune == "head":  # every clip once, flow also mirrored, and forward alone: a third of a training step
            views = size.clips / 3 * (2 if name in params.train.flow and stream.augment.flip else 1)
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


def _bytes(count: float) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 0.95e9 else f"{count / 1e6:,.0f} MB"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
