"""One job's work: an uploaded video becomes windows with the probabilities of every stream, and a video to play."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import numpy as np

from twostream.errors import UserError, reason
from twostream.fusion.events import Curves, EventSettings, find_events
from twostream.inference.event_files import event_dict
from twostream.inference.serve.jobs import Job
from twostream.inference.serve.playback import Playback
from twostream.report.charts import stream_tokens
from twostream.report.text import visible
from twostream.video import VideoError, open_video
from twostream.video.probe import probe

if TYPE_CHECKING:
    from twostream.inference.predict import Predictor

MOST_PIXELS = 4096 * 2304
_MOST_RATE = 240  # frames per second: time stamps can lie, the number of packets cannot


def describe(predictor: Predictor) -> dict[str, Any]:
    """Return what the page needs to know: printable class names, and streams and fusion with their colours' tokens."""
    tokens = stream_tokens(predictor.streams)  # ends with the fusion
    sources = [{"name": name, "label": visible(name), "token": token} for name, token in tokens.items()]
    return {"classes": [visible(name) for name in predictor.classes], "sources": sources}


def make_work(predictor: Predictor, max_seconds: float, settings: EventSettings | None = None) -> Callable[[Job], None]:
    """Return the work of `jobs.Jobs`: predict with this predictor, refuse videos longer than `max_seconds`.

    Args:
        settings: how events are found; None for the usual thresholds.
    """

    def work(job: Job) -> None:
        packets = count_packets(job.upload, max_seconds, job.check)
        job.state = "running"
        warning = probe(job.upload).reason
        frames = 0
        with Playback(job.playback) as playback:

            def on_frame(time: float, frame: np.ndarray, flow_px: np.ndarray | None) -> None:
                nonlocal frames
                job.check()
                playback.add(time, frame, flow_px)
                frames += 1
                job.progress = min(frames / max(packets, 1), 1.0)

            fused = []
            total = {name: np.zeros(len(predictor.classes)) for name in (*predictor.streams, "fusion")}
            for window in predictor.windows(job.upload, every=job.every, on_frame=on_frame):
                job.check()
                probabilities = {name: window.probabilities(name) for name in total}
                total = {name: total[name] + probabilities[name] for name in total}
                fused.append(probabilities["fusion"])
                span = {"start": round(window.start, 3), "end": round(window.end, 3), "frames": window.frames}
                job.windows.append(span | {"probabilities": _rounded(probabilities)})
        job.progress = 1.0
        job.result = {
            "overall": _rounded({name: values / len(job.windows) for name, values in total.items()}),
            "seconds": job.windows[-1]["end"],
            "frames": frames,
            "events": _events(job, np.stack(fused), predictor.classes, settings or EventSettings()),
            "full_colour_px": playback.full_colour_px,
            "warning": f"{warning[0].upper()}{warning[1:]}." if warning else "",
        }

    return work


def _events(job: Job, fused: np.ndarray, classes: list[str], settings: EventSettings) -> list[dict[str, Any]]:
    """Return the events in the windows of a job, for the page; a single window has no events."""
    if len(fused) < 2:
        return []
    middles = np.array([(window["start"] + window["end"]) / 2 for window in job.windows])
    found = find_events(Curves(middles, fused, 0.0, job.windows[-1]["end"]), classes, settings)
    return [event_dict(event._replace(label=visible(event.label))) for event in found]


def _rounded(probabilities: dict[str, np.ndarray]) -> dict[str, list[float]]:
    return {name: [round(float(value), 4) for value in values] for name, values in probabilities.items()}


def count_packets(path: Path, max_seconds: float, check: Callable[[], None] = lambda: None) -> int:
    """Return the number of a video's packets, about that of its frames; nothing is decoded.

    Args:
        path: the file.
        max_seconds: the longest video that is accepted, by the time stamps of its packets, not by its header.
        check: called often; may raise to end it.

    Raises:
        UserError: no video, or one that is too long or too large.
    """
    too_long = UserError(f"The video is longer than {max_seconds:g} seconds, the limit of this page.")
    try:
        with open_video(path) as video:
            track = video.track
            width, height = track.codec_context.width, track.codec_context.height
            if width * height > MOST_PIXELS:
                raise UserError(f"The video is {width}x{height} pixels, more than this page takes.")
            if (video.container.duration or 0) / av.time_base > max_seconds + 1:
                raise too_long
            first = track.start_time or 0
            count, last = 0, 0.0
            for packet in video.container.demux(track):
                check()
                if not packet.size:
                    continue
                count += 1
                if packet.pts is not None:
                    last = max(last, float((packet.pts - first) * packet.time_base))
                if last > max_seconds or count > max_seconds * _MOST_RATE:
                    raise too_long
    except (VideoError, av.error.FFmpegError) as error:
        why = reason(error).removeprefix("not a video that can be opened: ")
        raise UserError(f"This file is not a video that can be read ({why}).") from None
    return count
