"""Events in every format, and back through `twostream import` where there is a way back."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from helpers import moving_texture, write_video

from twostream.annotations import import_annotations
from twostream.errors import UserError
from twostream.fusion.events import Event
from twostream.inference.event_files import Timeline, check_target, write_events

EVENTS = [Event(1.0, 3.0, "wave", 0.9), Event(2.4, 3721.5, "a < b\n& c", 0.75)]
ONE = Timeline("in/long.mp4", 4000.0, np.arange(0, 4000, 0.04), EVENTS)


def test_subtitles_are_webvtt(tmp_path):
    write_events(tmp_path / "a.vtt", [ONE])
    assert (tmp_path / "a.vtt").read_text() == (
        "WEBVTT\n\n00:00:01.000 --> 00:00:03.000\nwave 90 %\n\n00:00:02.400 --> 01:02:01.500\na &lt; b &amp; c 75 %\n"
    )


def test_tables_and_json_hold_all_videos(tmp_path):
    other = Timeline("in/other.mp4", 9.0, np.arange(9.0), [])
    write_events(tmp_path / "a.csv", [ONE, other])
    with open(tmp_path / "a.csv", newline="") as file:
        assert list(csv.reader(file)) == [
            ["video", "start", "end", "label", "confidence"],
            ["in/long.mp4", "1.000", "3.000", "wave", "0.900000"],
            ["in/long.mp4", "2.400", "3721.500", "a < b\n& c", "0.750000"],
        ]
    write_events(tmp_path / "a.JSON", [ONE, other])
    first, second = json.loads((tmp_path / "a.JSON").read_text())
    assert first["events"][0] == {"start": 1.0, "end": 3.0, "class": "wave", "confidence": 0.9}
    assert second == {"video": "in/other.mp4", "seconds": 9.0, "events": []}


def test_label_studio_predictions_have_the_structure_of_its_annotations(tmp_path):
    path = write_video(tmp_path / "videos/long.mp4", moving_texture(100, 32, 32, 1))
    events = [Event(1.0, 3.0, "wave", 0.9), Event(2.4, 4.0, "jump", 0.8)]
    write_events(tmp_path / "a.ls.json", [Timeline("in/long.mp4", 4.0, np.arange(100) / 25, events)])
    (task,) = json.loads((tmp_path / "a.ls.json").read_text())
    assert task["data"] == {"video": "in/long.mp4"}
    (prediction,) = task["predictions"]
    assert prediction["score"] == pytest.approx(0.85)
    region = prediction["result"][0]
    assert {region[key] for key in ("from_name", "to_name", "type")} == {"videoLabels", "video", "timelinelabels"}
    assert region["value"] == {"ranges": [{"start": 26, "end": 75}], "timelinelabels": ["wave"]}
    # Accepted as annotations, they are the events again.
    (tmp_path / "export.json").write_text(json.dumps([{**task, "annotations": task["predictions"]}]))
    rows = import_annotations([tmp_path / "export.json"], path.parent, blocks=1)
    assert [(row["start"], row["end"], row["class"]) for row in rows] == [("1", "3", "wave"), ("2.4", "4", "jump")]


def test_a_table_of_events_can_be_imported(tmp_path):
    path = write_video(tmp_path / "videos/long.mp4", moving_texture(100, 32, 32, 1))
    write_events(tmp_path / "a.csv", [ONE._replace(events=EVENTS[:1])])
    (row,) = import_annotations([tmp_path / "a.csv"], path.parent, blocks=1)
    assert row == {"path": "long.mp4", "class": "wave", "start": "1", "end": "3"}


def test_targets_are_checked_before_predicting(tmp_path):
    check_target(tmp_path / "a.csv", 9)
    for name, videos, problem in (
        ("a.txt", 1, "let its name end in .csv, .ls.json, .json, .vtt"),
        ("a.vtt", 2, "subtitles are of one video"),
        ("no/a.csv", 1, "there is no folder"),
    ):
        with pytest.raises(UserError, match=problem):
            check_target(tmp_path / name, videos)
