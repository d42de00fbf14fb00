"""One job's work: an uploaded video becomes windows with every stream's opinion, and a picture of what was seen."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import av
import numpy as np

from twostream.errors import UserError
from twostream.inference.serve.jobs import Job
from twostream.inference.serve.playback import Playback
from twostream.report.text import visible
from twostream.video import MAX_LOST

if TYPE_CHECKING:
    from twostream.inference.predict import Window

FUSION = "fusion"
MOST_PIXELS = 4096 * 2304
_MOST_RATE = 240  # frames a second: time stamps can lie, the number of packets cannot
# FFmpeg's names of containers that hold their video themselves. A playlist (HLS, DASH, concat, SDP) would make it open
# whatever file or address the playlist names.
_FORMATS = (
    "3gp,asf,avi,dv,flv,gif,h264,hevc,ivf,m4v,matroska,mjpeg,mov,mp4,mpeg,mpegts,mpegvideo,mxf,nut,ogg,rm,webm,wtv,"
    "yuv4mpegpipe"
)


class Predictor(Protocol):
    """What of `twostream.inference.predict.Predictor` the page needs."""

    classes: list[str]
    streams: dict[str, str]

    def windows(
        self, source: Path, every: float | None = None, watch: Callable[..., None] | None = None
    ) -> Iterator[Window]:
        """The windows of a video, in order."""


def make_work(predictor: Predictor, max_seconds: float) -> Callable[[Job], None]:
    """The work of `jobs.Jobs`: predict with this predictor, refuse videos longer than `max_seconds`."""

    def work(job: Job) -> None:
        job.check()
        packets, warning = measure(job.upload, max_seconds, job.check)
        job.state = "running"
        seen = 0
        with Playback(job.picture) as playback:

            def watch(time: float, frame: np.ndarray, flow_px: np.ndarray | None) -> None:
                nonlocal seen
                job.check()
                playback.add(time, frame, flow_px)
                seen += 1
                job.progress = min(seen / max(packets, 1), 1.0)

            total = {name: np.zeros(len(predictor.classes)) for name in (*predictor.streams, FUSION)}
            for window in predictor.windows(job.upload, every=job.every, watch=watch):
                job.check()
                opinions = {name: window.probabilities(name) for name in total}
                for name, probabilities in opinions.items():
                    total[name] += probabilities
                job.windows.append(
                    {
                        "start": round(window.start, 3),
                        "end": round(window.end, 3),
                        "frames": window.frames,
                        "opinions": {name: _plain(values) for name, values in opinions.items()},
                    }
                )
        job.progress = 1.0
        job.result = {
            "overall": {name: _plain(values / len(job.windows)) for name, values in total.items()},
            "seconds": job.windows[-1]["end"],
            "frames": seen,
            "full_colour_px": playback.full_colour_px,
            "warning": warning,
        }

    return work


class Measure(NamedTuple):
    """What the packets of a file tell: how many of video there are, about as many as frames, and what is wrong."""

    packets: int
    warning: str


def measure(path: Path, max_seconds: float, check: Callable[[], None] = lambda: None) -> Measure:
    """Read a video's packets; nothing is decoded.

    Args:
        path: the file.
        max_seconds: the longest video that is taken. What counts is the time stamps of its packets, not its header.
        check: called often; may raise to end it.

    Raises:
        UserError: no video, or one that is too long or too large.
    """
    options = {"format_whitelist": _FORMATS, "protocol_whitelist": "file"}
    too_long = UserError(f"The video is longer than {max_seconds:g} seconds, the limit of this page.")
    try:
        with av.open(f"file:{path}", options=options, metadata_errors="replace") as container:
            if not container.streams.video:
                raise UserError("There is no video in this file.")
            stream = container.streams.video[0]
            width, height = stream.codec_context.width, stream.codec_context.height
            if width * height > MOST_PIXELS:
                raise UserError(f"The video is {width}x{height} pixels, more than this page takes.")
            duration = (container.duration or 0) / av.time_base
            if duration > max_seconds + 1:
                raise too_long
            start = (stream.start_time or 0) * stream.time_base
            count, last = 0, 0.0
            for packet in container.demux(stream):
                check()
                if not packet.size:
                    continue
                count += 1
                if packet.pts is not None:
                    last = max(last, float(packet.pts * packet.time_base - start))
                if last > max_seconds or count > max_seconds * _MOST_RATE:
                    raise too_long
            there = 1.0
            if stream.frames:
                there = count / stream.frames
            elif duration and count > 1:
                there = last * count / (count - 1) / duration
    except av.error.FFmpegError as error:
        reason = error.strerror or type(error).__name__
        raise UserError(f"This file is not a video that can be read ({reason}).") from None
    cut = f"The file is cut short: about {100 * there:.0f} % of the video is there." if there < 1 - MAX_LOST else ""
    return Measure(count, cut)


def describe(predictor: Predictor) -> dict[str, Any]:
    """What the page needs to know of the model: class names fit to be shown, and each opinion with its modality.

    `token` names the colour, as in the report: the first stream of a modality has the modality's.
    """
    opinions, others = [], 0
    for name, modality in predictor.streams.items():
        token = modality
        if any(one["token"] == token for one in opinions):
            token, others = f"extra{others % 4 + 1}", others + 1
        opinions.append({"name": name, "label": visible(name), "modality": modality, "token": token})
    opinions.append({"name": FUSION, "label": FUSION, "modality": "", "token": FUSION})
    return {"classes": [visible(name) for name in predictor.classes], "opinions": opinions}


def _plain(probabilities: np.ndarray) -> list[float]:
    return [round(float(value), 4) for value in probabilities]
