"""Write a copy of a video with its prediction drawn on it: top classes as bars, and the flow as an inset."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from tqdm import tqdm

from twostream.core.files import atomic_path
from twostream.errors import UserError, reason
from twostream.flow.color import color_wheel, flow_to_color, full_colour_px
from twostream.inference.predict import Prediction, Predictor, top_classes
from twostream.report.text import shorten, visible
from twostream.video import resize

SMALLEST = 360  # pixels of the short side: a smaller video is enlarged, since text is not legible on it
CLASSES = 3  # drawn on each frame
_TICK = Fraction(1, 90_000)  # seconds; every usual frame rate is a whole number of ticks
_BARS = [(43, 78, 127), (48, 98, 70), (112, 85, 36)]  # RGB by rank, dark enough for white text


def annotate(predictor: Predictor, prediction: Prediction, out: str | Path, progress: bool = False) -> None:
    """Write an H.264 copy of the predicted video, without its sound, with the classes of each moment's window on it.

    Frames keep their times. A video with a short side under :data:`SMALLEST` pixels is enlarged by a whole factor.

    Args:
        predictor: what made the prediction; it computes the flow of the inset.
        prediction: of a video file.
        out: an `.mp4`; it appears complete or not at all.
        progress: draw a bar on the standard error.

    Raises:
        UserError: `out` is the video itself, or cannot be written there.
    """
    out = Path(out)
    check_target(out, prediction.source)
    try:
        with atomic_path(out) as path:
            _write(path, _annotated(predictor, prediction), prediction.times, progress)
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({reason(error)}); choose another place") from None


def check_target(out: Path, source: str | Path) -> None:
    """Raise UserError if an annotated copy of `source` cannot go to `out`; cheap, so call it before predicting."""
    if out.suffix.lower() != ".mp4":
        raise UserError(f"{out}: the annotated copy is an MP4 file; let its name end in .mp4")
    if not out.parent.is_dir():
        raise UserError(f"{out}: there is no folder {out.parent}; make it first")
    if out.is_dir() or (out.exists() and os.path.samefile(out, source)):
        raise UserError(f"{out}: would be overwritten; choose another name for the annotated copy")


def _annotated(predictor: Predictor, prediction: Prediction) -> Iterator[np.ndarray]:
    """Yield the annotated frames, uint8 [H, W, 3] RGB with even sides."""
    starts = [window.start for window in prediction.windows]
    tops = [top_classes(prediction.classes, window.probabilities(), CLASSES) for window in prediction.windows]
    full_px, size = 0.0, None
    frames = predictor.frames(prediction.source)
    for moment, (frame, flow_px) in zip(prediction.times, frames):  # noqa: B905 - a decoder may give one more or less
        size = size or _canvas(*frame.shape[:2])
        image = np.array(resize(frame, size))
        draw_classes(image, tops[max(0, int(np.searchsorted(starts, moment, side="right")) - 1)])
        if flow_px is not None:
            # The scale of the colours follows the fastest motion and slowly falls back, so that they do not flicker.
            full_px = max(full_colour_px(flow_px), 0.98 * full_px)
            draw_flow(image, flow_px, full_px)
        yield image


def _canvas(height: int, width: int) -> tuple[int, int]:
    """Return (width, height) of the copy: even, as the codec stores colour at half resolution."""
    factor = max(1, -(-SMALLEST // min(height, width)))
    return (width * factor + 1) // 2 * 2, (height * factor + 1) // 2 * 2


def draw_classes(image: np.ndarray, top: list[tuple[str, float]]) -> None:
    """Draw classes and their probabilities as labelled bars along the lower edge of uint8 [H, W, 3] RGB, in place."""
    height, width = image.shape[:2]
    size = _text_size(height, width)
    row, pad = round(1.5 * size), round(0.5 * size)
    upper = max(0, height - len(top) * row - pad)
    image[upper:] = image[upper:] // 3
    for rank, (name, probability) in enumerate(top):
        y = upper + pad // 2 + rank * row
        left, right = pad, width - pad
        bar = left + round((right - left) * probability)
        cv2.rectangle(image, (left, y + 1), (max(bar, left + 2), y + row - 2), _BARS[rank % len(_BARS)], -1)
        baseline = y + row - round(0.45 * size)
        percent = f"{100 * probability:.0f} %"
        x = right - _text_width(percent, size) - pad // 2
        _text(image, percent, x, baseline, size)
        shown = shorten(visible(name), x - left - pad, functools.partial(_text_width, size=size))
        _text(image, shown, left + pad // 2, baseline, size)


def draw_flow(image: np.ndarray, flow_px: np.ndarray, full_px: float) -> None:
    """Draw a flow field and the colour wheel in the upper right corner of uint8 [H, W, 3] RGB, in place.

    Args:
        flow_px: float [h, w, 2] in pixels.
        full_px: the speed of full colour.
    """
    height, width = image.shape[:2]
    pad = round(0.5 * _text_size(height, width))
    across = round(0.3 * width)
    down = min(round(across * flow_px.shape[0] / flow_px.shape[1]), round(0.4 * height))
    inset = cv2.resize(flow_to_color(flow_px, full_px), (across, down), interpolation=cv2.INTER_LINEAR)
    side = round(0.3 * min(across, down))
    wheel, mask = _wheel(side)
    corner = inset[down - side :, across - side :]
    corner[mask] = wheel[mask]
    x = width - pad - across
    image[pad : pad + down, x : x + across] = inset
    cv2.rectangle(image, (x - 1, pad - 1), (x + across, pad + down), (255, 255, 255), 1)


@functools.lru_cache(4)
def _wheel(side: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the colour wheel and the mask of its disc."""
    axis = np.arange(side) - (side - 1) / 2
    return color_wheel(side), np.hypot(*np.meshgrid(axis, axis)) <= side / 2


def _text_size(height: int, width: int) -> int:
    return max(16, round(0.038 * min(height, width)))


@functools.lru_cache(1)
def _font() -> cv2.FontFace:
    return cv2.FontFace("sans")  # comes with OpenCV and, unlike its older fonts, has more than ASCII


def _text(image: np.ndarray, text: str, x: int, y: int, size: int) -> None:
    cv2.putText(image, text, (x, y), (255, 255, 255), _font(), size, 500)


@functools.lru_cache(4096)
def _text_width(text: str, size: int) -> int:
    return cv2.getTextSize((0, 0), text, (0, 0), _font(), size, 500)[2]


def _write(path: Path, images: Iterator[np.ndarray], times: np.ndarray, progress: bool) -> None:
    """Encode images, each shown at its time in seconds."""
    shown = None if progress else True
    bar = tqdm(total=len(times), desc="annotate", unit="frame", delay=2, leave=False, disable=shown)
    rate = Fraction((len(times) - 1) / max(float(times[-1]), 1e-3)).limit_denominator(1001) or Fraction(1, 1001)
    with bar, av.open(f"file:{path}", "w", format="mp4", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": "20", "preset": "faster"})
        stream.pix_fmt = "yuv420p"
        stream.time_base = stream.codec_context.time_base = _TICK
        before = -1
        for moment, image in zip(times, images):  # noqa: B905 - a decoder may give one frame more or less
            if before < 0:
                stream.height, stream.width = image.shape[:2]
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts = before = max(before + 1, round(float(moment) / _TICK))
            frame.time_base = _TICK
            container.mux(stream.encode(frame))
            bar.update()
        container.mux(stream.encode())
