"""A video for the page: RGB at the left, optical flow as colour at the right, in a form that every browser plays."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import av
import cv2
import numpy as np

from twostream.flow.color import flow_to_color

# VP8 needs no licence, so browsers that were built without H.264, as some of Linux distributions are, play it too.
_CODEC = "libvpx"
_OPTIONS = {"deadline": "realtime", "cpu-used": "8", "crf": "12", "b": "4M"}
_TICK = Fraction(1, 1000)  # seconds, as WebM counts
_USUAL_RATE = 30  # frames a second, for the encoder's plans alone: each frame has its own time
_KEY_FRAMES = 15  # frames from one to the next; a jump in time decodes at most so many
_LOOK_AHEAD = 64  # frames from which the colour scale is chosen
_LEAST_FULL_COLOUR = 0.5  # px: below it, noise would be blown up into bright colour
_MOST_SIDE = 720  # pixels of the picture's height


class _Held(NamedTuple):
    time: float
    frame: np.ndarray
    flow_px: np.ndarray | None


class Playback:
    """Writes the video, a frame at a time, in memory that does not grow with its length.

    Colour is full at the speed that one pixel in a hundred of the first frames' flow exceeds. It stays so for the
    whole video: a scale that changed on the way would make still and fast look alike.

    Args:
        path: the WebM file.
    """

    def __init__(self, path: Path):
        self.full_colour_px: float | None = None
        self._container = av.open(str(path), "w", format="webm")
        self._stream: av.VideoStream | None = None
        self._held: list[_Held] = []
        self._last = -1

    def __enter__(self) -> Playback:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        if error is None:
            self._release()
            if self._stream is not None:
                self._container.mux(self._stream.encode())
        self._container.close()

    def add(self, time: float, frame: np.ndarray, flow_px: np.ndarray | None) -> None:
        """Add a frame.

        Args:
            time: seconds from the video's start.
            frame: uint8 [H, W, 3] RGB.
            flow_px: float32 [h, w, 2], the motion from this frame to the next; None at the end, drawn as no motion.
        """
        held = _Held(time, frame, flow_px)
        if self.full_colour_px is not None:
            self._write(held)
            return
        self._held.append(held)
        if len(self._held) == _LOOK_AHEAD:
            self._release()

    def _release(self) -> None:
        if self.full_colour_px is None:
            speeds = [
                np.linalg.norm(held.flow_px, axis=-1)[::2, ::2].ravel()
                for held in self._held
                if held.flow_px is not None
            ]
            fast = float(np.percentile(np.concatenate(speeds), 99)) if speeds else 0.0
            self.full_colour_px = max(fast, _LEAST_FULL_COLOUR)
        held, self._held = self._held, []
        for one in held:
            self._write(one)

    def _write(self, held: _Held) -> None:
        if self._stream is None:
            self._stream = self._open_stream(held.frame)
        size = self._stream.width // 2, self._stream.height
        if held.flow_px is None:
            motion = np.full((size[1], size[0], 3), 255, np.uint8)
        else:
            motion = _resized(flow_to_color(held.flow_px, self.full_colour_px), size)
        picture = av.VideoFrame.from_ndarray(np.hstack([_resized(held.frame, size), motion]), format="rgb24")
        # Time stamps must grow; files whose own do not are played a millisecond a frame there.
        self._last = picture.pts = max(round(held.time / _TICK), self._last + 1)
        picture.time_base = _TICK
        self._container.mux(self._stream.encode(picture))

    def _open_stream(self, frame: np.ndarray) -> av.VideoStream:
        height, width = frame.shape[:2]
        scale = min(1.0, _MOST_SIDE / height)
        stream = self._container.add_stream(_CODEC, rate=_USUAL_RATE, options=_OPTIONS)
        stream.codec_context.time_base = _TICK
        stream.codec_context.gop_size = _KEY_FRAMES
        stream.codec_context.thread_count = 1  # more of them wait for each other longer than they work
        stream.pix_fmt = "yuv420p"
        # An even number of pixels on each side, as the colour format asks for.
        stream.width, stream.height = 4 * round(width * scale / 2), 2 * round(height * scale / 2)
        return stream


def _resized(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    if (image.shape[1], image.shape[0]) == size:
        return image
    shrinks = size[0] < image.shape[1]
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
