"""Read videos: decode every frame that can be decoded, in order, and report what a complete decode finds."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import cv2
import numpy as np
from av.video.reformatter import VideoReformatter

from twostream.errors import reason

# Shorter sides leave too few pixels for the networks' crops and the pyramids of optical flow.
MIN_SIDE = 16
# Headers of real files are often wrong by one frame (HMDB51), and a broken end should not make a clip unreadable; a
# loss of more than this fraction of the frames should.
MAX_LOST = 0.2
_PLANAR = {f"{family}{layout}p" for family in ("yuv", "yuvj") for layout in (420, 422, 444)}
_STRETCHED = np.rint((np.arange(256) - 16) * (255 / 219)).clip(0, 255).astype(np.uint8)

av.logging.set_level(av.logging.PANIC)  # errors that matter are raised; libav's messages would break the progress bar


@dataclass(frozen=True)
class Probe:
    """What a complete decode of a file found.

    Attributes:
        frames: number of frames that were decoded.
        readable: whether the clip can be used.
        reason: what is wrong with the file, empty for a sound one; a readable file can have a reason too.
    """

    frames: int
    fps: float
    width: int
    height: int
    readable: bool
    reason: str


class VideoError(Exception):
    """The file holds no video that can be decoded; the message says why in a few words, without the path."""


def read_frames(path: str | Path, pixel_format: str = "rgb24") -> Generator[np.ndarray, None, None]:
    """Decode a video frame by frame in presentation order, turned upright if the file says so.

    Frames that cannot be decoded are left out, as players do.

    Args:
        path: any container that FFmpeg reads.
        pixel_format: `rgb24` for uint8 [H, W, 3] frames, `gray` for uint8 [H, W] luma.

    Raises:
        VideoError: no video stream, or the file cannot be opened.
    """
    reformatter = VideoReformatter()  # keeps the conversion context between frames
    with _open(path) as container:
        for frame in _decode(container, []):
            image = _luma(frame) if pixel_format == "gray" else None
            if image is None:
                image = reformatter.reformat(frame, format=pixel_format).to_ndarray()
            quarter_turns = round(frame.rotation / 90) % 4
            yield np.ascontiguousarray(np.rot90(image, quarter_turns)) if quarter_turns else image


def _luma(frame: av.VideoFrame) -> np.ndarray | None:
    """Return what FFmpeg's conversion to `gray` gives, in a third of its time; None for formats without 8-bit luma.

    Luma from 16 to 235 is stretched to grey levels from 0 to 255; the `yuvj` formats already use all 256 levels.
    """
    if frame.format.name not in _PLANAR:
        return None
    plane = frame.planes[0]
    image = np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, plane.line_size)[:, : plane.width]
    return image.copy() if frame.format.name.startswith("yuvj") else cv2.LUT(image, _STRETCHED)


def probe(path: str | Path) -> Probe:
    """Decode the whole file and report what is in it; never raises for a bad file."""
    return survey(path)[0]


def survey(path: str | Path) -> tuple[Probe, np.ndarray]:
    """Return the report of :func:`probe` and the time of each frame.

    Returns:
        The report, and float64 [frames]: seconds from the first frame, never decreasing, by the time stamps of the
        frames, or by the frame rate if a time stamp is missing.
    """
    stamps: list[float | None] = []
    found = _probe(path, stamps)
    if None in stamps:
        times = np.arange(len(stamps)) / (found.fps or 25.0)
    else:
        times = np.maximum.accumulate(np.array(stamps, np.float64) - ((stamps and stamps[0]) or 0.0))
    return found, times


def _probe(path: str | Path, stamps: list[float | None]) -> Probe:
    """Decode the file and append the time stamp of every frame to `stamps`, in seconds, or None."""
    try:
        if os.path.getsize(path) == 0:
            return _unreadable("empty file (0 bytes)")
        with _open(path) as container:
            stream = container.streams.video[0]
            fps = float(stream.average_rate or stream.guessed_rate or 0)
            frames, width, height, last = 0, 0, 0, None
            errors: list[str] = []
            for frame in _decode(container, errors):
                if frames == 0:
                    width, height = frame.width, frame.height
                    if round(frame.rotation / 90) % 2:
                        width, height = height, width
                frames += 1
                last = frame.pts if frame.pts is not None else last
                stamps.append(frame.time)
            declared = stream.frames or _frames_by_time(frames, last, stream, container)
    except VideoError as error:
        return _unreadable(str(error))
    except OSError as error:
        return _unreadable(f"cannot be opened: {reason(error)}")
    return _judge(frames, declared, fps, width, height, errors)


def _judge(frames: int, declared: int, fps: float, width: int, height: int, errors: list[str]) -> Probe:
    def result(readable: bool, why: str) -> Probe:
        return Probe(frames, round(fps, 6), width, height, readable, why)

    if frames == 0:
        return result(False, f"no frame can be decoded{': ' + errors[0] if errors else ''}")
    if min(width, height) < MIN_SIDE:
        return result(False, f"{width}x{height} pixels: smaller than {MIN_SIDE} on a side")
    if frames < 2:
        return result(False, "a single frame: motion needs at least two")
    lost = max(declared - frames, 0)
    if lost > max(1, MAX_LOST * declared):
        return result(False, f"cut short: {frames} of about {declared} frames can be decoded")
    if errors:
        return result(True, f"damaged but used: {len(errors)} packets cannot be decoded ({errors[0]})")
    return result(True, "")


def _unreadable(why: str) -> Probe:
    return Probe(0, 0.0, 0, 0, False, why)


def _open(path: str | Path) -> av.container.InputContainer:
    try:
        # `file:` keeps FFmpeg from reading a name such as "concat:a" or "http:x" as a protocol.
        container = av.open(f"file:{os.fspath(path)}", metadata_errors="replace")
    except av.error.FFmpegError as error:
        raise VideoError(f"not a video that can be opened: {reason(error)}") from None
    if not container.streams.video:
        container.close()
        raise VideoError("no video stream")
    container.streams.video[0].codec_context.thread_count = 1  # clips run in parallel, one per process
    return container


def _decode(container: av.container.InputContainer, errors: list[str]) -> Iterator[av.VideoFrame]:
    stream = container.streams.video[0]
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except av.error.FFmpegError as error:
            errors.append(reason(error))
            return
        if packet is None:
            return
        try:
            frames: list[av.VideoFrame] = packet.decode()  # type: ignore[assignment]
        except av.error.FFmpegError as error:
            errors.append(reason(error))
            continue
        except (RuntimeError, ValueError) as error:  # no decoder, or impossible frame sizes
            errors.append(str(error))
            return
        yield from (frame for frame in frames if frame.width > 0 and frame.height > 0)


def _frames_by_time(
    frames: int, last: int | None, stream: av.VideoStream, container: av.container.InputContainer
) -> int:
    """Return how many frames there should be, if `frames` of them end at time stamp `last` of the declared duration.

    The duration times the frame rate would be wrong for a file of variable rate, whose rate is a guess.
    """
    seconds = (container.duration or 0) / av.time_base
    if stream.duration:
        seconds = float(stream.duration * (stream.time_base or 0))
    if last is None or seconds <= 0:
        return frames
    covered = float((last - (stream.start_time or 0)) * (stream.time_base or 0))
    return max(frames, round((frames - 1) * seconds / covered)) if covered > 0 else frames


def resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return a uint8 image [H, W] or [H, W, 3] at `size` (width, height), by area to shrink, linearly to enlarge."""
    if image.shape[1::-1] == size:
        return image
    shrinks = size[0] < image.shape[1]
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
