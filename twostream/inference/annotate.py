"""A copy of a video with what was predicted drawn on it: the likeliest classes as bars, and the flow as an inset."""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from tqdm import tqdm

from twostream.errors import UserError
from twostream.flow.color import color_wheel, flow_to_color
from twostream.inference.predict import Prediction, Predictor
from twostream.report.text import visible

SMALLEST = 360  # pixels of the short side: a smaller video is enlarged, since text is not legible on it
_CLOCK = 90_000  # ticks a second, in which every usual frame rate is a whole number
_LEAST_FULL_COLOUR = 0.5  # px: below it, noise would be blown up into bright colour
_BARS = [(86, 156, 255), (96, 196, 140), (224, 170, 72), (200, 120, 210), (230, 110, 110)]  # RGB, likeliest first


def annotate(
    predictor: Predictor, prediction: Prediction, out: str | Path, count: int = 3, progress: bool = False
) -> None:
    """Write an H.264 copy of the predicted video, without its sound, with the classes of each moment's window on it.

    Frames keep their times. A video with a short side under :data:`SMALLEST` pixels is enlarged by a whole factor.

    Args:
        predictor: what made the prediction; it computes the flow of the inset.
        prediction: of a video file.
        out: an `.mp4`; it appears complete or not at all.
        count: classes drawn, at most 5.
        progress: draw a bar on the standard error.

    Raises:
        UserError: `out` is the video itself, or cannot be written there.
    """
    out = Path(out)
    check_target(out, prediction.source)
    beside = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        _write(beside, _drawn(predictor, prediction, count), prediction.times, progress)
        os.replace(beside, out)
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror or error}); choose another place") from None
    finally:
        beside.unlink(missing_ok=True)


def check_target(out: Path, source: str | Path) -> None:
    """Raise UserError if an annotated copy of `source` cannot go to `out`; worth asking before the work."""
    if out.suffix.lower() != ".mp4":
        raise UserError(f"{out}: the annotated copy is an MP4 file; let its name end in .mp4")
    if not out.parent.is_dir():
        raise UserError(f"{out}: there is no folder {out.parent}; make it first")
    if out.is_dir() or (out.exists() and os.path.samefile(out, source)):
        raise UserError(f"{out}: would be written over; choose another name for the annotated copy")


def draw_classes(frame: np.ndarray, top: list[tuple[str, float]]) -> None:
    """Draw classes and their probabilities as labelled bars along the lower edge of uint8 [H, W, 3] RGB, in place."""
    height, width = frame.shape[:2]
    size = _text_size(height, width)
    row, pad = round(1.5 * size), round(0.5 * size)
    upper = max(0, height - len(top) * row - pad)
    frame[upper:] = frame[upper:] // 3
    for place, (name, probability) in enumerate(top):
        y = upper + pad // 2 + place * row
        left, right = pad, width - pad
        bar = left + round((right - left) * probability)
        colour = tuple(part // 2 for part in _BARS[place % len(_BARS)])  # dark enough under white text
        cv2.rectangle(frame, (left, y + 1), (max(bar, left + 2), y + row - 2), colour, -1)
        baseline = y + row - round(0.45 * size)
        share = f"{100 * probability:.0f} %"
        at = right - _width(share, size) - pad // 2
        _text(frame, share, at, baseline, size)
        _text(frame, _fitted(visible(name), size, at - left - pad), left + pad // 2, baseline, size)


def draw_flow(frame: np.ndarray, flow_px: np.ndarray, max_px: float) -> None:
    """Draw a flow field in the upper right corner of uint8 [H, W, 3] RGB, with the colour wheel on it, in place."""
    height, width = frame.shape[:2]
    pad = round(0.5 * _text_size(height, width))
    across = round(0.3 * width)
    down = min(round(across * flow_px.shape[0] / flow_px.shape[1]), round(0.4 * height))
    inset = cv2.resize(flow_to_color(flow_px, max_px), (across, down), interpolation=cv2.INTER_LINEAR)
    side = round(0.3 * min(across, down))
    wheel, mask = _wheel(side)
    corner = inset[down - side :, across - side :]
    corner[mask] = wheel[mask]
    x = width - pad - across
    frame[pad : pad + down, x : x + across] = inset
    cv2.rectangle(frame, (x - 1, pad - 1), (x + across, pad + down), (255, 255, 255), 1)


def _drawn(predictor: Predictor, prediction: Prediction, count: int) -> Iterator[np.ndarray]:
    """The annotated frames, uint8 [H, W, 3] RGB of even sides."""
    starts = [window.start for window in prediction.windows]
    tops = []
    for window in prediction.windows:
        said = window.probabilities()
        tops.append([(prediction.classes[i], float(said[i])) for i in np.argsort(-said, kind="stable")[:count]])
    fastest, size = _LEAST_FULL_COLOUR, None
    frames = predictor.frames(prediction.source)
    for moment, (image, flow_px) in zip(prediction.times, frames):  # noqa: B905 - a decoder may give one more or less
        size = size or _canvas(*image.shape[:2])
        enlarges = size[0] > image.shape[1]
        how = cv2.INTER_CUBIC if enlarges else cv2.INTER_AREA
        image = image.copy() if image.shape[1::-1] == size else cv2.resize(image, size, interpolation=how)
        draw_classes(image, tops[max(0, int(np.searchsorted(starts, moment, side="right")) - 1)])
        if flow_px is not None:
            # The scale of the colours follows the fastest motion and slowly falls back, so that they do not flicker.
            now = float(np.percentile(np.linalg.norm(flow_px, axis=-1), 99))
            fastest = max(now, 0.98 * fastest, _LEAST_FULL_COLOUR)
            draw_flow(image, flow_px, fastest)
        yield image


def _canvas(height: int, width: int) -> tuple[int, int]:
    """(width, height) of the copy: even, as the codec stores colour at half resolution."""
    factor = max(1, -(-SMALLEST // min(height, width)))
    return (width * factor + 1) // 2 * 2, (height * factor + 1) // 2 * 2


def _write(path: Path, images: Iterator[np.ndarray], times: np.ndarray, progress: bool) -> None:
    """Encode images, each shown at its time in seconds."""
    rate = Fraction((len(times) - 1) / max(float(times[-1]), 1e-3)).limit_denominator(1001)
    with av.open(f"file:{path}", "w", format="mp4", options={"movflags": "+faststart"}) as container:
        stream = None
        bar = tqdm(
            zip(times, images),  # noqa: B905 - a decoder may give one frame more or less
            total=len(times),
            desc="annotate",
            unit="frame",
            delay=2,
            leave=False,
            disable=None if progress else True,
        )
        before = -1
        for moment, image in bar:
            if stream is None:
                stream = container.add_stream("libx264", rate=rate, options={"crf": "20", "preset": "faster"})
                stream.height, stream.width = image.shape[:2]
                stream.pix_fmt = "yuv420p"
                stream.time_base = stream.codec_context.time_base = Fraction(1, _CLOCK)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts = before = max(before + 1, round(float(moment) * _CLOCK))
            frame.time_base = Fraction(1, _CLOCK)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


@functools.lru_cache(4)
def _wheel(side: int) -> tuple[np.ndarray, np.ndarray]:
    """The colour wheel and the mask of its disc."""
    axis = np.arange(side) - (side - 1) / 2
    return color_wheel(side), np.hypot(*np.meshgrid(axis, axis)) <= side / 2


def _text_size(height: int, width: int) -> int:
    return max(16, round(0.038 * min(height, width)))


@functools.lru_cache(1)
def _font() -> cv2.FontFace:
    return cv2.FontFace("sans")  # comes with OpenCV and has more than ASCII, unlike its older fonts


def _text(image: np.ndarray, text: str, x: int, y: int, size: int) -> None:
    cv2.putText(image, text, (x, y), (255, 255, 255), _font(), size, 500)


@functools.lru_cache(4096)
def _width(text: str, size: int) -> int:
    return cv2.getTextSize((0, 0), text, (0, 0), _font(), size, 500)[2]


def _fitted(text: str, size: int, room: int) -> str:
    """The text, cut with an ellipsis where it is wider than `room` pixels."""
    if _width(text, size) <= room:
        return text
    cuts = itertools.accumulate(text)
    fits = [cut for cut in cuts if _width(cut + "…", size) <= room]
    return (fits[-1] if fits else "") + "…"
