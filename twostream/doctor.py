"""The doctor: is this machine ready for these parameters, what will they need of its disk, and how long will they take?

A line a check, `ok`, `warning` or `problem` with what to do about it. Nothing is fetched and nothing is written. Sizes
and times are estimates, good to a factor of two or so.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import math
import os
import shutil
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from twostream.errors import UserError

if TYPE_CHECKING:
    from twostream.params import Params, Stream

Level = Literal["ok", "warning", "problem"]

# Bytes a pixel and frame by JPEG quality, at a short side of 240 and, for flow, a bound of 20 pixels: means over 26
# real clips of HMDB51, UCF101 and surveillance; the ends are extrapolated. At another side a pixel costs (side / 240)
# to the power below, since smaller pictures have more detail a pixel; flow costs (bound / 20, at 240) to its own.
_QUALITY = (1, 50, 75, 85, 92, 97, 100)
_RGB_BYTES = (0.02, 0.109, 0.151, 0.194, 0.255, 0.394, 0.75)
_FLOW_BYTES = (0.01, 0.036, 0.045, 0.056, 0.075, 0.130, 0.30)
_RGB_POWER, _FLOW_POWER, _BOUND_POWER = -0.65, -0.49, -0.4
_DEMO_BYTES = 0.15  # a pixel and frame of the generated videos, which are small and noisy

_PYTHON = (3, 10), (3, 13)
_KEPT_FREE = 0.1  # part of the free disk that should stay free
_MEASURED_S = 0.5
_PROBED = 8  # videos of a folder that are decoded to learn how long and how large they are
_LONGEST_PROBE_S = 2.0
_LONGEST_STEP_S = 4.0  # a training step that would take longer is not run again


class Check(NamedTuple):
    """One line: what was looked at, how it stands, and what to do if it does not stand well."""

    what: str
    level: Level
    said: str


@dataclass(frozen=True)
class Extent:
    """How much there is to work on: counted, known of the data set, or extrapolated from a few clips."""

    clips: int
    frames: float  # mean of a clip
    width: int
    height: int
    video_bytes: float
    known_by: str

    @property
    def all_frames(self) -> float:
        return self.clips * self.frames


class _Known(NamedTuple):
    """A published data set of 320x240 clips; `train` and `test` are the parts of its clips in one split."""

    clips: int
    frames: float
    video_bytes: float
    train: float
    test: float


_KNOWN = {
    "hmdb51": _Known(6766, 93.0, 2.1e9, 3570 / 6766, 1530 / 6766),
    "ucf101": _Known(13320, 186.0, 7.0e9, 0.716, 0.284),
}


def doctor(params_path: str | Path = "params.yaml") -> int:
    """Print a line a check, as each is made, and how many of them are problems.

    Returns:
        The exit code: 0 when nothing is a problem, else 1.
    """
    counts = {"ok": 0, "warning": 0, "problem": 0}
    for check in checks(params_path):
        counts[check.level] += 1
        print(f"{check.level:<8} {check.what:<11} {check.said}", flush=True)
    problems, warnings = counts["problem"], counts["warning"]
    if problems:
        print(
            f"{_count(problems, 'problem')} to solve before a run"
            + (f", {_count(warnings, 'warning')}" * bool(warnings))
        )
    else:
        print("ready" + (f", {_count(warnings, 'warning')}" * bool(warnings)))
    return 1 if problems else 0


def checks(params_path: str | Path = "params.yaml") -> Iterator[Check]:
    """All checks in turn. Of parameters that are not valid nothing more is checked than that."""
    from twostream.params import load_params

    yield _python()
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
        return  # the rest would fail in the imports, one by one
    yield from _torch(params)
    yield _source(params)
    yield _unpackers(params)
    yield from _weights(params)
    try:
        extent = extent_of(params)
    except UserError as error:
        yield Check("clips", "warning", f"{error}; sizes and times are not estimated")
        return
    yield Check(
        "clips",
        "ok",
        f"{extent.clips:,} of about {extent.frames:.0f} frames, {extent.width}x{extent.height} ({extent.known_by})",
    )
    yield _disk(params, extent)
    yield from _times(params, extent)


def stored_bytes(params: Params, extent: Extent) -> dict[str, float]:
    """Estimated bytes of the packed `rgb` and `flow` of all clips."""
    from twostream.clipstore import stored_size

    def pixels(short_side: int) -> int:
        width, height = stored_size(extent.width, extent.height, short_side)
        return width * height

    def side(short_side: int) -> float:
        return min(short_side, extent.width, extent.height) / 240

    rgb, flow = params.rgb, params.flow
    pairs = extent.frames - 1 if flow.frames == 0 else min(flow.frames, extent.frames) - 1
    rgb_each = _by_quality(_RGB_BYTES, rgb.jpeg_quality) * side(rgb.short_side) ** _RGB_POWER
    flow_each = _by_quality(_FLOW_BYTES, flow.jpeg_quality) * side(flow.short_side) ** _FLOW_POWER
    flow_each *= (flow.bound / (20 * side(flow.short_side))) ** _BOUND_POWER
    return {
        "rgb": extent.all_frames * pixels(rgb.short_side) * rgb_each,
        "flow": extent.clips * pairs * pixels(flow.short_side) * flow_each,
    }


def extent_of(params: Params) -> Extent:
    """How much there is to work on.

    Of a folder the videos are counted, and a few are decoded; of a benchmark that is still to be fetched the published
    figures are taken.

    Raises:
        UserError: it cannot be told without unpacking; or there is no video.
    """
    dataset = params.dataset
    if dataset.name == "demo":
        demo = dataset.demo
        clips, frames = demo.groups * demo.takes * 9, float(demo.frames)
        size = clips * frames * demo.width * demo.height * _DEMO_BYTES
        return Extent(clips, frames, demo.width, demo.height, size, "as it will be generated")
    if os.path.isdir(dataset.source):
        extent = _surveyed(Path(dataset.source))
        if extent is not None:
            return extent
        if dataset.name not in _KNOWN:
            raise UserError(f"dataset.source: {dataset.source} holds no video that can be counted (archives?)")
    if dataset.name not in _KNOWN:
        raise UserError("dataset.source: is an archive or not there, so its clips cannot be counted")
    known = _KNOWN[dataset.name]
    return Extent(known.clips, known.frames, 320, 240, known.video_bytes, "known of the data set")


def _surveyed(folder: Path) -> Extent | None:
    """The videos of a folder, of which a few, spread over all, are decoded; None where there are none."""
    from twostream.datasets import is_video
    from twostream.sources.walk import walk_files
    from twostream.video import probe

    videos = sorted(path for path in walk_files(folder) if is_video(path))
    if not videos:
        return None
    sizes = [(folder / path).stat().st_size for path in videos]
    # By size, so that long clips and short ones are all among the few.
    order = [videos[place] for place in np.argsort(sizes, kind="stable")]
    picked = [order[int((k + 0.5) / _PROBED * len(order))] for k in range(_PROBED)]
    known, bytes_of, started = [], dict(zip(videos, sizes, strict=True)), time.monotonic()
    for path in dict.fromkeys(picked):
        found = probe(folder / path)
        if found.readable:
            known.append((found, bytes_of[path]))
        if known and time.monotonic() - started > _LONGEST_PROBE_S:
            break
    if not known:
        raise UserError(f"none of the videos looked into in {folder} can be read")
    width, height = (int(statistics.median(getattr(found, side) for found, _ in known)) for side in ("width", "height"))
    frames = sum(found.frames for found, _ in known) / len(known)
    told = f"counted; {_count(len(known), 'of them was', 'of them were')} decoded"
    return Extent(len(videos), frames, width, height, float(sum(sizes)), told)


def _python() -> Check:
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info[:2] < _PYTHON[0]:
        return Check("Python", "problem", f"{version} is too old: make PYTHON=python3.12 demo")
    if sys.version_info[:2] > _PYTHON[1]:
        return Check("Python", "warning", f"{version} is newer than what was tested, {_PYTHON[1][0]}.{_PYTHON[1][1]}")
    return Check("Python", "ok", version)


def _packages() -> Check:
    """The installed packages against what the project asks for."""
    from packaging.requirements import Requirement

    remedy = "pip install -r requirements.txt"
    try:
        asked = [Requirement(text) for text in importlib.metadata.requires("twostream") or []]
    except importlib.metadata.PackageNotFoundError:
        return Check("packages", "problem", f"the project itself is not installed: {remedy}")
    wrong, wanted = [], [one for one in asked if one.marker is None or one.marker.evaluate({"extra": ""})]
    for one in wanted:
        try:
            version = importlib.metadata.version(one.name)
        except importlib.metadata.PackageNotFoundError:
            wrong.append(f"{one.name} is not installed")
            continue
        if not one.specifier.contains(version, prereleases=True):
            wrong.append(f"{one.name} {version} is not {one.specifier}")
    if wrong:
        return Check("packages", "problem", f"{'; '.join(wrong)}: {remedy}")
    return Check("packages", "ok", f"all {len(wanted)} there, in versions that fit")


def _cores(params: Params) -> Check:
    import psutil

    from twostream.core.allocator import available_memory
    from twostream.core.parallel import cores

    workers, free = params.runtime.workers, available_memory()
    said = f"{cores()} cores, {psutil.virtual_memory().total / 1e9:.0f} GB of memory, {free / 1e9:.0f} GB of it free"
    if workers > 2 * cores():
        return Check(
            "machine", "warning", f"{said}; runtime.workers {workers} is more than they carry: 0 takes all cores"
        )
    if free < (workers or cores()) * 0.7e9:
        return Check("machine", "warning", f"{said}; tight for {workers or cores()} processes: lower runtime.workers")
    return Check("machine", "ok", said)


def _torch(params: Params) -> Iterator[Check]:
    try:
        import torch
    except (ImportError, OSError) as error:
        yield Check("PyTorch", "problem", f"cannot be loaded ({_line(error)}): pip install -r requirements.txt")
        return
    built = f"{torch.__version__}, built for CUDA {torch.version.cuda}" if torch.version.cuda else torch.__version__
    runtime, flow = params.runtime, params.flow
    if not torch.cuda.is_available():
        if runtime.accelerator == "gpu" or flow.device == "cuda":
            key = "runtime.accelerator: gpu" if runtime.accelerator == "gpu" else "flow.device: cuda"
            yield Check("PyTorch", "problem", f"{built}; {key}, but it finds no GPU: install a driver, or write auto")
            return
        yield Check("PyTorch", "ok", f"{built}; no GPU: all of it runs on the CPU")
        if flow.method == "raft":
            yield Check("flow", "warning", "raft is a network for a GPU, and slow without one: flow.method tvl1 is not")
        return
    number, device = torch.cuda.device_count(), torch.cuda.get_device_properties(0)
    bf16 = torch.cuda.is_bf16_supported()
    said = f"{built}; {number} x {device.name}, {device.total_memory / 2**30:.0f} GB, bf16 {'yes' if bf16 else 'no'}"
    if params.train.precision == "bf16" and not bf16:
        yield Check("PyTorch", "problem", f"{said}; train.precision is bf16: write 16 or 32")
    elif runtime.devices > number:
        yield Check("PyTorch", "problem", f"{said}; runtime.devices is {runtime.devices}: write 0 for all there are")
    elif runtime.accelerator == "cpu":
        yield Check("PyTorch", "warning", f"{said}, which runtime.accelerator: cpu leaves idle")
    else:
        yield Check("PyTorch", "ok", said)


def _source(params: Params) -> Check:
    """Where the videos come from; no network is asked."""
    from twostream.sources import is_mirror_list, read_mirrors

    source = params.dataset.source
    if not is_mirror_list(source):
        if os.path.exists(source):
            return Check("source", "ok", f"{source} is there")
        return Check(
            "source", "problem", f"dataset.source: {source} is not there; put the data there or correct the path"
        )
    try:
        mirrors = read_mirrors(source)
    except UserError as error:
        return Check("source", "problem", str(error))
    for mirror in mirrors.videos:
        if mirror.path and os.path.exists(mirror.path):
            return Check("source", "ok", f"{mirror.path} is there")
    remote = [str(mirror) for mirror in mirrors.videos if not mirror.path]
    if not remote:
        return Check(
            "source", "problem", f"{source}: none of its paths is there; put a copy at {mirrors.videos[0].path}"
        )
    if os.path.isdir("data/videos"):
        return Check("source", "ok", "data/videos is there; what it lacks would be fetched")
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
        return Check("unpackers", "problem", f"dataset.source holds RAR or 7z, and nothing here reads them: {remedy}")
    if is_mirror_list(source):
        return Check("unpackers", "warning", f"none for RAR and 7z, which some copies of the data set are: {remedy}")
    return Check("unpackers", "ok", "none for RAR and 7z, and none is needed")


def _weights(params: Params) -> Iterator[Check]:
    """Of every trained stream with weights, and of RAFT: a file, a cached file, or something to fetch."""
    wanted = [
        (f"streams.{name}.weights", params.streams[name].model, params.streams[name].weights)
        for name in (*params.train.rgb, *params.train.flow)
        if params.streams[name].weights != "none"
    ]
    raft = params.flow.raft.weights
    if params.flow.method == "raft" and raft != "pretrained":
        wanted.append(("flow.raft.weights", "raft", raft))
    if not wanted:
        yield Check("weights", "ok", "none are asked for")
    for key, model, weights in wanted:
        yield _weight(key, model, weights)


def _weight(key: str, model: str, weights: str) -> Check:
    if os.path.isfile(weights):
        return Check("weights", "ok", f"{key}: {weights} is there")
    published = None
    is_path = "/" in weights or weights.endswith((".pth", ".pt", ".safetensors"))
    if model != "raft" and not is_path:  # what is no path is looked up, for which a library is loaded
        from twostream.networks.pretrained import find_published

        try:
            published = find_published(model, weights)
        except (UserError, RuntimeError, ValueError) as error:
            return Check("weights", "problem", f"{key}: {_line(error)}")
    if published is None:
        return Check(
            "weights", "problem", f"{key}: {weights} is not there; put the file there, or write pretrained or none"
        )
    if published.file():
        return Check("weights", "ok", f"{key}: {published.model} is in the cache")
    return Check(
        "weights", "warning", f"{key}: {published.model} will be fetched, which needs a network (not tried here)"
    )


def _disk(params: Params, extent: Extent) -> Check:
    sizes = {"videos": extent.video_bytes, **stored_bytes(params, extent)}
    if not os.path.isdir(params.dataset.source) and params.dataset.name != "demo":
        sizes["archive, for a time"] = extent.video_bytes
    there = sum(_tree_bytes(Path("data") / name) for name in ("videos", "rgb", "flow"))
    free = shutil.disk_usage(".").free
    needed = sum(sizes.values())
    parts = ", ".join(f"{name} {_bytes(size)}" for name, size in sizes.items())
    said = f"about {_bytes(needed)} ({parts}) and the models; {_bytes(free)} free"
    if there:
        said += f", {_bytes(there)} of it already there"
    left = needed - there
    if left > free:
        remedy = "lower rgb.short_side, flow.short_side or jpeg_quality, or use another disk"
        return Check("disk", "problem", f"{said}; {remedy}")
    if left > (1 - _KEPT_FREE) * free:
        return Check("disk", "warning", f"{said}, which leaves little")
    return Check("disk", "ok", said)


def _times(params: Params, extent: Extent) -> Iterator[Check]:
    """Estimates of what takes long: the flow and the training, measured for a moment each on this machine."""
    from twostream.core.parallel import cores
    from twostream.flow import resolve_device

    workers = params.runtime.workers or cores()
    try:
        device = resolve_device(params.flow)
        pair_s = measure_flow(params, extent, device)
    except (UserError, RuntimeError, OSError) as error:
        yield Check("flow", "warning", f"cannot be timed ({_line(error)})")
    else:
        each = extent.frames - 1 if params.flow.frames == 0 else min(params.flow.frames, extent.frames) - 1
        total = pair_s * extent.clips * each / (1 if device == "cuda" else workers)
        where = "the GPU" if device == "cuda" else _count(workers, "process", "processes")
        yield Check(
            "flow",
            "ok",
            f"{params.flow.method} {1000 * pair_s:.1f} ms a pair, in all about {_duration(total)} on {where}",
        )
    trained = [*params.train.rgb, *params.train.flow]
    total, said = 0.0, []
    for name in trained:
        try:
            step_s = measure_training(params, name)
        except (UserError, RuntimeError, ValueError) as error:
            yield Check("training", "warning", f"{name} cannot be timed ({_line(error)})")
            continue
        seconds = training_seconds(params, params.streams[name], extent, step_s)
        total += seconds
        said.append(f"{name} {_duration(seconds)}")
    if said:
        splits = _count(len(params.dataset.splits), "split")
        each = ", ".join(said)
        yield Check(
            "training", "ok", f"at most about {_duration(total)} for {splits} ({each}), without reading the clips"
        )


def measure_flow(params: Params, extent: Extent, device: str) -> float:
    """Seconds a pair of frames takes at the stored size, measured for half a second with the method in force."""
    import cv2

    from twostream.clipstore import stored_size
    from twostream.flow import make_solver
    from twostream.flow.encoding import encode_flow

    width, height = stored_size(extent.width, extent.height, params.flow.short_side)
    noise = np.random.default_rng(0).integers(0, 256, (height, width + 8), np.uint8)
    wide = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 3), None, 0, 255, cv2.NORM_MINMAX)
    images = [np.ascontiguousarray(wide[:, start : start + width]) for start in range(8)]
    solver = make_solver(params.flow, device)
    solver(*images[:2])  # compiles, loads
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)  # as extraction does, a clip a process
    try:
        clock = time.perf_counter if device == "cuda" else time.process_time  # not what others on the machine take
        started, pairs = clock(), 0
        while clock() - started < _MEASURED_S:
            for flow_px in solver.sequence(images):
                image = cv2.hconcat(cv2.split(encode_flow(flow_px, params.flow.bound)))
                cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, params.flow.jpeg_quality])
                pairs += 1
                if clock() - started > 4 * _MEASURED_S:
                    break
        spent = clock() - started
    finally:
        cv2.setNumThreads(threads)
    return spent / pairs


def measure_training(params: Params, name: str) -> float:
    """Seconds that a stream's network takes for a clip, forwards and backwards, on the device that trains."""
    import torch

    from twostream.networks.registry import create_model

    stream = params.streams[name]
    device = "cuda" if params.runtime.accelerator != "cpu" and torch.cuda.is_available() else "cpu"
    sampling, modality = stream.sampling, params.modality(name)
    model = create_model(
        stream.model,
        modality=modality,
        classes=51,
        frames=sampling.frames,
        dropout=stream.dropout,
        weights="none",
        input_size=stream.size,
    ).to(device)
    channels = 3 if modality == "rgb" else 2

    def step(clips: int) -> float:
        shape = (clips, sampling.segments, channels, sampling.frames, stream.size, stream.size)
        views = torch.zeros(shape, device=device)
        started, worked = time.perf_counter(), time.process_time()
        model(views).sum().backward()
        if device == "cuda":
            torch.cuda.synchronize()
            return (time.perf_counter() - started) / clips
        # What this process worked, over its threads: not what others on the machine take.
        return (time.process_time() - worked) / torch.get_num_threads() / clips

    few = min(2, stream.batch_size)
    first = step(few)  # sets up and allocates, so it is too slow to be told, unless it is so slow that it must do
    if first * few > _LONGEST_STEP_S:
        return first
    second = step(few)
    # Part of the cost of a step is the same for any number of clips: the whole batch, where that does not take long.
    return step(stream.batch_size) if second * stream.batch_size < _LONGEST_STEP_S else second


def training_seconds(params: Params, stream: Stream, extent: Extent, clip_s: float) -> float:
    """Estimated seconds to train and score a stream on all splits, if `patience` ends none early.

    A step costs `clip_s` a clip; a view that is only scored, a third of it: no gradients.
    """
    known, test = _KNOWN.get(params.dataset.name), params.dataset.test_fraction
    train, test = (known.train, known.test) if known else (1 - test, test)
    held_out = train * params.dataset.val_fraction
    fitted = train - held_out
    score = params.score
    segments = stream.sampling.segments
    views = score.segments * score.crops * (2 if score.flip else 1)
    an_epoch = extent.clips * (fitted + held_out / 3) * clip_s
    scoring = extent.clips * (held_out + test) * views * clip_s / segments / 3
    return (stream.epochs * an_epoch + scoring) * len(params.dataset.splits)


def _by_quality(table: tuple[float, ...], quality: int) -> float:
    return math.exp(np.interp(quality, _QUALITY, np.log(table)))


def _tree_bytes(folder: Path) -> int:
    total = 0
    for path, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # a stage at work may rename it
                total += os.stat(os.path.join(path, name)).st_size
    return total


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"


def _bytes(count: float) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 0.95e9 else f"{max(count, 0) / 1e6:,.0f} MB"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"


def _line(error: Any) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
