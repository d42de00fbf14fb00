"""Evaluation: numbers against scikit-learn and closed forms, intervals against the exact distribution."""

import json
import math

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom
from sklearn.metrics import accuracy_score, balanced_accuracy_score, confusion_matrix, f1_score, top_k_accuracy_score

from twostream.errors import UserError
from twostream.fusion import evaluation
from twostream.fusion.evaluation import (
    best_stream,
    confusion,
    contribution,
    contribution_by_agreement,
    contribution_by_class,
    draw_groups,
    error_overlap,
    mistakes,
    per_class,
    results_table,
    select_test_clips,
)
from twostream.fusion.scores import Scores

DRAWS = {"bootstrap": 1000, "confidence": 0.95, "seed": 0}


def scores(label, logits, subset=None, ids=None, classes=None):
    logits = np.asarray(logits, float)
    count = logits.shape[1]
    return Scores(
        clip_id=np.array([f"clip{i:05d}" for i in range(len(label))] if ids is None else ids),
        label=np.asarray(label),
        classes=np.array([f"class{i}" for i in range(count)] if classes is None else classes),
        subset=np.array(["test"] * len(label) if subset is None else subset),
        logits=logits,
    )


def evaluate(streams, fused, *more, **settings):
    return evaluation.evaluate(select_test_clips(streams, fused), *more, **settings)


def outcome(right, classes=2, **more):
    """Scores of clips of class 0 that are right where `right` says so."""
    right = np.asarray(right, bool)
    return scores(np.zeros(len(right), int), np.where(right[:, None], np.eye(classes)[0], np.eye(classes)[1]), **more)


def guesses(clips, classes, signal, seed, val=0, label=None):
    generator = np.random.default_rng(seed)
    label = np.random.default_rng(99).integers(classes, size=clips) if label is None else label
    logits = generator.normal(size=(clips, classes)) + signal * np.eye(classes)[label]
    return scores(label, logits, subset=["val"] * val + ["test"] * (clips - val))


def own_group(one):
    return pd.Series(one.clip_id, index=one.clip_id)


def test_accuracies_are_scikit_learns_and_come_from_test_clips_alone():
    streams = {"a": guesses(300, 7, 1.0, 1, val=100), "b": guesses(300, 7, 0.5, 2, val=100)}
    fused = guesses(300, 7, 2.0, 3, val=100)
    metrics = evaluate({1: streams}, {1: fused}, own_group(fused), ["a", "b"], **DRAWS)
    assert list(metrics) == ["a", "b", "fusion", "fusion_gain"]
    for name, one in [*streams.items(), ("fusion", fused)]:
        label, logits = one.label[100:], one.logits[100:]
        got = metrics[name]
        assert got["top1"] == pytest.approx(accuracy_score(label, logits.argmax(1)), abs=1e-6)
        assert got["top5"] == pytest.approx(top_k_accuracy_score(label, logits, k=5), abs=1e-6)
        assert got["mean_class_accuracy"] == pytest.approx(balanced_accuracy_score(label, logits.argmax(1)), abs=1e-6)
        assert got["top1_low"] < got["top1"] < got["top1_high"]
        assert got["top1_std"] == 0.0
        f1 = f1_score(label, logits.argmax(1), average="macro")
        assert got["macro_f1"] == pytest.approx(f1, abs=1e-6)
        assert set(got) == {"top1", "top5", "mean_class_accuracy", "macro_f1", "top1_low", "top1_high", "top1_std"}
    gain = metrics["fusion_gain"]
    assert gain["top1"] == pytest.approx(metrics["fusion"]["top1"] - metrics["a"]["top1"], abs=2e-6)
    assert gain["low"] < gain["top1"] < gain["high"]


def test_paired_differences_are_those_of_the_gain_and_name_both_systems():
    streams = {"a": guesses(200, 4, 1.0, 1), "b": guesses(200, 4, 0.5, 2)}
    fused = guesses(200, 4, 2.0, 3)
    tested = select_test_clips({1: streams}, {1: fused})
    gain = evaluation.evaluate(tested, own_group(fused), ["a", "b"], **DRAWS)["fusion_gain"]
    pairs = evaluation.paired_differences(tested, own_group(fused), [("fusion", "a"), ("b", "b")], **DRAWS)
    assert pairs == {"fusion - a": gain, "b - b": {"top1": 0.0, "low": 0.0, "high": 0.0}}


def test_the_class_prior_answers_what_was_most_frequent_in_training():
    one = scores([0, 0, 0, 1], np.eye(2)[[0, 0, 0, 1]])
    tested = select_test_clips({1: {"a": one}}, {1: one})
    assert evaluation.class_prior(tested, {1: ["class1", "class1", "class0"]}) == 0.25


def test_the_metrics_are_plain_numbers_of_six_digits_and_the_same_each_time():
    one, fused = guesses(50, 3, 1.0, 1), guesses(50, 3, 2.0, 2)
    texts = {json.dumps(evaluate({1: {"a": one}}, {1: fused}, own_group(one), ["a"], **DRAWS)) for _ in range(2)}
    assert len(texts) == 1
    assert all(round(v, 6) == v for part in json.loads(texts.pop()).values() for v in part.values())


def test_with_fewer_than_five_classes_top5_is_one():
    one = guesses(30, 3, 0.0, 1)
    assert evaluate({1: {"a": one}}, {1: one}, own_group(one), ["a"], **DRAWS)["a"]["top5"] == 1.0


def test_a_class_without_test_clips_is_left_out_of_the_class_mean():
    one = scores([0, 0, 0, 2], np.eye(3)[[0, 0, 1, 2]])
    assert evaluate({1: {"a": one}}, {1: one}, own_group(one), ["a"], **DRAWS)["a"]["mean_class_accuracy"] == round(
        (2 / 3 + 1) / 2, 6
    )


def test_the_interval_of_single_clip_groups_is_the_binomial_one():
    # The number right in a resampling of n clips is exactly Binomial(n, p).
    right = np.arange(200) < 150
    one = outcome(right)
    metrics = evaluate({1: {"a": one}}, {1: one}, own_group(one), ["a"], bootstrap=20_000, confidence=0.9, seed=3)["a"]
    assert [metrics["top1_low"], metrics["top1_high"]] == pytest.approx(
        [binom.ppf(q, 200, 0.75) / 200 for q in (0.05, 0.95)], abs=1 / 200 + 1e-6
    )


def test_clips_that_agree_within_their_group_count_once():
    groups_right = np.random.default_rng(0).random(40) < 0.6
    clips = outcome(groups_right.repeat(6))
    of = pd.Series(np.array([f"g{i:02d}" for i in range(40)]).repeat(6), index=clips.clip_id)
    single = outcome(groups_right)
    grouped = evaluate({1: {"a": clips}}, {1: clips}, of, ["a"], **DRAWS)["a"]
    alone = evaluate({1: {"a": single}}, {1: single}, own_group(single), ["a"], **DRAWS)["a"]
    blind = evaluate({1: {"a": clips}}, {1: clips}, own_group(clips), ["a"], **DRAWS)["a"]
    assert grouped == alone
    # 6 clips that agree: the interval is sqrt(6) times that of independent clips
    ratio = (grouped["top1_high"] - grouped["top1_low"]) / (blind["top1_high"] - blind["top1_low"])
    assert ratio == pytest.approx(math.sqrt(6), rel=0.12)


@pytest.mark.slow
def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    # Groups of 5 clips; each group has its own chance of being right, 0.7 in the mean.
    covered = 0
    for seed in range(150):
        generator = np.random.default_rng(seed)
        chance = generator.beta(1.4, 0.6, size=60)
        one = outcome(generator.random(300) < chance.repeat(5))
        of = pd.Series(np.arange(60).repeat(5).astype(str), index=one.clip_id)
        got = evaluate({1: {"a": one}}, {1: one}, of, ["a"], bootstrap=300, confidence=0.9, seed=seed)["a"]
        covered += got["top1_low"] <= 0.7 <= got["top1_high"]
    assert 0.82 <= covered / 150 <= 0.96  # 0.9 and three standard errors


def test_the_gain_is_paired():
    # Fusion is right wherever the stream is and in 10 clips more: its gain cannot be negative in any resampling,
    # although the two intervals overlap widely.
    stream, fused = outcome(np.arange(100) < 50), outcome(np.arange(100) < 60)
    metrics = evaluate({1: {"a": stream}}, {1: fused}, own_group(stream), ["a"], **DRAWS)
    assert metrics["a"]["top1_high"] > metrics["fusion"]["top1_low"]
    assert metrics["fusion_gain"]["top1"] == 0.1
    assert [metrics["fusion_gain"][k] for k in ("low", "high")] == pytest.approx(
        [binom.ppf(q, 100, 0.1) / 100 for q in (0.025, 0.975)], abs=0.011
    )


def test_the_gain_is_over_the_best_of_the_fused_streams_only():
    streams = {"baseline": outcome([1, 1, 1, 1]), "a": outcome([1, 0, 0, 0]), "b": outcome([1, 1, 0, 0])}
    fused = outcome([1, 1, 1, 0])
    gain = evaluate({1: streams}, {1: fused}, own_group(fused), ["a", "b"], **DRAWS)["fusion_gain"]
    assert gain["top1"] == 0.25


def test_the_best_stream_is_the_first_of_equal_ones():
    metrics = {"baseline": {"top1": 1.0}, "a": {"top1": 0.25}, "b": {"top1": 0.5}, "c": {"top1": 0.5 + 1e-12}}
    assert best_stream(metrics, ["a", "b"]) == best_stream(metrics, ["b", "a"]) == "b"
    assert best_stream(metrics, ["b", "c"]) == "b" and best_stream(metrics, ["c", "b"]) == "c"


def test_splits_are_averaged_and_their_spread_is_the_sample_deviation():
    ids = [[f"s{s}c{i}" for i in range(10)] for s in range(3)]
    by_split = {s + 1: {"a": outcome(np.arange(10) < n, ids=ids[s])} for s, n in enumerate((3, 5, 7))}
    fused = {s + 1: outcome(np.arange(10) < n, ids=ids[s]) for s, n in enumerate((6, 6, 9))}
    of = pd.Series({clip: clip for part in ids for clip in part})
    metrics = evaluate(by_split, fused, of, ["a"], **DRAWS)
    assert metrics["a"]["top1"] == 0.5 and metrics["a"]["top1_std"] == 0.2
    assert metrics["fusion"]["top1"] == 0.7 and metrics["fusion"]["top1_std"] == round(math.sqrt(0.03), 6)
    assert metrics["fusion_gain"]["top1"] == 0.2


def test_a_group_is_drawn_for_all_splits_that_test_it_at_once():
    # The same clips tested twice are no second sample: the interval is that of one split.
    one = outcome(np.random.default_rng(0).random(60) < 0.5)
    once = evaluate({1: {"a": one}}, {1: one}, own_group(one), ["a"], **DRAWS)["a"]
    twice = evaluate({1: {"a": one}, 2: {"a": one}}, {1: one, 2: one}, own_group(one), ["a"], **DRAWS)["a"]
    assert once == twice


def test_a_resampling_may_leave_a_split_without_clips():
    by_split = {1: {"a": outcome([1, 0], ids=["p", "q"])}, 2: {"a": outcome([1], ids=["r"])}}
    fused = {split: part["a"] for split, part in by_split.items()}
    metrics = evaluate(by_split, fused, pd.Series({"p": "g", "q": "h", "r": "i"}), ["a"], **DRAWS)
    assert all(math.isfinite(value) for part in metrics.values() for value in part.values())


def test_groups_are_drawn_with_replacement():
    drawn = draw_groups(groups=5, draws=20_000, seed=0)
    assert drawn.shape == (20_000, 5) and (drawn.sum(axis=1) == 5).all()
    times = np.arange(4)
    expected = binom.pmf(times, 5, 1 / 5)  # of one group, drawn five times out of five
    assert [(drawn == k).mean() for k in times] == pytest.approx(expected.tolist(), abs=0.01)


def test_rows_in_another_order_are_matched_by_clip():
    a, fused = guesses(80, 4, 1.0, 1, val=20), guesses(80, 4, 2.0, 2, val=20)
    shuffled = fused.take(np.random.default_rng(0).permutation(80))
    of = pd.Series([f"g{i % 9}" for i in range(80)], index=a.clip_id)
    assert evaluate({1: {"a": a}}, {1: fused}, of, ["a"], **DRAWS) == evaluate(
        {1: {"a": a}}, {1: shuffled}, of, ["a"], **DRAWS
    )


def test_what_cannot_be_measured_is_one_line():
    one = guesses(20, 3, 1.0, 1, val=5)
    of = own_group(one)
    cases = [
        (({1: {"a": one}}, {1: one}, of.iloc[:-1], ["a"]), "'clip00019' .*not in clips.csv"),
        (({1: {"a": one.of("val")}}, {1: one.of("val")}, of, ["a"]), "split 1 has no readable test clips"),
        (({1: {"a": one.take(np.arange(19))}}, {1: one}, of, ["a"]), "'a' has no scores of 'clip00019'"),
    ]
    for arguments, says in cases:
        with pytest.raises(UserError, match=says) as caught:
            evaluate(*arguments, **DRAWS)
        assert "\n" not in str(caught.value)


def test_confusion_has_one_row_per_test_clip_of_every_split():
    parts = [guesses(60, 4, 1.0, 1, val=20), guesses(60, 4, 1.0, 2, val=30)]
    table = confusion({n: {"fusion": part.of("test")} for n, part in enumerate(parts, 1)})
    assert list(table.columns) == ["actual", "predicted"] and len(table) == 70
    expected = sum(
        confusion_matrix(p.label[v:], p.logits[v:].argmax(1), labels=range(4))
        for p, v in zip(parts, (20, 30), strict=True)
    )
    assert np.array_equal(pd.crosstab(table["actual"], table["predicted"]).to_numpy(), expected)


def test_per_class_accuracy_is_the_confusion_matrix_diagonal():
    a, fused = guesses(100, 4, 1.0, 1, val=20), guesses(100, 4, 2.0, 2, val=20)
    table = per_class(select_test_clips({1: {"a": a}}, {1: fused}))
    assert list(table.columns) == ["class", "clips", "a", "fusion"]
    for name, one in (("a", a), ("fusion", fused)):
        matrix = confusion_matrix(one.label[20:], one.logits[20:].argmax(1), labels=range(4))
        assert table["clips"].tolist() == matrix.sum(axis=1).tolist()
        assert table[name].tolist() == pytest.approx((matrix.diagonal() / matrix.sum(axis=1)).tolist(), abs=1e-6)


def test_a_class_without_test_clips_is_an_empty_cell(tmp_path):
    one = scores([0, 0, 2], np.eye(3)[[0, 1, 2]], classes=["a,b", 'say "x"', "z"])
    table = per_class(select_test_clips({1: {"s": one}}, {1: one}))
    assert table["clips"].tolist() == [2, 0, 1]
    table.to_csv(tmp_path / "t.csv", index=False, lineterminator="\n")
    assert (tmp_path / "t.csv").read_text().splitlines()[2] == '"say ""x""",0,,'


def test_mistakes_are_the_most_confident_wrong_predictions_with_those_of_each_stream():
    label = [0, 0, 0, 1]
    fused = scores(label, [[0, 1], [0, 3], [2, 0], [1, 0]])
    a = scores(label, [[5, 0], [0, 5], [5, 0], [5, 0]])
    table = mistakes(select_test_clips({1: {"a": a, "baseline": a}}, {1: fused}), ["a"], limit=2)
    assert table["clip_id"].tolist() == ["clip00001", "clip00000"]
    assert table["confidence"].tolist() == pytest.approx([1 / (1 + math.exp(-3)), 1 / (1 + math.exp(-1))], abs=1e-6)
    assert table["actual"].tolist() == ["class0", "class0"] and table["predicted"].tolist() == ["class1", "class1"]
    assert table["a"].tolist() == ["class1", "class0"]
    assert list(table.columns) == ["split", "clip_id", "actual", "predicted", "confidence", "a", "a_confidence"]


def test_a_fusion_without_mistakes_gives_an_empty_table():
    one = outcome([1, 1])
    table = mistakes(select_test_clips({1: {"a": one}}, {1: one}), ["a"], limit=5)
    assert table.empty and "confidence" in table


def test_contribution_lists_the_streams_that_are_right_and_what_fusion_changes():
    streams = {"a": outcome([1, 1, 0, 0, 1]), "b": outcome([1, 0, 1, 0, 0]), "baseline": outcome([0] * 5)}
    fused = outcome([1, 0, 1, 0, 1])
    table = contribution(select_test_clips({1: streams}, {1: fused}), ["a", "b"], best="a")
    assert table["right"].tolist() == ["all", "a", "b", "none", "a"]
    assert table["fusion"].tolist() == [True, False, True, False, True]
    assert table["effect"].tolist() == ["same", "harmed", "rescued", "same", "same"]
    agreement = contribution_by_agreement(table)
    assert agreement["right"].tolist() == ["all", "a", "b", "none"]
    assert agreement["clips"].tolist() == [1, 2, 1, 1]
    assert agreement["fusion"].tolist() == [1.0, 0.5, 1.0, 0.0]


def test_contribution_by_class_puts_the_most_rescued_class_first():
    label = [0, 0, 1, 1, 1]
    a = scores(label, np.eye(2)[[0, 0, 1, 0, 0]])
    fused = scores(label, np.eye(2)[[0, 1, 1, 1, 1]])
    by_class = contribution_by_class(contribution(select_test_clips({1: {"a": a}}, {1: fused}), ["a"], "a"), "a")
    assert by_class.to_dict("list") == {
        "class": ["class1", "class0"],
        "clips": [3, 2],
        "rescued": [2, 0],
        "harmed": [0, 1],
        "net": [2, -1],
    }


def test_the_overlap_of_errors_is_compared_with_chance_and_with_the_best_choice():
    # Right are: both, a, b, none. Each is wrong on two of four, so by chance both are on 4 * 1/2 * 1/2 = 1.
    streams = {"a": outcome([1, 1, 0, 0]), "b": outcome([1, 0, 1, 0])}
    table = contribution(select_test_clips({1: streams}, {1: streams["a"]}), ["a", "b"], "a")
    assert error_overlap(table, ["a", "b"]) == {
        "wrong": {"a": 2, "b": 2},
        "all_wrong": 1,
        "all_wrong_by_chance": 1.0,
        "oracle": 0.75,
    }


def test_the_net_of_all_classes_is_the_gain():
    label = np.random.default_rng(99).integers(5, size=200)
    streams = {"a": guesses(200, 5, 1.0, 1, label=label), "b": guesses(200, 5, 1.2, 2, label=label)}
    fused = guesses(200, 5, 2.0, 3, label=label)
    metrics = evaluate({1: streams}, {1: fused}, own_group(fused), ["a", "b"], **DRAWS)
    best, gain = best_stream(metrics, ["a", "b"]), metrics["fusion_gain"]["top1"]
    table = contribution(select_test_clips({1: streams}, {1: fused}), ["a", "b"], best)
    assert contribution_by_class(table, best)["net"].sum() / 200 == pytest.approx(gain, abs=1e-6)


def test_the_table_for_people_is_aligned_and_in_per_cent():
    one, fused = outcome(np.arange(8) < 4), outcome(np.arange(8) < 6)
    metrics = evaluate({1: {"spatial": one, "x": one}}, {1: fused}, own_group(one), ["spatial"], **DRAWS)
    lines = results_table(metrics, ["spatial", "x"]).splitlines()
    assert [line.split()[0] for line in lines[1:4]] == ["spatial", "x", "fusion"]
    assert len({len(line) for line in lines[:4]}) == 1
    assert lines[1].split()[1] == "50.0" and lines[3].split()[1] == "75.0"
    assert "+25.0 points" in lines[4]
