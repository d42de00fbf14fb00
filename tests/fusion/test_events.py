"""Events from window probabilities, and how they compare with true ones."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from twostream.errors import UserError
from twostream.fusion.events import (
    COLUMNS,
    Curves,
    Event,
    EventSettings,
    choose_thresholds,
    event_scores,
    find_events,
    match,
    read_events,
    read_settings,
    stretches_of,
    usual_window,
    write_settings,
)

CLASSES = ["wave", "jump", "nothing"]


def curves(events, end, window=2.0):
    """What a perfect classifier of windows gives: the share of each window that each class has."""
    middles = np.arange(window / 2, end - window / 2 + 1e-9, window / 2)
    probabilities = np.zeros((len(middles), len(CLASSES)))
    for row, middle in enumerate(middles):
        for start, stop, label, *_ in events:
            common = min(stop, middle + window / 2) - max(start, middle - window / 2)
            probabilities[row, CLASSES.index(label)] += max(common, 0) / window
        probabilities[row, -1] = 1 - probabilities[row, :-1].sum()
    return Curves(middles, probabilities, 0.0, end)


def test_events_start_and_end_where_they_do_in_the_video():
    truth = [Event(3.0, 6.0, "wave"), Event(8.5, 11.5, "jump"), Event(15.0, 25.0, "wave"), Event(25.0, 30.0, "jump")]
    found = find_events(curves(truth, 40.0), CLASSES, EventSettings(high=0.5, low=0.5, background="nothing"))
    assert [event.label for event in found] == ["wave", "jump", "wave", "jump"]
    for event, true in zip(found, truth, strict=True):
        assert abs(event.start - true.start) < 0.3 and abs(event.end - true.end) < 0.3


def test_an_event_can_be_at_the_edge_and_needs_one_high_value():
    values = np.array([[0.9, 0.1, 0], [0.5, 0.1, 0.4], [0.05, 0.05, 0.9], [0.3, 0.4, 0.3]])
    one = Curves(np.array([1.0, 2.0, 3.0, 4.0]), values, 0.0, 5.0)
    found = find_events(one, CLASSES, EventSettings(high=0.8, low=0.35, background="nothing"))
    assert found == [Event(0.0, pytest.approx(2.5), "wave", 0.9)]
    found = find_events(one, CLASSES, EventSettings(high=0.6, low=0.35, background="nothing"))
    assert found[1:] == [Event(pytest.approx(3 + 0.25 / 0.6), 5.0, "jump", 0.4)]


def test_without_a_background_the_most_probable_class_counts():
    values = np.array([[0.9, 0.1, 0], [0.4, 0.3, 0.3], [0.1, 0.1, 0.8], [0.1, 0.1, 0.8]])
    one = Curves(np.array([1.0, 2.0, 3.0, 4.0]), values, 0.0, 5.0)
    found = find_events(one, CLASSES, EventSettings(high=0.6, low=0.5))
    assert [(event.label, event.confidence) for event in found] == [("wave", 0.9), ("nothing", 0.8)]
    assert found[0].end < found[1].start
    whole = find_events(one, CLASSES, EventSettings(high=0.6, low=0.3))
    assert [event.label for event in whole] == ["wave", "nothing"] and whole[0].end == whole[1].start


def test_an_event_has_the_class_of_most_windows_and_one_unsure_window_does_not_split_it():
    windows = [[0, 0, 1], [0.6, 0.3, 0.1], [0.4, 0.55, 0.05], [0.7, 0.2, 0.1], [0, 0, 1]]
    one = Curves(np.arange(5.0), np.array(windows), 0.0, 4.0)
    found = find_events(one, CLASSES, EventSettings(background="nothing"))
    assert [(event.label, event.confidence) for event in found] == [("wave", 0.7)]


def test_a_short_dip_above_the_low_threshold_does_not_split_an_event():
    values = np.column_stack([[0.1, 0.9, 0.45, 0.9, 0.1], np.zeros(5), np.zeros(5)])
    one = Curves(np.arange(5.0), values, 0.0, 4.0)
    assert len(find_events(one, CLASSES, EventSettings(high=0.6, low=0.4))) == 1
    assert len(find_events(one, CLASSES, EventSettings(high=0.6, low=0.5))) == 2


def test_matching_counts_each_true_event_once_and_needs_half_an_overlap():
    truth = [Event(0, 10, "wave"), Event(20, 30, "wave")]
    predicted = [
        Event(0, 9, "wave", 0.6),
        Event(1, 10, "wave", 0.9),  # chooses first
        Event(24, 38, "wave", 0.9),  # overlaps by 6 of 18
        Event(20, 30, "jump", 0.9),
    ]
    assert match(truth, predicted) == [False, True, False, False]
    scores = event_scores([(truth, predicted), ([], [])])
    assert scores == {"f1": round(2 / 6, 6), "precision": 0.25, "recall": 0.5, "true": 2, "predicted": 4}
    assert event_scores([([], [])])["f1"] == 0


def test_thresholds_come_from_validation():
    truth = [Event(3.0, 6.0, "wave"), Event(9.0, 12.0, "jump")]
    weak = curves(truth, 20.0)
    weak = weak._replace(probabilities=0.5 * weak.probabilities)  # no window is surer than half
    usual = EventSettings(window=2.0, background="nothing")
    assert not find_events(weak, CLASSES, usual)
    chosen = choose_thresholds([(truth, weak)], CLASSES, usual)
    assert chosen.chosen and chosen.window == 2.0 and chosen.low <= chosen.high <= 0.5
    assert all(match(truth, find_events(weak, CLASSES, chosen)))
    assert choose_thresholds([([], weak)], CLASSES, usual) == usual


def test_settings_are_those_that_were_written(tmp_path):
    path = tmp_path / "events-1.json"
    assert read_settings(path) == EventSettings()
    settings = EventSettings(1.25, 0.7, 0.3, "nothing", True)
    write_settings(path, settings)
    assert read_settings(path) == settings
    path.write_text(path.read_text().replace("0.7", "0.2"))
    with pytest.raises(UserError, match="not usable"):
        read_settings(path)


def test_the_window_is_the_lower_quartile_of_training_events():
    seconds = [1, 2, 3, 4, 5, 50, 60]
    names = [f"c{number}" for number in range(len(seconds))]
    clips = pd.DataFrame({"clip_id": names, "class": ["a"] * 6 + ["none"], "frames": seconds, "fps": 1.0})
    subset = pd.Series(["train"] * 5 + ["test", "train"], names)
    assert usual_window(clips, subset, "none") == 2.0
    assert usual_window(clips, subset.replace("train", "val"), "none") == 0.0


def test_tables_of_events_come_back(tmp_path):
    rows = [
        [1, "a/x.mp4", 0.0, 9.5, "truth", 1.0, 2.0, "None", 1.0],
        [1, "a/x.mp4", 0.0, 9.5, "predicted", 1.0, 2.5, "None", 0.8],
        [1, "a/y.mp4", 3.0, 9.0, "truth", 4.0, 5.0, "wave", 1.0],
    ]
    pd.DataFrame(rows, columns=COLUMNS).to_csv(tmp_path / "one.csv", index=False)
    pd.DataFrame(columns=COLUMNS).to_csv(tmp_path / "none.csv", index=False)
    found = list(stretches_of(read_events([tmp_path / "one.csv", tmp_path / "none.csv"])))
    assert found == [
        ("a/x.mp4", 0.0, 9.5, [Event(1, 2, "None", 1)], [Event(1, 2.5, "None", 0.8)]),
        ("a/y.mp4", 3.0, 9.0, [Event(4, 5, "wave", 1)], []),
    ]
    assert not list(stretches_of(read_events([tmp_path / "none.csv"])))
