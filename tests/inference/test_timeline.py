"""Windows that overlap, stretches of one subset, and events with random models."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers import moving_texture, write_video
from random_models import CLASSES, make_models

from twostream.datasets.tables import CLIP_COLUMNS, SPAN_COLUMNS
from twostream.fusion.events import COLUMNS, Event, EventSettings
from twostream.inference import timeline
from twostream.inference.predict import Predictor, sliding_windows
from twostream.inference.timeline import measure_events, stretches
from twostream.params import Score

TIMES = np.arange(100) / 25


@pytest.mark.parametrize(("start", "end", "window"), [(0, 4, 1), (0, 4, 0.9), (1, 3, 1), (0.5, 1, 2), (0, 4, 4)])
def test_windows_overlap_by_half_and_cover_the_time(start, end, window):
    found = sliding_windows(TIMES, start, end, window)
    edges = np.append(TIMES, 4.0)
    assert edges[found[0][0]] == pytest.approx(start, abs=0.041)
    assert edges[found[-1][1]] == pytest.approx(end, abs=0.041)
    for first, last in found:
        assert edges[last] - edges[first] == pytest.approx(min(window, end - start), abs=0.041)
    for (first, _), (following, _) in itertools.pairwise(found):
        assert 0.24 * window < edges[following] - edges[first] < 0.76 * window + 0.04


def test_stretches_change_in_the_middle_between_clips_of_two_subsets():
    rows = [("a", "x", 1, 2), ("b", "none", 2, 3), ("c", "y", 5, 7), ("d", "x", 6, 8), ("e", "y", 9, 9.5)]
    clips = pd.DataFrame(rows, columns=["clip_id", "class", "start", "end"]).assign(path="v.mp4", status="ok")
    subset = pd.Series(["train", "train", "val", "val", "test"], index=list("abcde"))
    found = stretches(clips, subset, "none", {"v.mp4": 20.0})
    assert [(one.subset, one.start, one.end) for one in found] == [
        ("train", 0.0, 4.0),
        ("val", 4.0, 8.5),
        ("test", 8.5, 20.0),
    ]
    assert found[0].truth == [Event(1, 2, "x")] and len(found[1].truth) == 2


@pytest.fixture(scope="module")
def predictor(tmp_path_factory):
    models = make_models(tmp_path_factory.mktemp("random") / "models")
    return Predictor(models, accelerator="cpu", score=Score(segments=2, crops=1, flip=False)), models


@pytest.mark.slow
def test_overlapping_windows_have_the_scores_of_windows_alone(predictor, tmp_path):
    path = write_video(tmp_path / "a.mp4", moving_texture(60))
    made = predictor[0].timeline(path, 0.8)
    assert len(made.windows) > 4 and made.windows[-1].end == pytest.approx(2.4)
    for window in made.windows[::2]:
        first = int(np.searchsorted(made.times, window.start - 1e-6))
        (alone,) = predictor[0].score_windows(path, made.times, 2.4, [(first, first + window.frames)])
        np.testing.assert_allclose(alone.fused, window.fused, atol=1e-4)
        assert (alone.start, alone.end) == (window.start, window.end)


@pytest.mark.slow
def test_events_are_found_in_test_time_and_scores_are_kept(predictor, tmp_path, monkeypatch):
    write_video(tmp_path / "v/a.mp4", moving_texture(150))
    rows = [
        [f"{label}/a@{start}", "a.mp4", label, "g", 25, 25.0, 64, 48, "ok", "", start, start + 1.0]
        for label, start in zip(CLASSES * 3, (0.0, 1.0, 2.0, 3.0, 4.0, 5.0), strict=True)
    ]
    clips = pd.DataFrame(rows, columns=CLIP_COLUMNS + SPAN_COLUMNS)
    subset = pd.Series(["train", "train", "val", "val", "test", "test"], index=clips["clip_id"])
    usual = EventSettings(window=1.0)

    def measure() -> tuple[EventSettings, pd.DataFrame]:
        return measure_events(clips, subset, 1, usual, *predictor[:1], tmp_path / "v", predictor[1], tmp_path / "cache")

    settings, table = measure()
    assert settings.window == 1.0 and settings.chosen
    assert list(table.columns) == COLUMNS
    true = table[table["kind"] == "truth"]
    assert set(zip(true["start"], true["end"], true["class"], strict=True)) == {(4, 5, CLASSES[0]), (5, 6, CLASSES[1])}
    assert set(table["from"]) == {4.0} and set(table["to"]) == {6.0}
    monkeypatch.setattr(timeline, "sliding_windows", None)  # not needed again
    again, same = measure()
    assert again == settings
    pd.testing.assert_frame_equal(table, same)
    assert Path(tmp_path / "cache/windows.jsonl").exists()
