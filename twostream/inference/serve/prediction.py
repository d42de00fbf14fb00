"""One job's work: an uploaded video becomes windows with the probabilities of every stream, and a video to play."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import numpy as np

from twostream.errors import UserError, reason
from twostream.inference.serve.jobs import Job
from twostream.inference.serve.playback import Playback
from twostream.report.charts import stream_tokens
from twostream.report.text import visible
from twostream.video.probe import MAX_LOST

if TYPE_CHECKING:
    from twostream.inference.predict import Predictor

MOST_PIXELS = 4096 * 2304
_MOST_RATE = 240  # frames per second: time stamps can lie, the number of packets cannot
# FFmpeg's names of containers that hold their video themselves. A playlist (HLS, DASH, concat, SDP) would make it open
# whatever file or address the playlist names.
_FORMATS = (
    "3gp,asf,avi,dv,flv,gif,h264,hevc,ivf,m4v,matroska,mjpeg,mov,mp4,mpeg,mpegts,mpegvideo,mxf,nut,ogg,rm,webm,wtv,"
    "yuv4mpegpipe"
)


def describe(predictor: Predictor) -> dict[str, Any]:
    """Return what the page needs to know: printable class names, and streams and fusion with their colours' tokens."""
    tokens = stream_tokens(predictor.streams)  # ends with the fusion
    sources = [{"name": name, "label": visible(name), "token": token} for name, token in tokens.items()]
    return {"classes": [visible(name) for name in predictor.classes], "sources": sources}


def make_work(predictor: Predictor, max_seconds: float) -> Callable[[Job], None]:
    """Return the work of `jobs.Jobs`: predict with this predictor, refuse videos longer than `max_seconds`."""

    def work(job: Job) -> None:
        packets, warning = measure(job.upload, max_seconds, job.check)
        job.state = "running"
        frames = 0
        with Playback(job.playback) as playback:

            def on_frame(time: float, frame: np.ndarray, flow_px: np.ndarray | None) -> None:
                nonlocal frames
                job.check()
                playback.add(time, frame, flow_px)
                frames += 1
                job.progress = min(frames / max(packets, 1), 1.0)

            total = {name: np.zeros(len(predictor.classes)) for name in (*predictor.streams, "fusion")}
            for window in predictor.windows(job.upload, every=job.every, on_frame=on_frame):
                job.check()
                probabilities = {name: window.probabilities(name) for name in total}
                total = {name: total[name] + probabilities[name] for name in total}
                span = {"start": round(window.start, 3), "end": round(window.end, 3), "frames": window.frames}
                job.windows.append(span | {"probabilities": _rounded(probabilities)})
        job.progress = 1.0
        job.result = {
            "overall": _rounded({name: values / len(job.windows) for name, values in total.items()}),
            "seconds": job.windows[-1]["end"],
            "frames": frames,
            "full_colour_px": playback.full_colour_px,
            "warning": warning,
        }

    return work


def _rounded(probabilities: dict[str, np.ndarray]) -> dict[str, list[float]]:
    return {name: [round(float(value), 4) for value in values] for name, values in probabilities.items()}


def measure(path: Path, max_seconds: float, check: Callable[[], None] = lambda: None) -> tuple[int, str]:
    """Return the number of a video's packets (about that of its frames) and a warning, or ""; nothing is decoded.

    Args:
        path: the file.
        max_seconds: the longest video that is accepted, by the time stamps of its packets, not by its header.
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
            first = stream.start_time or 0
            count, last = 0, 0.0
            for packet in container.demux(stream):
                check()
                if not packet.size:
                    continue
                count += 1
                if packet.pts is not None:
                    last = max(last, float((packet.pts - first) * packet.time_base))
                if last > max_seconds or count > max_seconds * _MOST_RATE:
                    raise too_long
            complete = 1.0
            if stream.frames:
                complete = count / stream.frames
            elif duration and count > 1:
                complete = last * count / (count - 1) / duration
    except av.error.FFmpegError as error:
        raise UserError(f"This file is not a video that can be read ({reason(error)}).") from None
    cut = f"The file is cut short: it holds about {100 * complete:.0f} % of the video."
    return count, cut if complete < 1 - MAX_LOST else ""
