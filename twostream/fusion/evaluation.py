"""Test metrics: accuracies, intervals over groups, the gain of fusion, and which stream is right on which clip.

Only `test` clips count. Accuracies are fractions. A clip that several splits test counts once in each.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from twostream.errors import UserError
from twostream.fusion.scores import Scores, align, log_softmax, ranks

FUSION = "fusion"

Tested = dict[int, dict[str, Scores]]  # split -> system -> scores of the test clips; the last system is the fusion


def select_test_clips(streams_by_split: dict[int, dict[str, Scores]], fused_by_split: dict[int, Scores]) -> Tested:
    """Return the test clips of every stream and, last, of their fusion, in one row order per split.

    Args:
        streams_by_split: split -> stream -> scores, the same streams in every split.
        fused_by_split: split -> fused scores.

    Raises:
        UserError: scores do not fit each other, or a split has no test clips.
    """
    tested = {}
    for split, streams in streams_by_split.items():
        scores = {name: one.of("test") for name, one in (streams | {FUSION: fused_by_split[split]}).items()}
        if not len(scores[FUSION]):
            raise UserError(
                f"split {split} has no readable test clips, so nothing can be measured; see data/splits/{split}.csv"
            )
        tested[split] = align(scores)
    return tested


def evaluate(
    tested: Tested,
    groups: pd.Series,
    fused_streams: list[str],
    *,
    bootstrap: int,
    confidence: float,
    seed: int,
) -> dict[str, dict[str, float]]:
    """Return the metrics of every stream and of their fusion, for `metrics.json`.

    Each is a mean over splits. Intervals are percentile intervals of a cluster bootstrap (Efron & Tibshirani 1993,
    chapters 8 and 13): whole groups are drawn with replacement, since clips of one group tend to be right or wrong
    together; a drawn group brings its clips in every split that tests it. Streams and fusion see the same draws, so the
    interval of the gain is paired. The intervals describe the variation with the test clips, not with the training;
    with few groups (below 20 or so) they are too narrow.

    Args:
        tested: of :func:`select_test_clips`.
        groups: clip id -> group.
        fused_streams: the streams that were fused; others are baselines.
        bootstrap: number of resamplings.
        confidence: coverage of the intervals, such as 0.95.

    Returns:
        One mapping per stream, then `fusion`, each with `top1`, `top5` (with C < 5 classes: top-C, which is 1),
        `mean_class_accuracy` and `macro_f1` (over the classes that have test clips), `top1_low`, `top1_high`, and
        `top1_std` (sample standard deviation over splits, 0 for one split). Last `fusion_gain` with `top1`, `low`,
        `high`: fusion minus :func:`best_stream`. The best stream is the same in all resamplings, so the interval
        ignores the doubt about which one it is. Rounded to 6 digits.

    Raises:
        UserError: a clip has no group.
    """
    systems = list(next(iter(tested.values())))
    right = {split: np.stack([ranks(one) == 0 for one in scores.values()]) for split, scores in tested.items()}
    top1 = np.array([rows.mean(axis=1) for rows in right.values()])  # [splits, S]
    resampled = _resample(right, _group_numbers(tested, groups), bootstrap, seed)  # [B, S]
    tails = [(1 - confidence) / 2, (1 + confidence) / 2]
    metrics: dict[str, dict[str, float]] = {}
    for s, system in enumerate(systems):
        scores = [by_system[system] for by_system in tested.values()]
        low, high = np.quantile(resampled[:, s], tails)
        metrics[system] = {
            "top1": top1[:, s].mean(),
            "top5": float(np.mean([(ranks(one) < 5).mean() for one in scores])),
            "mean_class_accuracy": float(np.mean([_mean_class_accuracy(one) for one in scores])),
            "macro_f1": float(np.mean([_macro_f1(one) for one in scores])),
            "top1_low": low,
            "top1_high": high,
            "top1_std": top1[:, s].std(ddof=1) if len(tested) > 1 else 0.0,
        }
    best, fused = systems.index(best_stream(metrics, fused_streams)), systems.index(FUSION)
    low, high = np.quantile(resampled[:, fused] - resampled[:, best], tails)
    metrics["fusion_gain"] = {"top1": top1[:, fused].mean() - top1[:, best].mean(), "low": low, "high": high}
    return _rounded(metrics)


def paired_differences(
    tested: Tested,
    groups: pd.Series,
    pairs: Sequence[tuple[str, str]],
    *,
    bootstrap: int,
    confidence: float,
    seed: int,
) -> dict[str, dict[str, float]]:
    """Return what one system is better than another by, with paired intervals over groups as in :func:`evaluate`.

    Args:
        pairs: names of two systems each.

    Returns:
        `<first> - <second>` -> `top1`, `low`, `high`: differences of top-1, rounded to 6 digits.
    """
    systems = list(next(iter(tested.values())))
    right = {split: np.stack([ranks(one) == 0 for one in scores.values()]) for split, scores in tested.items()}
    top1 = np.mean([rows.mean(axis=1) for rows in right.values()], axis=0)
    resampled = _resample(right, _group_numbers(tested, groups), bootstrap, seed)
    differences: dict[str, dict[str, float]] = {}
    for first, second in pairs:
        a, b = systems.index(first), systems.index(second)
        low, high = np.quantile(resampled[:, a] - resampled[:, b], [(1 - confidence) / 2, (1 + confidence) / 2])
        differences[f"{first} - {second}"] = {"top1": top1[a] - top1[b], "low": low, "high": high}
    return _rounded(differences)


def class_prior(tested: Tested, training: dict[int, list[str]]) -> float:
    """Return the top-1 of always answering the most frequent class of the training clips, a mean over splits.

    Args:
        training: split -> the class of each of its training and validation clips.
    """
    shares = []
    for split, scores in tested.items():
        most = pd.Series(training[split]).value_counts().sort_index().idxmax()  # the first of equal ones
        shares.append((_actual(scores[FUSION]) == most).mean())
    return round(float(np.mean(shares)), 6)


def _rounded(metrics: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    return {name: {key: round(float(value), 6) for key, value in values.items()} for name, values in metrics.items()}


def best_stream(metrics: dict[str, Any], fused_streams: list[str]) -> str:
    """Return the fused stream of the highest test top-1, the first of equal ones: fusion is compared with it."""
    # Rounded, so that equal accuracies are equal in any order of the additions over splits.
    return max(fused_streams, key=lambda name: round(float(metrics[name]["top1"]), 6))


def draw_groups(groups: int, draws: int, seed: int) -> np.ndarray:
    """Return how often each group occurs in each of `draws` resamplings with replacement, int64 [draws, groups]."""
    return np.random.default_rng(seed).multinomial(groups, np.full(groups, 1 / groups), draws)


def confusion(tested: Tested) -> pd.DataFrame:
    """Return the fused predictions: one row per test clip, columns `actual` and `predicted` (class names)."""
    fused = [scores[FUSION] for scores in tested.values()]
    actual, predicted = ([f(one) for one in fused] for f in (_actual, _predicted))
    return pd.DataFrame({"actual": np.concatenate(actual), "predicted": np.concatenate(predicted)})


def per_class(tested: Tested) -> pd.DataFrame:
    """Return one row per class, in label order: `class`, `clips`, and each system's accuracy over all splits together.

    A class without test clips has 0 clips and missing accuracies (empty cells in a CSV). Rounded to 6 digits.
    """
    systems = next(iter(tested.values()))
    classes = systems[FUSION].classes
    label = np.concatenate([scores[FUSION].label for scores in tested.values()])
    clips = np.bincount(label, minlength=len(classes))
    table = pd.DataFrame({"class": classes, "clips": clips})
    for system in systems:
        right = np.concatenate([ranks(scores[system]) == 0 for scores in tested.values()])
        hits = np.bincount(label, weights=right, minlength=len(classes))
        table[system] = np.divide(hits, clips, out=np.full(len(classes), np.nan), where=clips > 0).round(6)
    return table


def mistakes(tested: Tested, fused_streams: list[str], *, limit: int) -> pd.DataFrame:
    """Return the `limit` most confident wrong predictions of the fusion, the most confident first.

    Columns `split`, `clip_id`, `actual`, `predicted`, `confidence` (softmax of the fused logits; for an SVM's decision
    values an order, not a probability), and for each fused stream its prediction `<stream>` and `<stream>_confidence`.
    """
    tables = []
    for split, scores in tested.items():
        wrong = {name: one.take(ranks(scores[FUSION]) > 0) for name, one in scores.items()}
        fused = wrong[FUSION]
        columns = {"split": split, "clip_id": fused.clip_id, "actual": _actual(fused)}
        columns |= {"predicted": _predicted(fused), "confidence": _confidence(fused)}
        for name in fused_streams:
            columns |= {name: _predicted(wrong[name]), f"{name}_confidence": _confidence(wrong[name])}
        tables.append(pd.DataFrame(columns))
    table = pd.concat(tables, ignore_index=True)
    return table.sort_values(["confidence", "split", "clip_id"], ascending=[False, True, True], ignore_index=True).head(
        limit
    )


def contribution(tested: Tested, fused_streams: list[str], best: str) -> pd.DataFrame:
    """Return which streams are right on each test clip, and what fusion changes.

    Columns `split`, `clip_id`, `class`, `right` (the streams that are right, joined by " + "; `all`, or `none`),
    `fusion` (bool, right or not), `effect`: `rescued` (fusion right, the stream `best` wrong), `harmed` (the reverse)
    or `same`.
    """
    tables = []
    for split, scores in tested.items():
        right = {name: ranks(one) == 0 for name, one in scores.items()}
        fused = right[FUSION]
        effect = np.where(fused == right[best], "same", np.where(fused, "rescued", "harmed"))
        hits = np.stack([right[name] for name in fused_streams], axis=1)  # [N, K]
        names = ["all" if row.all() else " + ".join(np.array(fused_streams)[row]) or "none" for row in hits]
        columns = {"split": split, "clip_id": scores[FUSION].clip_id, "class": _actual(scores[FUSION])}
        tables.append(pd.DataFrame(columns | {"right": names, "fusion": fused, "effect": effect}))
    return pd.concat(tables, ignore_index=True)


def contribution_by_agreement(table: pd.DataFrame) -> pd.DataFrame:
    """Return, for each value of `right` in a :func:`contribution` table, `clips` and the fraction `fusion` gets right.

    `all` is first, `none` last, and the most frequent of the others first.
    """
    counts = table.groupby("right", sort=True)["fusion"].agg(clips="size", fusion="mean").round(6).reset_index()
    ends = counts["right"].map({"all": 0, "none": 2}).fillna(1)
    return counts.iloc[np.lexsort((counts.index, -counts["clips"], ends))].reset_index(drop=True)


def contribution_by_class(table: pd.DataFrame, stream: str) -> pd.DataFrame:
    """Return, for each class of a :func:`contribution` table, what fusion changes compared with a fused stream.

    Columns `class`, `clips`, `rescued`, `harmed` and `net`, the largest net first.
    """
    right = stream_is_right(table, stream)
    changes = {"clips": 1, "rescued": table["fusion"] & ~right, "harmed": right & ~table["fusion"]}
    counts = table[["class"]].assign(**changes).groupby("class").sum().astype(int).reset_index()
    counts["net"] = counts["rescued"] - counts["harmed"]
    return counts.sort_values(["net", "class"], ascending=[False, True], ignore_index=True)


def stream_is_right(table: pd.DataFrame, stream: str) -> pd.Series:
    """Return whether a fused stream is right on each clip of a :func:`contribution` table, as bool."""
    return table["right"].map(lambda names: names == "all" or stream in names.split(" + ")).astype(bool)


def error_overlap(table: pd.DataFrame, fused_streams: list[str]) -> dict[str, Any]:
    """Return how the errors of the fused streams overlap in a :func:`contribution` table.

    Returns:
        `wrong`, the number of wrong clips by stream; `all_wrong`, the clips on which all streams are wrong, and
        `all_wrong_by_chance`, their expected number if the streams erred independently; `oracle`, the accuracy of the
        best choice of one stream per clip.
    """
    clips = max(len(table), 1)
    wrong = {name: int((~stream_is_right(table, name)).sum()) for name in fused_streams}
    all_wrong = int((table["right"] == "none").sum())
    by_chance = len(table) * math.prod(count / clips for count in wrong.values())
    return {
        "wrong": wrong,
        "all_wrong": all_wrong,
        "all_wrong_by_chance": by_chance,
        "oracle": 1 - all_wrong / clips,
    }


def results_table(metrics: dict[str, Any], order: list[str]) -> str:
    """Return the metrics as aligned text in per cent: the streams of `order`, the fusion, and the gain of fusion."""
    columns = {"top-1": "top1", "interval": "", "top-5": "top5", "class mean": "mean_class_accuracy"}
    columns |= {"macro F1": "macro_f1", "std": "top1_std"}
    percent = pd.DataFrame({name: metrics[name] for name in [*order, FUSION]}).T.map(lambda value: f"{100 * value:.1f}")
    percent[""] = percent["top1_low"] + " to " + percent["top1_high"]
    table = percent[list(columns.values())].to_string(header=list(columns))
    gain = {key: 100 * value for key, value in metrics["fusion_gain"].items()}
    gain_line = f"fusion over its best stream: {gain['top1']:+.1f} points ({gain['low']:+.1f} to {gain['high']:+.1f})"
    lines = [table, gain_line]
    for pair, of in metrics.get("paired", {}).items():
        if not pair.startswith(FUSION):  # those are in the report
            lines.append(f"{pair}: {100 * of['top1']:+.1f} points ({100 * of['low']:+.1f} to {100 * of['high']:+.1f})")
    if "events" in metrics:
        of = {name: 100 * metrics["events"][name] for name in ("f1", "precision", "recall")}
        lines.append(
            f"events at a temporal IoU of 0.5: F1 {of['f1']:.1f}, precision {of['precision']:.1f}, "
            f"recall {of['recall']:.1f}"
        )
    if "class_prior" in metrics:
        lines.append(f"the most frequent class alone: {100 * metrics['class_prior']['top1']:.1f}")
    return "\n".join(lines)


def _group_numbers(tested: Tested, groups: pd.Series) -> dict[int, np.ndarray]:
    """Return, for each split, the numbers [N] of its clips' groups, 0 to G - 1 in sorted order over all splits."""
    names = {}
    for split, scores in tested.items():
        clips = scores[FUSION].clip_id
        found = groups.reindex(clips)
        if found.isna().any():
            raise UserError(
                f"clip {str(clips[found.isna().to_numpy()][0])!r} is scored but is not in clips.csv; run `dvc repro`"
            )
        names[split] = found.to_numpy(dtype=str)
    known = np.unique(np.concatenate(list(names.values())))
    return {split: np.searchsorted(known, found) for split, found in names.items()}


def _resample(right: dict[int, np.ndarray], numbers: dict[int, np.ndarray], bootstrap: int, seed: int) -> np.ndarray:
    """Return the mean top-1 over splits [B, S] in each resampling of the groups.

    With few large groups, a resampling can leave a split without clips; the mean is then over the other splits.
    """
    groups = max(int(of.max()) for of in numbers.values()) + 1
    drawn = draw_groups(groups, bootstrap, seed)
    accuracies = []
    for split, of in numbers.items():
        clips = np.bincount(of, minlength=groups)
        hits = np.stack([np.bincount(of, weights=row, minlength=groups) for row in right[split]], axis=1)  # [G, S]
        with np.errstate(invalid="ignore"):
            accuracies.append((drawn @ hits) / (drawn @ clips)[:, None])
    return np.nanmean(accuracies, axis=0)


def _mean_class_accuracy(scores: Scores) -> float:
    clips = np.bincount(scores.label)
    hits = np.bincount(scores.label, weights=ranks(scores) == 0)
    return float((hits[clips > 0] / clips[clips > 0]).mean())


def _macro_f1(scores: Scores) -> float:
    """Return the mean over classes with test clips of 2 hits / (clips + predictions)."""
    count = len(scores.classes)
    clips, predictions = (np.bincount(of, minlength=count) for of in (scores.label, scores.logits.argmax(axis=1)))
    hits = np.bincount(scores.label, weights=ranks(scores) == 0, minlength=count)
    return float((2 * hits / np.maximum(1, clips + predictions))[clips > 0].mean())


def _actual(scores: Scores) -> np.ndarray:
    return scores.classes[scores.label]


def _predicted(scores: Scores) -> np.ndarray:
    return scores.classes[scores.logits.argmax(axis=1)]


def _confidence(scores: Scores) -> np.ndarray:
    return np.exp(log_softmax(scores.logits).max(axis=1, initial=-np.inf)).round(6)
