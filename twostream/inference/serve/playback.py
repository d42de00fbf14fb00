"""Write a video for the page: RGB on the left, optical flow as colour on the right, in a format every browser plays."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from twostream.flow.color import flow_to_color, full_colour_px
from twostream.video import resize

# VP8 needs no licence, so browsers that were built without H.264, as on some Linux distributions, play it too.
_OPTIONS = {"deadline": "realtime", "cpu-used": "8", "crf": "12", "b": "4M"}
_TICK = Fraction(1, 1000)  # seconds, the unit of WebM
_USUAL_RATE = 30  # frames per second, for the encoder's rate control only: each frame has its own time
_KEY_FRAMES = 15  # frames from one to the next: a seek decodes at most this many
_LOOK_AHEAD = 64  # frames from which the colour scale is chosen
_MOST_HEIGHT = 720  # pixels


class Playback:
    """Writes the video frame by frame, in memory that does not grow with its length. A context manager.

    Colour is full at the 99th percentile of the speed in the first frames, for the whole video: with a scale that
    changes, slow and fast motion would look alike.

    Args:
        path: the WebM file.

    Attributes:
        full_colour_px: the speed of full colour, once it is chosen.
    """

    def __init__(self, path: Path):
        self.full_colour_px: float | None = None
        self._container = av.open(str(path), "w", format="webm")
        self._stream: av.VideoStream | None = None
        self._waiting: list[tuple[float, np.ndarray, np.ndarray | None]] = []
        self._last_tick = -1

    def __enter__(self) -> Playback:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._flush()
            if self._stream is not None:
                self._container.mux(self._stream.encode())
        self._container.close()

    def add(self, time: float, frame: np.ndarray, flow_px: np.ndarray | None) -> None:
        """Add a frame.

        Args:
            time: seconds from the video's start.
            frame: uint8 [H, W, 3] RGB.
            flow_px: float32 [h, w, 2], the motion from this frame to the next; None is drawn as no motion.
        """
        self._waiting.append((time, frame, flow_px))
        if self.full_colour_px is not None or len(self._waiting) == _LOOK_AHEAD:
            self._flush()

    def _flush(self) -> None:
        if self.full_colour_px is None:
            flows = [flow_px[::2, ::2] for _, _, flow_px in self._waiting if flow_px is not None]
            self.full_colour_px = full_colour_px(np.stack(flows) if flows else np.zeros((0, 2)))
        for time, frame, flow_px in self._waiting:
            self._write(time, frame, flow_px, self.full_colour_px)
        self._waiting.clear()

    def _write(self, time: float, frame: np.ndarray, flow_px: np.ndarray | None, full_px: float) -> None:
        stream = self._stream = self._stream or self._open_stream(*frame.shape[:2])
        size = stream.width // 2, stream.height
        motion = np.full_like(frame, 255) if flow_px is None else flow_to_color(flow_px, full_px)
        both = av.VideoFrame.from_ndarray(np.hstack([resize(frame, size), resize(motion, size)]), format="rgb24")
        # Time stamps must grow; where those of a file do not, its frames are a millisecond apart.
        self._last_tick = both.pts = max(round(time / _TICK), self._last_tick + 1)
        both.time_base = _TICK
        self._container.mux(stream.encode(both))

    def _open_stream(self, height: int, width: int) -> av.VideoStream:
        scale = min(1.0, _MOST_HEIGHT / height)
        stream = self._container.add_stream("libvpx", rate=_USUAL_RATE, options=_OPTIONS)
        stream.codec_context.time_base = _TICK
        stream.codec_context.gop_size = _KEY_FRAMES
        stream.codec_context.thread_count = 1  # more of them wait for each other longer than they work
        stream.pix_fmt = "yuv420p"
        # The colour format needs even sides.
        stream.width, stream.height = 4 * round(width * scale / 2), 2 * round(height * scale / 2)
        return stream
