"""Write the optical flow of videos as files that other programs read: `twostream flow`."""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import os
import sys
import threading
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import av
import cv2
import numpy as np

from twostream.clipstore import write_clip
from twostream.clipstore.frames import shrunk
from twostream.core.cache import read_json
from twostream.core.files import atomic_path, locked
from twostream.core.parallel import cores, progress, unordered
from twostream.errors import UserError, reason
from twostream.flow import Solver, make_solver, resolve_device
from twostream.flow.color import flow_to_color
from twostream.flow.encoding import encode_flow
from twostream.params import Flow
from twostream.sources.walk import new_folder, walk_files
from twostream.video import VideoError, open_video
from twostream.video.probe import read_and_judge

SETTINGS, LOCK = "flow.json", ".lock"  # in the output folder
_CHUNK = 16  # pairs that a thread solves at once; its first frame is prepared twice


class Video(NamedTuple):
    """A video, and the output without its ending, relative to the output folder."""

    path: Path
    name: str


def find_videos(names: Iterable[Path], out: Path) -> list[Video]:
    """Return the named videos, and all videos below the named folders but those below `out`.

    An output has the name of its video without the ending, unless another video or a folder of videos has that name.

    Raises:
        UserError: there is no such file, or a folder without videos; two videos would have the same output.
    """
    from twostream.datasets import is_video

    found: list[tuple[Path, Path]] = []  # with the path below the named folder
    for name in names:
        if name.is_dir():
            inside = [(name / path, path) for path in walk_files(name) if is_video(path)]
            inside = [(path, below) for path, below in inside if out.resolve() not in path.resolve().parents]
            if not inside:
                raise UserError(f"{name}: there is no video in this folder; name a folder with videos, or a file")
            found += inside
        elif name.is_file():
            found.append((name, Path(name.name)))
        else:
            raise UserError(f"{name}: there is no such file or folder")
    taken = Counter(relative.with_suffix("") for _, relative in found)
    taken.update({parent for _, relative in found for parent in relative.parents})
    taken.update(map(Path, (SETTINGS, LOCK)))
    videos = [
        Video(path, os.fspath(relative if taken[relative.with_suffix("")] > 1 else relative.with_suffix("")))
        for path, relative in found
    ]
    twice = [name for name, count in Counter(video.name for video in videos).items() if count > 1]
    if twice:
        raise UserError(f"{twice[0]}: two videos of this name would have the same output; write them one by one")
    return videos


def write_flow(videos: list[Video], out: Path, settings: Flow, format: str, workers: int = 0) -> dict[str, str]:
    """Write the flow of every video into the folder `out`, and skip those whose output is there.

    An output appears complete or not at all, so after an interruption only the videos that were in work start again.

    Args:
        out: the folder; its `flow.json` says with which settings it was made.
        format: `jpg`, `png` or `flo`, a folder of files per video; `npy`, `zip` or `mp4`, a file per video.
        workers: number of cores to use; 0: all.

    Returns:
        Why a video has no output, by its path; empty if all have.

    Raises:
        UserError: `out` holds flow of other settings or other files, or cannot be written; `flow.device` is `cuda` and
            there is no GPU.
    """
    _claim(out, {"format": format, **_used(settings)})
    try:
        with locked(out / LOCK, wait=False):
            for part in out.rglob(".*.part"):  # of a run that was killed
                if part.is_file():
                    part.unlink()
            return _write_all(videos, out, settings, format, workers or cores())
    except BlockingIOError:
        raise UserError(f"{out}: another process writes flow there; wait for it, or choose another folder") from None


def _write_all(videos: list[Video], out: Path, settings: Flow, format: str, workers: int) -> dict[str, str]:
    todo = [video for video in videos if not _target(out, video, format).exists()]
    if len(todo) < len(videos):
        print(f"{len(videos) - len(todo)} of {len(videos)} videos are finished")
    if not todo:
        return {}
    on_gpu = resolve_device(settings) == "cuda"
    processes = 1 if on_gpu else min(workers, len(todo))
    work = functools.partial(_write, out, settings, format, 1 if on_gpu else workers // processes)
    if processes > 1:
        # The largest first, or one process would work alone at the end.
        todo.sort(key=lambda video: -video.path.stat().st_size)
        # Compile here, or every process would.
        make_solver(settings)(*np.random.default_rng(0).integers(0, 256, (2, 128, 128), np.uint8))
        results = unordered(functools.partial(work, show=False), todo, workers=processes, what="flow")
    else:
        results = (work(video, show=True) for video in todo)
    return {path: why for path, why in results if why}


def _used(settings: Flow) -> dict[str, Any]:
    """Return the settings that count."""
    values = settings.model_dump(by_alias=True)
    keys = ("method", "short_side", "bound", "jpeg_quality", settings.method)
    return {key: values[key] for key in keys}


def _claim(out: Path, description: dict[str, Any]) -> None:
    """Make the output folder with its description, or check that it is of the same settings."""
    file = out / SETTINGS
    if file.exists():
        if read_json(file) != description:
            raise UserError(f"{out}: holds flow of other settings, see {file.name} there; choose another folder")
        return
    try:
        if out.exists() and any(path.name != LOCK for path in out.iterdir()):
            raise UserError(f"{out}: is not empty and holds no {file.name}; choose a new folder")
        out.mkdir(parents=True, exist_ok=True)
        with atomic_path(file) as temporary:
            temporary.write_text(json.dumps(description, indent=1) + "\n")
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({reason(error)})") from None


def _target(out: Path, video: Video, format: str) -> Path:
    return out / (video.name if format in _FOLDERS else f"{video.name}.{format}")


def _write(out: Path, settings: Flow, format: str, threads: int, video: Video, show: bool) -> tuple[str, str]:
    """Write the flow of a video; return its path, and why that failed."""
    cv2.setNumThreads(1)
    target = _target(out, video, format)
    try:
        pairs, fps = _declared(video.path)
        encode = functools.partial(_ENCODERS[format], settings)
        with contextlib.closing(_solved(video.path, settings, threads, encode)) as encoded:
            first = next(encoded, None)
            if first is None:
                raise VideoError("a single frame: motion needs at least two")
            items: Iterator[Any] = itertools.chain([first], encoded)
            if show:
                items = _with_bar(items, pairs, os.path.basename(video.name))
            if format in _FOLDERS:
                _write_folder(target, items)
            else:
                with atomic_path(target) as temporary:
                    _WRITERS[format](temporary, items, settings, fps)
    except (VideoError, UserError) as error:
        return os.fspath(video.path), str(error)
    except OSError as error:
        return os.fspath(video.path), f"cannot be written ({reason(error)})"
    return os.fspath(video.path), ""


def _with_bar(items: Iterable[Any], total: int | None, what: str) -> Iterator[Any]:
    with progress(total, what, "pair") as bar:
        for item in items:
            yield item
            bar.update()


def _declared(path: Path) -> tuple[int | None, float]:
    """Return the number of pairs of frames and the frame rate that the header of a video declares."""
    with open_video(path) as video:
        track, container = video.track, video.container
        fps = float(track.average_rate or 25)
        frames = track.frames or round((container.duration or 0) / av.time_base * fps)
        return max(frames - 1, 0) or None, fps


def _solved(path: Path, settings: Flow, threads: int, encode: Callable[[np.ndarray], Any]) -> Generator[Any]:
    """Yield `encode(flow)` of every pair of frames, solved chunk by chunk in threads.

    This thread decodes, and at most two chunks per thread wait, so memory does not grow with the video.
    """
    images = shrunk(_images(path), settings.short_side)
    if resolve_device(settings) == "cuda":
        yield from map(encode, make_solver(settings).sequence(images))
        return
    kept = threading.local()  # solvers of OpenCV keep state: each thread has its own

    def solve(chunk: list[np.ndarray]) -> list[Any]:
        if not hasattr(kept, "solver"):
            kept.solver = make_solver(settings, "cpu")
        solver: Solver = kept.solver
        return [encode(flow_px) for flow_px in solver.sequence(chunk)]

    pool = ThreadPoolExecutor(threads)
    waiting: deque[Future[list[Any]]] = deque()
    try:
        for chunk in _chunks(images):
            waiting.append(pool.submit(solve, chunk))
            if len(waiting) > 2 * threads:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _images(path: Path) -> Iterator[np.ndarray]:
    """Yield the frames of a video, uint8 [H, W], and print a warning if it turns out to be damaged."""
    found = yield from read_and_judge(path, "gray")
    if found.reason and found.frames > 1:
        print(f"WARNING: {path}: {found.reason}", file=sys.stderr)


def _chunks(images: Iterator[np.ndarray]) -> Iterator[list[np.ndarray]]:
    """Yield the images in lists of `_CHUNK` pairs; the last image of a list is the first of the next."""
    chunk = list(itertools.islice(images, 1))
    while chunk:
        chunk += itertools.islice(images, _CHUNK)
        if len(chunk) > 1:
            yield chunk
        chunk = chunk[-1:] if len(chunk) == _CHUNK + 1 else []


def _jpegs(settings: Flow, flow_px: np.ndarray) -> dict[str, bytes]:
    codes = encode_flow(flow_px, settings.bound)
    quality = [cv2.IMWRITE_JPEG_QUALITY, settings.jpeg_quality]
    return {
        f"flow_{axis}_{{:05d}}.jpg": cv2.imencode(".jpg", plane, quality)[1].tobytes()
        for axis, plane in zip("xy", cv2.split(codes), strict=True)
    }


def _kitti(_: Flow, flow_px: np.ndarray) -> dict[str, bytes]:
    """Return a PNG of uint16 x, y and validity: flow = (value - 2^15) / 64, from -512 to 512 pixels (KITTI 2012)."""
    codes = np.ones((*flow_px.shape[:2], 3), np.uint16)  # OpenCV's order is B, G, R: validity, y, x
    codes[..., 2:0:-1] = np.clip(np.rint(flow_px * 64) + 2**15, 0, 2**16 - 1)
    return {"{:05d}.png": cv2.imencode(".png", codes)[1].tobytes()}


def _middlebury(_: Flow, flow_px: np.ndarray) -> dict[str, bytes]:
    """Return a `.flo` file: the tag 202021.25, width and height as int32, then float32 x and y by rows."""
    height, width = flow_px.shape[:2]
    header = np.float32(202021.25).tobytes() + np.array([width, height], np.int32).tobytes()
    return {"{:05d}.flo": header + flow_px.astype("<f4").tobytes()}


_FOLDERS = {"jpg": _jpegs, "png": _kitti, "flo": _middlebury}
_ENCODERS: dict[str, Callable[[Flow, np.ndarray], Any]] = {
    **_FOLDERS,
    "npy": lambda _, flow_px: flow_px,
    "zip": lambda settings, flow_px: encode_flow(flow_px, settings.bound),
    "mp4": lambda settings, flow_px: flow_to_color(flow_px, settings.bound),
}


def _write_folder(target: Path, items: Iterable[dict[str, bytes]]) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with new_folder(target) as folder:
        for number, files in enumerate(items, 1):
            for name, content in files.items():
                (folder / name.format(number)).write_bytes(content)


def _write_npy(path: Path, fields: Iterator[np.ndarray], *_: Any) -> None:
    """Write the fields as one array; its header, which has room for any length, is completed at the end."""
    shape: tuple[int, ...] = ()
    with open(path, "wb") as file:
        count = 0
        for count, flow_px in enumerate(fields, 1):
            if count == 1:
                shape = flow_px.shape
                _write_header(file, (0, *shape))
            file.write(flow_px.tobytes())
        file.seek(0)
        _write_header(file, (count, *shape))


def _write_header(file: BinaryIO, shape: tuple[int, ...]) -> None:
    np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})


def _write_zip(path: Path, codes: Iterator[np.ndarray], settings: Flow, _: float) -> None:
    meta = {"modality": "flow", "settings": _used(settings)}
    write_clip(path, codes, settings.jpeg_quality, meta)


def _write_mp4(path: Path, images: Iterator[np.ndarray], _: Flow, fps: float) -> None:
    with av.open(f"file:{path}", "w", format="mp4", options={"movflags": "+faststart"}) as container:
        rate = Fraction(fps).limit_denominator(1001)
        stream = container.add_stream("libx264", rate=rate, options={"crf": "18", "preset": "faster"})
        stream.pix_fmt = "yuv420p"
        for number, image in enumerate(images):
            if not number:
                stream.height, stream.width = image.shape[:2]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


_WRITERS: dict[str, Callable[[Path, Iterator[Any], Flow, float], None]] = {
    "npy": _write_npy,
    "zip": _write_zip,
    "mp4": _write_mp4,
}
