"""From a Label Studio export to a trained model and back to predictions, on a small video with two motions and gaps."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from helpers import moving_texture, write_video
from small_project import SmallProject, prepare

from twostream.fusion.events import Event, event_scores

pytestmark = pytest.mark.slow

LONG, GAP, COUNT = 30, 25, 24  # frames of a segment and of a gap; segments


def make_video(folder: Path) -> tuple[Path, Path, list[Event]]:
    """Write a video in which textures move left or right, with still frames between, and its export."""
    rng = np.random.default_rng(0)
    frames, truth = [], []
    for number in range(COUNT):
        moving = moving_texture(LONG, 36, 48, step=2, seed=number)
        label = ("left", "right")[rng.integers(2)]
        moving = moving[::-1] if label == "left" else moving
        frames += [moving[0]] * GAP
        truth.append(Event(len(frames) / 25, (len(frames) + LONG) / 25, label))
        frames += moving
    video = write_video(folder / "long.mp4", frames)
    ranges = [(round(event.start * 25) + 1, round(event.end * 25), event.label) for event in truth]
    result = [
        {
            "type": "timelinelabels",
            "from_name": "videoLabels",
            "to_name": "video",
            "value": {"ranges": [{"start": first, "end": last}], "timelinelabels": [label]},
        }
        for first, last, label in ranges
    ]
    task = {"id": 1, "data": {"video": "/data/upload/1/0a1b2c3d-long.mp4"}, "annotations": [{"result": result}]}
    export = folder / "export.json"
    export.write_text(json.dumps([task]))
    return video, export, truth


def test_segments_lead_to_a_model_that_finds_them(tmp_path, demo_values):
    project: SmallProject = prepare(tmp_path, demo_values)
    video, export, truth = make_video(tmp_path / "now/long")
    code, output = project.run("twostream.cli", "import", str(export), "--background", "still")
    assert code == 0 and "data/tables/export.csv: " in output, output
    head = {"model": "motion_histogram", "weights": "none", "tune": "head", "size": 32}
    head["sampling"] = {"mode": "uniform", "segments": 1, "frames": 12}
    head["augment"] = {"flip": False}  # the classes differ by left and right
    dataset = {"source": str(video.parent), "table": "data/tables/export.csv", "background": "still"}
    project.set({"dataset": dataset, "streams": {"flow3d": head}, "fusion": {"method": "weighted"}})
    project.repro()
    events = json.loads((project.folder / "metrics/metrics.json").read_text())["events"]
    assert events["true"] >= 4 and events["f1"] >= 0.8
    assert "truth" in (project.folder / "metrics/report.html").read_text()
    code, output = project.run("twostream.cli", "predict", str(video), "--events", str(tmp_path / "out.ls.json"))
    assert code == 0, output
    (task,) = json.loads((tmp_path / "out.ls.json").read_text())
    found = []
    for region in task["predictions"][0]["result"]:
        (one,) = region["value"]["ranges"]
        found.append(
            Event((one["start"] - 1) / 25, one["end"] / 25, region["value"]["timelinelabels"][0], region["score"])
        )
    assert event_scores([(truth, found)])["f1"] >= 0.8
