"""Fusion: near-perfect where streams complement each other, harmless where they do not, blind to the test clips."""

import math
import subprocess
import sys

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.svm import LinearSVC

from twostream.errors import UserError
from twostream.fusion.methods import METHODS, Fusion, fit_fusion, read_fusion, write_fusion
from twostream.fusion.scores import Scores, align, log_softmax
from twostream.fusion.weights import CURVE_COLUMNS, MAX_GRID, choose_weights, proven_streams, weight_curve

SETTINGS = {"step": 0.05, "c": 1.0, "seed": 0}


def scores(label, logits, val, classes=None):
    clips = len(label)
    count = np.shape(logits)[1] if classes is None else classes
    return Scores(
        clip_id=np.array([f"clip{i:05d}" for i in range(clips)]),
        label=np.asarray(label),
        classes=np.array([f"class{i:02d}" for i in range(count)]),
        subset=np.where(np.arange(clips) < val, "val", "test"),
        logits=logits,
    )


def knows(label, classes, signal, generator, noise=1.0):
    """Logits whose noise is normal: `signal / noise**2` times a calibrated stream's scale is exact likelihood."""
    return noise * generator.normal(size=(len(label), classes)) + signal * np.eye(classes)[label]


def factorised(val=120, test=400, seed=0, sides=4):
    """Class = (a, b). The first stream knows a and guesses b, the second the other way round."""
    generator = np.random.default_rng(seed)
    label = generator.integers(sides * sides, size=val + test)
    a = knows(label // sides, sides, 8.0, generator).repeat(sides, axis=1)
    b = np.tile(knows(label % sides, sides, 8.0, generator), (1, sides))
    blur = [0.15 * generator.normal(size=a.shape) for _ in range(2)]
    return {"appearance": scores(label, a + blur[0], val), "motion": scores(label, b + blur[1], val)}


def accuracy(one, subset="test"):
    part = one.of(subset)
    return float((part.logits.argmax(axis=1) == part.label).mean())


def replaced(one, **fields):
    return Scores(**({name: getattr(one, name) for name in Scores.__dataclass_fields__} | fields))


@pytest.mark.parametrize("method", METHODS)
def test_streams_that_each_know_one_factor_are_near_perfect_together(method):
    streams = factorised()
    assert all(accuracy(one) < 0.35 for one in streams.values())  # 1 in 4 by design
    assert accuracy(fit_fusion(method, streams, **SETTINGS).apply(streams)) > 0.97


@pytest.mark.parametrize("method", METHODS)
def test_nothing_about_the_test_clips_changes_a_fitted_fusion(method):
    streams = factorised(val=60, test=60)
    generator = np.random.default_rng(9)
    other = {}
    for name, one in streams.items():
        test = one.subset == "test"
        logits = np.where(test[:, None], 50 * generator.normal(size=one.logits.shape), one.logits)
        other[name] = replaced(one, logits=logits, label=np.where(test, 0, one.label))
    assert fit_fusion(method, streams, **SETTINGS).to_json() == fit_fusion(method, other, **SETTINGS).to_json()


@pytest.mark.parametrize("method", METHODS)
def test_the_order_of_clips_in_the_files_changes_nothing(method):
    streams = factorised(val=60, test=60)
    order = np.random.default_rng(0).permutation(120)
    shuffled = {name: each.take(order) for name, each in streams.items()}
    a, b = (fit_fusion(method, each, **SETTINGS) for each in (streams, shuffled))
    assert a.to_json() == b.to_json()
    expected, got = a.apply(streams), b.apply(shuffled)
    order = np.argsort(got.clip_id)
    assert np.array_equal(expected.logits, got.logits[order]) and np.array_equal(expected.label, got.label[order])


@pytest.mark.parametrize("method", METHODS)
def test_a_fusion_read_back_fuses_to_the_same_bits(method, tmp_path):
    streams = factorised(val=60, test=60)
    fusion = fit_fusion(method, streams, **SETTINGS)
    write_fusion(tmp_path / "new" / "fusion-1.json", fusion)
    back = read_fusion(tmp_path / "new" / "fusion-1.json")
    assert np.array_equal(fusion.apply(streams).logits, back.apply(streams).logits)
    assert back.to_json() == fusion.to_json() == (tmp_path / "new" / "fusion-1.json").read_text()


def test_average_is_the_mean_of_the_probabilities():
    fusion = fit_fusion("average", factorised(val=4, test=4, sides=2), **SETTINGS)
    one, other = np.array([[0.7, 0.1, 0.1, 0.1]]), np.array([[0.3, 0.5, 0.1, 0.1]])
    fused = fusion.fuse({"appearance": np.log(one) + 5, "motion": np.log(other) - 3})
    assert np.exp(fused) == pytest.approx(np.array([[0.5, 0.3, 0.1, 0.1]]), abs=1e-6)


def test_independent_streams_come_out_as_bayes_rule_has_it():
    # Normal noise: logits * signal / noise^2 are exact log-likelihoods, which add up for independent streams. So the
    # temperatures are noise^2 / signal, and the sum has weights 1/2, 1/2 and inverse_temperature 2.
    generator = np.random.default_rng(0)
    label = generator.integers(5, size=6000)
    streams = {
        "a": scores(label, 10 * knows(label, 5, 1.5, generator), val=6000),  # temperature 10 / 1.5
        "b": scores(label, knows(label, 5, 2.0, generator, noise=2.0), val=6000),  # temperature 4 / 2
    }
    fusion = fit_fusion("weighted", streams, **SETTINGS)
    assert fusion.temperature == pytest.approx([10 / 1.5, 2.0], rel=0.06)
    assert fusion.weights == pytest.approx([0.5, 0.5], abs=0.051)
    assert fusion.inverse_temperature == pytest.approx(2.0, rel=0.06)


def test_the_temperature_of_a_stream_is_the_closed_form_of_two_classes():
    # Right in 80 of 100 clips, always with logits d apart: the most likely temperature is d / log(0.8 / 0.2).
    label = np.zeros(2000, int)
    logits = np.where(np.arange(2000)[:, None] % 5 == 0, [[0.0, 3.0]], [[3.0, 0.0]])
    streams = {"a": scores(label, logits, val=2000), "b": scores(label, logits * 40, val=2000)}
    fusion = fit_fusion("weighted", streams, **SETTINGS)
    assert fusion.temperature == pytest.approx([3 / math.log(4), 120 / math.log(4)], rel=0.01)
    assert np.exp(fusion.fuse({"a": logits, "b": 40 * logits}))[1, 0] == pytest.approx(0.8, abs=0.005)


def test_a_stream_with_larger_logits_does_not_outvote_the_other():
    streams = factorised()
    louder = streams | {"motion": replaced(streams["motion"], logits=30 * streams["motion"].logits)}
    for method in ("weighted", "logreg"):
        quiet, loud = (fit_fusion(method, each, **SETTINGS).apply(each) for each in (streams, louder))
        assert (quiet.logits.argmax(axis=1) == loud.logits.argmax(axis=1)).mean() > 0.99


@pytest.mark.parametrize("val", [10, 100, 600])
def test_a_stream_of_noise_has_weight_zero(val):
    zero = 0
    for seed in range(10):
        generator = np.random.default_rng(seed)
        label = generator.integers(8, size=val + 10)
        streams = {
            "good": scores(label, 3 * knows(label, 8, 3.0, generator), val),
            "noise": scores(label, 6 * generator.normal(size=(val + 10, 8)), val),
        }
        zero += fit_fusion("weighted", streams, **SETTINGS).weights.tolist() == [1.0, 0.0]
    assert zero >= 9  # 39 of 40 by the test's level


def test_a_stream_that_is_always_wrong_has_weight_zero():
    generator = np.random.default_rng(0)
    label = generator.integers(8, size=100)
    streams = {
        "good": scores(label, 3 * knows(label, 8, 3.0, generator), 100),
        "wrong": scores(label, -3 * knows(label, 8, 3.0, generator), 100),
    }
    assert fit_fusion("weighted", streams, **SETTINGS).weights.tolist() == [1.0, 0.0]


def test_a_copy_of_a_stream_adds_nothing():
    generator = np.random.default_rng(0)
    label = generator.integers(8, size=900)
    one, other = (scores(label, knows(label, 8, 2.0, generator), 500) for _ in range(2))
    twice = fit_fusion("weighted", {"a": one, "copy": one}, **SETTINGS)
    assert np.array_equal(twice.apply({"a": one, "copy": one}).logits.argmax(axis=1), one.logits.argmax(axis=1))
    assert twice.inverse_temperature == pytest.approx(1.0, abs=0.01)
    streams = {"a": one, "copy": one, "b": other}
    three = fit_fusion("weighted", streams, **SETTINGS)
    two = fit_fusion("weighted", {"a": one, "b": other}, **SETTINGS)
    # even thirds would count one stream's opinion twice; validation speaks against that
    assert (three.weights > 0).sum() == 2 and three.weights[2] == two.weights[1]
    assert accuracy(three.apply(streams)) == accuracy(two.apply(streams))


def test_few_clips_do_not_talk_the_weights_out_of_even():
    for seed in range(10):
        generator = np.random.default_rng(seed)
        label = generator.integers(8, size=30)
        streams = {name: scores(label, 2 * knows(label, 8, 3.0, generator), 30) for name in "ab"}
        assert fit_fusion("weighted", streams, **SETTINGS).weights.tolist() == [0.5, 0.5]


@pytest.mark.slow
def test_weights_beat_the_raw_best_accuracy_on_small_validation_sets():
    ours, greedy = [], []
    for seed in range(25):
        generator = np.random.default_rng(seed)
        label = generator.integers(16, size=1020)
        streams = {name: scores(label, 2 * knows(label, 16, 2.0, generator), 20) for name in "ab"}
        ours.append(accuracy(fit_fusion("weighted", streams, **SETTINGS).apply(streams)))
        sums = [w * streams["a"].logits + (1 - w) * streams["b"].logits for w in np.linspace(0, 1, 21)]
        best = max(sums, key=lambda m: accuracy(replaced(streams["a"], logits=m), "val"))
        greedy.append(accuracy(replaced(streams["a"], logits=best)))
    assert np.mean(ours) > np.mean(greedy) + 0.01


def test_weights_leave_even_when_validation_speaks_against_it():
    # Both streams share most of their noise; the second adds noise of its own, so it hardly helps.
    generator = np.random.default_rng(0)
    label = generator.integers(8, size=3000)
    base = knows(label, 8, 2.0, generator)
    streams = {"a": scores(label, base, 2000), "b": scores(label, base + 2 * generator.normal(size=base.shape), 2000)}
    fusion = fit_fusion("weighted", streams, **SETTINGS)
    assert fusion.weights.tolist() == [1.0, 0.0]
    assert accuracy(fusion.apply(streams)) == accuracy(streams["a"])


def test_the_rule_prefers_accuracy_where_the_difference_is_certain():
    weights = np.array([[0.5, 0.5], [0.8, 0.2], [1.0, 0.0]])
    right = np.zeros((3, 100), bool)
    right[0, :50], right[1, :80], right[2, :78] = True, True, True
    # even weights have the best likelihood but lose 30 clips for certain; two clips between the others are noise
    assert choose_weights(weights, right, np.array([-10.0, -50.0, -51.0])) == 2  # fewest streams
    assert choose_weights(weights, right, np.array([-10.0, -50.0, -55.0])) == 1  # the likelihood differs
    right[0, :79] = True
    assert choose_weights(weights, right, np.array([-51.0, -50.0, -51.5])) == 0  # even, where nothing speaks against it
    assert choose_weights(weights, right, np.array([-51.0, -50.0, -50.5])) == 2  # one stream alone is likelier


def test_of_three_streams_even_weights_stand_back_for_two_in_even_weights_and_not_for_two_in_chosen_ones():
    weights = np.array([[1, 1, 1], [1.5, 1.5, 0], [2, 1, 0]]) / 3
    right = np.ones((3, 30), bool)
    assert choose_weights(weights, right, np.array([-10.0, -10.5, -9.5])) == 0
    assert choose_weights(weights, right, np.array([-10.0, -9.5, -9.0])) == 2


@pytest.mark.parametrize("method", METHODS[1:])
@pytest.mark.parametrize("val", [0, 1])
def test_without_validation_streams_are_averaged_and_it_says_so(method, val, capsys):
    streams = factorised(val=val, test=20)
    fusion = fit_fusion(method, streams, **SETTINGS)
    assert fusion.method == "average"
    assert method in capsys.readouterr().out
    assert np.array_equal(
        fusion.apply(streams).logits, fit_fusion("average", streams, **SETTINGS).apply(streams).logits
    )
    assert list(weight_curve(fusion, streams, step=0.1).columns) == CURVE_COLUMNS


@pytest.mark.parametrize("method", METHODS)
def test_two_classes_work(method):
    # The difference of the two logits is normal, 1 signal against sqrt(2) noise: a stream is right in Phi(1 / sqrt 2) =
    # 0.760 of clips and the sum of both, the best there is, in Phi(1) = 0.841.
    generator = np.random.default_rng(0)
    label = generator.integers(2, size=4300)
    streams = {name: scores(label, knows(label, 2, 1.0, generator), 300) for name in "ab"}
    assert [accuracy(one) for one in streams.values()] == pytest.approx([0.760] * 2, abs=0.02)
    assert accuracy(fit_fusion(method, streams, **SETTINGS).apply(streams)) == pytest.approx(0.841, abs=0.02)


@pytest.mark.parametrize("method", METHODS)
def test_classes_without_validation_clips_are_no_obstacle(method):
    streams = factorised(val=200, test=400)
    keep = (streams["motion"].subset == "test") | (streams["motion"].label < 10)
    streams = {name: one.take(keep) for name, one in streams.items()}
    fused = fit_fusion(method, streams, **SETTINGS).apply(streams)
    assert np.isfinite(fused.logits).all()
    test = fused.of("test")
    right = test.logits.argmax(axis=1) == test.label
    assert right[test.label < 10].mean() > 0.95
    if method != "svm":  # which has no notion of a class that it never saw
        assert right[test.label >= 10].mean() > 0.9


@pytest.mark.parametrize("method", METHODS)
def test_one_validation_class_is_no_obstacle(method):
    streams = factorised(val=100, test=50)
    keep = (streams["motion"].subset == "test") | (streams["motion"].label == 3)
    streams = {name: one.take(keep) for name, one in streams.items()}
    assert accuracy(fit_fusion(method, streams, **SETTINGS).apply(streams)) > 0.9


def test_logreg_is_at_the_minimum_of_its_convex_loss():
    # An independent gradient: central differences of the loss as the docstring states it.
    streams = factorised(val=40, test=5, sides=2)
    fusion = fit_fusion("logreg", streams, step=0.05, c=0.3, seed=0)
    val = [one.of("val") for one in streams.values()]
    calibrated = [one.logits / t for one, t in zip(val, fusion.temperature, strict=True)]
    features = np.concatenate([x - x.mean(axis=1, keepdims=True) for x in calibrated], axis=1)
    start = fusion.inverse_temperature * sum(calibrated) / 2

    def loss(table):
        logits = start + features @ table[:, :-1].T + table[:, -1]
        return -log_softmax(logits)[np.arange(40), val[0].label].sum() + (table**2).sum() / 0.6

    table = np.concatenate([fusion.coef, fusion.intercept[:, None]], axis=1)
    for index in np.ndindex(table.shape):
        step = np.zeros_like(table)
        step[index] = 1e-4
        assert loss(table + step) - loss(table - step) == pytest.approx(0, abs=2e-7)


def test_logreg_learns_as_much_as_scikit_learns_when_there_is_plenty_of_validation():
    generator = np.random.default_rng(0)
    label = generator.integers(4, size=6000)
    confused = knows(label, 4, 2.0, generator)[:, [1, 0, 2, 3]]  # calls class 0 class 1: only weights per class help
    streams = {"a": scores(label, confused, 4000), "b": scores(label, knows(label, 4, 1.0, generator), 4000)}
    features = np.concatenate([one.logits for one in streams.values()], axis=1)
    reference = LogisticRegression(C=1.0, max_iter=5000).fit(features[:4000], label[:4000])
    ours = fit_fusion("logreg", streams, **SETTINGS).apply(streams)
    assert accuracy(ours) == pytest.approx(reference.score(features[4000:], label[4000:]), abs=0.01)
    assert accuracy(ours) > accuracy(fit_fusion("weighted", streams, **SETTINGS).apply(streams)) + 0.2


def test_logreg_does_not_fall_below_the_streams_on_few_clips():
    generator = np.random.default_rng(0)
    label = generator.integers(16, size=1030)
    streams = {
        name: scores(label, knows(label, 16, signal, generator), 30) for name, signal in (("a", 3.0), ("b", 1.5))
    }
    fused = fit_fusion("logreg", streams, step=0.05, c=0.1, seed=0).apply(streams)
    assert accuracy(fused) > max(accuracy(one) for one in streams.values())


def test_svm_is_scikit_learns_on_normalised_softmax():
    streams = factorised(val=80, test=40, sides=2)
    softmax = [np.exp(log_softmax(one.logits)) for one in streams.values()]
    features = np.concatenate([p / np.sqrt((p**2).sum(axis=1, keepdims=True)) for p in softmax], axis=1)
    label = streams["motion"].label
    reference = LinearSVC(C=2.0, max_iter=100_000, random_state=7).fit(features[:80], label[:80])
    fused = fit_fusion("svm", streams, step=0.05, c=2.0, seed=7).apply(streams)
    assert fused.logits == pytest.approx(reference.decision_function(features), abs=1e-5)


def test_apply_keeps_both_subsets():
    streams = factorised(val=30, test=20)
    fused = fit_fusion("weighted", streams, **SETTINGS).apply(streams)
    assert np.array_equal(fused.subset, streams["motion"].subset)
    assert fused.logits.dtype == np.float32
    assert np.exp(fused.logits).sum(axis=1) == pytest.approx(1, abs=1e-5)


def test_the_curve_of_two_streams_runs_over_the_second_ones_weight():
    streams = factorised()
    fusion = fit_fusion("weighted", streams, **SETTINGS)
    curve = weight_curve(fusion, streams, step=0.05)
    assert set(curve["stream"]) == {"motion"}
    assert curve["weight"].tolist() == pytest.approx(np.linspace(0, 1, 21).tolist())
    assert curve["top1"].iloc[0] == pytest.approx(accuracy(streams["appearance"], "val"), abs=1e-6)
    assert curve["top1"].iloc[-1] == pytest.approx(accuracy(streams["motion"], "val"), abs=1e-6)
    assert curve["weight"][curve["chosen"]].tolist() == [round(fusion.weights[1], 6)]
    # each stream alone knows one of two factors of 4, so its log-loss is about log 4 where that of their sum is about 0
    assert curve["nll"].iloc[[0, -1]].tolist() == pytest.approx([math.log(4)] * 2, abs=0.15)
    assert curve["nll"][curve["chosen"]].item() < 0.1


def test_the_curve_of_three_streams_is_one_profile_each_through_the_choice():
    generator = np.random.default_rng(0)
    label = generator.integers(6, size=200)
    streams = {f"s{i}": scores(label, knows(label, 6, 2.0, generator), 200) for i in range(3)}
    fusion = fit_fusion("weighted", streams, **SETTINGS)
    curve = weight_curve(fusion, streams, step=0.25)
    chosen = curve[curve["chosen"]]
    assert chosen["stream"].tolist() == ["s0", "s1", "s2"]
    assert chosen["weight"].tolist() == pytest.approx(fusion.weights.tolist(), abs=1e-6)
    assert chosen["nll"].nunique() == 1
    assert not curve.duplicated(["stream", "weight"]).any()
    # at weight 1 a stream is alone
    alone = curve[curve["weight"] == 1].set_index("stream")["top1"]
    assert alone["s1"] == pytest.approx(accuracy(streams["s1"], "val"), abs=1e-6)


def test_the_curve_of_another_method_has_no_choice():
    streams = factorised(val=30, test=5)
    assert not weight_curve(fit_fusion("logreg", streams, **SETTINGS), streams, step=0.1)["chosen"].any()


def test_six_streams_are_tried_on_a_grid_that_is_no_larger_than_allowed(capsys):
    generator = np.random.default_rng(0)
    label = generator.integers(4, size=60)
    streams = {f"s{i}": scores(label, knows(label, 4, 1.5, generator), 60) for i in range(6)}
    fusion = fit_fusion("weighted", streams, **SETTINGS)
    assert fusion.weights.sum() == pytest.approx(1, abs=1e-8) and (fusion.weights >= 0).all()
    assert "1/7" in capsys.readouterr().out  # C(7 + 5, 5) = 792 weight vectors, and 1,287 with eighths
    assert math.comb(12, 5) <= MAX_GRID < math.comb(13, 5)


def test_one_stream_alone_keeps_its_predictions():
    streams = {"motion": factorised()["motion"]}
    for method in ("average", "weighted"):
        fused = fit_fusion(method, streams, **SETTINGS).apply(streams)
        assert np.array_equal(fused.logits.argmax(axis=1), streams["motion"].logits.argmax(axis=1))


def test_streams_that_all_know_nothing_are_mixed_evenly():
    generator = np.random.default_rng(0)
    label = generator.integers(8, size=50)
    streams = {name: scores(label, np.zeros((50, 8)), 50) for name in "ab"}
    fusion = fit_fusion("weighted", streams, **SETTINGS)
    assert fusion.weights.tolist() == [0.5, 0.5]
    assert np.exp(fusion.apply(streams).logits) == pytest.approx(np.full((50, 8), 1 / 8))


@pytest.mark.parametrize("method", METHODS)
def test_huge_logits_stay_finite(method):
    streams = factorised(val=40, test=40)
    huge = {name: replaced(one, logits=1e6 * one.logits) for name, one in streams.items()}
    assert np.isfinite(fit_fusion(method, huge, **SETTINGS).apply(huge).logits).all()


def test_a_damaged_fusion_file_is_one_line(tmp_path):
    path = tmp_path / "fusion-1.json"
    good = fit_fusion("weighted", factorised(val=30, test=5), **SETTINGS).to_json()
    for text in (
        good[: len(good) // 2],
        "[]",
        "{}",
        good.replace('"weighted"', '"magic"'),
        good.replace('"inverse_temperature"', '"blur"'),
        good.replace('"weights": [', '"weights": [0.1, '),
        good.replace('"weights": [', '"weights": ["x", '),
        good.replace('"temperature": [', '"temperature": [NaN, '),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=r"fusion-1\.json: not a usable fusion") as caught:
            read_fusion(path)
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"none\.json"):
        read_fusion(tmp_path / "none.json")


def test_json_names_the_classes_and_streams_in_order():
    fusion = Fusion.from_json(fit_fusion("logreg", factorised(val=30, test=5, sides=2), **SETTINGS).to_json())
    assert fusion.streams == ("appearance", "motion")
    assert fusion.classes == ("class00", "class01", "class02", "class03")


def test_importing_costs_neither_torch_nor_scikit_learn():
    code = (
        "import sys, twostream.fusion.methods, twostream.fusion.evaluation; "
        "sys.exit(any(m in sys.modules for m in ('torch', 'sklearn', 'scipy')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_where_all_streams_have_out_of_fold_logits_the_fusion_is_fitted_on_all_training_clips():
    """On the four validation clips alone the second stream is right by luck; on a hundred clips the first one is."""
    generator = np.random.default_rng(5)
    label = generator.integers(2, size=200)
    subset = np.where(np.arange(200) < 96, "train", np.where(np.arange(200) < 100, "val", "test"))
    good, poor = knows(label, 2, 2.0, generator), knows(label, 2, 0.0, generator)
    lucky = subset == "val"
    good[lucky], poor[lucky] = -3 * np.eye(2)[label[lucky]], 9 * np.eye(2)[label[lucky]]
    streams = {name: replaced(scores(label, logits, 0), subset=subset) for name, logits in (("a", good), ("b", poor))}
    assert fit_fusion("weighted", align(streams), **SETTINGS).weights.tolist() == [1.0, 0.0]
    without = {**streams, "b": streams["b"].take(subset != "train")}
    assert fit_fusion("weighted", align(without), **SETTINGS).weights.tolist() == [0.0, 1.0]


def test_a_stream_that_is_proven_on_the_training_clips_is_not_left_out_for_a_lucky_hold_out():
    """On eight validation clips the tuned stream is always right; the head is better than chance on 200 clips."""
    generator = np.random.default_rng(6)
    label = generator.integers(2, size=300)
    subset = np.where(np.arange(300) < 192, "train", np.where(np.arange(300) < 200, "val", "test"))
    head = replaced(scores(label, knows(label, 2, 1.5, generator), 0), subset=subset)
    lucky = knows(label, 2, 1.5, generator)
    lucky[subset == "val"] = 9 * np.eye(2)[label[subset == "val"]]
    streams = {"head": head, "tuned": replaced(scores(label, lucky, 0), subset=subset).take(subset != "train")}
    assert list(proven_streams(streams)) == ["head"] and proven_streams({"head": head}) == {}
    alone, both = (fit_fusion("weighted", align(streams), **SETTINGS, proven=p) for p in ({}, proven_streams(streams)))
    assert alone.weights[0] == 0 and both.weights[0] > 0
    assert accuracy(both.apply(align(streams))) > accuracy(alone.apply(align(streams)))
