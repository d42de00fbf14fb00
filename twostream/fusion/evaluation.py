"""What the scores are worth on the test clips: accuracies, intervals over groups, the gain of fusion, the mistakes.

Everywhere here: `scores_by_split` maps a split's number to its streams' scores, `fused_by_split` to its fused scores,
only `test` clips count, accuracies are fractions, and a clip that several splits test counts once in each.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from twostream.errors import UserError
from twostream.fusion.scores import Scores, align, log_softmax, ranks

FUSION = "fusion"
RESERVED = (FUSION, "fusion_gain", "class", "clips")  # keys and columns that a stream cannot be named after

_CHUNK = 4_000_000  # draws held in memory at once


def evaluate(
    scores_by_split: dict[int, dict[str, Scores]],
    fused_by_split: dict[int, Scores],
    groups: pd.Series,
    fused_streams: list[str],
    *,
    bootstrap: int,
    confidence: float,
    seed: int,
) -> dict[str, dict[str, float]]:
    """The metrics of every stream and of their fusion, for `metrics.json`.

    Each is a mean over splits. Intervals are percentile intervals of a cluster bootstrap (Efron & Tibshirani 1993,
    chapters 8 and 13): whole groups are drawn with replacement, since clips of one group are right and wrong together;
    a drawn group brings its clips in every split that tests it. Streams and fusion see the same draws, so the gain's
    interval is paired. Intervals say how the numbers vary with the test clips, not with the training; with few groups
    (below 20 or so) they come out too narrow.

    Args:
        groups: Series, clip id -> group. Clips without an entry are an error.
        fused_streams: the streams that were fused; others are baselines.
        bootstrap: number of resamplings.
        confidence: coverage of the intervals, such as 0.95.

    Returns:
        One mapping a stream, then `fusion`, each with `top1`, `top5` (with C < 5 classes: top-C, which is 1),
        `mean_class_accuracy` (over the classes that have test clips), `top1_low`, `top1_high`, and `top1_std` (sample
        standard deviation over splits, 0 for one split). Last `fusion_gain` with `top1`, `low`, `high`: fused minus
        best fused stream. Which one is the best is decided once, by mean top-1 on the full test set (the first of
        equal ones), so the interval does not hold the doubt about that. Rounded to 6 digits.

    Raises:
        UserError: scores do not fit each other, a split has no test clips, or a clip has no group.
    """
    splits = _splits(scores_by_split, fused_by_split)
    systems = list(next(iter(splits.values())))
    right = {  # split -> [S, N] bool
        split: np.stack([ranks(scores) == 0 for scores in tested.values()]) for split, tested in splits.items()
    }
    top1 = np.array([rows.mean(axis=1) for rows in right.values()])  # [splits, S]
    resampled = _resample(right, _group_numbers(splits, groups), bootstrap, seed)  # [B, S]
    tails = [(1 - confidence) / 2, (1 + confidence) / 2]
    metrics = {}
    for s, system in enumerate(systems):
        tested = [scores[system] for scores in splits.values()]
        low, high = np.quantile(resampled[:, s], tails)
        metrics[system] = {
            "top1": top1[:, s].mean(),
            "top5": np.mean([(ranks(scores) < 5).mean() for scores in tested]),
            "mean_class_accuracy": np.mean([_mean_class_accuracy(scores) for scores in tested]),
            "top1_low": low,
            "top1_high": high,
            "top1_std": top1[:, s].std(ddof=1) if len(splits) > 1 else 0.0,
        }
    best, fused = systems.index(_best(splits, fused_streams)), systems.index(FUSION)
    low, high = np.quantile(resampled[:, fused] - resampled[:, best], tails)
    metrics["fusion_gain"] = {"top1": top1[:, fused].mean() - top1[:, best].mean(), "low": low, "high": high}
    return {name: {key: round(float(value), 6) for key, value in values.items()} for name, values in metrics.items()}


def best_stream(scores_by_split: dict[int, dict[str, Scores]], fused_streams: list[str]) -> str:
    """The stream of highest mean test top-1 over splits, the first of equal ones: what fusion is measured against."""
    return _best(
        {split: {n: s.of("test") for n, s in scores.items()} for split, scores in scores_by_split.items()},
        fused_streams,
    )


def confusion(scores: list[Scores]) -> pd.DataFrame:
    """One row a test clip, columns `actual` and `predicted` (class names), splits one after another."""
    tested = [one.of("test") for one in scores]
    columns = {"actual": [one.classes[one.label] for one in tested], "predicted": [_predicted(one) for one in tested]}
    return _frame({name: np.concatenate(parts) for name, parts in columns.items()})


def per_class(scores_by_split: dict[int, dict[str, Scores]], fused_by_split: dict[int, Scores]) -> pd.DataFrame:
    """One row a class, in label order: `class`, `clips`, then each stream's accuracy and `fusion`'s, splits pooled.

    A class without test clips has 0 clips and missing accuracies (empty cells in a CSV). Rounded to 6 digits.
    """
    splits = _splits(scores_by_split, fused_by_split)
    systems = next(iter(splits.values()))
    classes = systems[FUSION].classes
    label = np.concatenate([tested[FUSION].label for tested in splits.values()])
    clips = np.bincount(label, minlength=len(classes))
    table = _frame({"class": classes, "clips": clips})
    for system in systems:
        right = np.concatenate([ranks(tested[system]) == 0 for tested in splits.values()])
        hits = np.bincount(label, weights=right, minlength=len(classes))
        table[system] = np.divide(hits, clips, out=np.full(len(classes), np.nan), where=clips > 0).round(6)
    return table


def mistakes(
    scores_by_split: dict[int, dict[str, Scores]],
    fused_by_split: dict[int, Scores],
    fused_streams: list[str],
    *,
    limit: int,
) -> pd.DataFrame:
    """The `limit` wrong fused predictions that were surest of themselves, surest first.

    Columns `split`, `clip_id`, `actual`, `predicted`, `confidence` (softmax of the fused logits; for an SVM's decision
    values an order, not a probability), and for each fused stream its prediction `<stream>` and `<stream>_confidence`.
    """
    rows = []
    for split, tested in _splits(scores_by_split, fused_by_split).items():
        fused = tested[FUSION]
        wrong = tested[FUSION].take(ranks(fused) > 0)
        table = {"split": split, "clip_id": wrong.clip_id, "actual": wrong.classes[wrong.label]}
        table |= {"predicted": _predicted(wrong), "confidence": _confidence(wrong)}
        for stream in fused_streams:
            opinion = tested[stream].take(ranks(fused) > 0)
            table |= {stream: _predicted(opinion), f"{stream}_confidence": _confidence(opinion)}
        rows.append(_frame(table))
    table = pd.concat(rows, ignore_index=True)
    return table.sort_values(["confidence", "split", "clip_id"], ascending=[False, True, True], ignore_index=True).head(
        limit
    )


def contribution(
    scores_by_split: dict[int, dict[str, Scores]], fused_by_split: dict[int, Scores], fused_streams: list[str]
) -> pd.DataFrame:
    """Who was right about each test clip, and what fusion made of it.

    Columns `split`, `clip_id`, `class`, `right` (the streams that were right, joined by " + "; `all`, or `none`),
    `fusion` (bool, right or not), `effect`: `rescued` (fusion right, the best stream wrong), `harmed` (the other way
    round) or `same`. The best stream is that of :func:`best_stream`.
    """
    splits = _splits(scores_by_split, fused_by_split)
    best = _best(splits, fused_streams)
    rows = []
    for split, tested in splits.items():
        fused = tested[FUSION]
        fusion_right, best_right = ranks(fused) == 0, ranks(tested[best]) == 0
        hits = np.stack([ranks(tested[stream]) == 0 for stream in fused_streams], axis=1)  # [N, K]
        who = [_who(fused_streams, row) for row in hits]
        effect = np.where(fusion_right == best_right, "same", np.where(fusion_right, "rescued", "harmed"))
        columns = {"split": split, "clip_id": fused.clip_id, "class": fused.classes[fused.label]}
        rows.append(_frame(columns | {"right": np.array(who), "fusion": fusion_right, "effect": effect}))
    return pd.concat(rows, ignore_index=True)


def contribution_by_agreement(table: pd.DataFrame) -> pd.DataFrame:
    """Of a :func:`contribution` table: for each value of `right`, `clips` and the fraction that `fusion` gets right.

    `all` first, `none` last, between them the most frequent first.
    """
    counts = table.groupby("right", sort=True)["fusion"].agg(clips="size", fusion="mean").reset_index()
    counts["fusion"] = counts["fusion"].round(6)
    place = counts["right"].map({"all": 0, "none": 2}).fillna(1)
    order = np.lexsort((counts["right"].rank().to_numpy(), -counts["clips"].to_numpy(), place.to_numpy()))
    return counts.iloc[order].reset_index(drop=True)


def was_right(table: pd.DataFrame, stream: str) -> pd.Series:
    """Of a :func:`contribution` table: whether a fused stream was right, bool, a row a clip."""
    return table["right"].map(lambda who: who == "all" or stream in who.split(" + ")).astype(bool)


def contribution_by_class(table: pd.DataFrame, against: str | None = None) -> pd.DataFrame:
    """Of a :func:`contribution` table: for each class `clips`, `rescued`, `harmed` and `net`, the largest net first.

    Args:
        against: the stream that fusion is compared with; None: the best one, as in the column `effect`.
    """
    rescued, harmed = table["effect"] == "rescued", table["effect"] == "harmed"
    if against is not None:
        right = was_right(table, against)
        rescued, harmed = table["fusion"] & ~right, right & ~table["fusion"]
    counts = pd.DataFrame(
        {
            "clips": table.groupby("class").size(),
            "rescued": rescued.groupby(table["class"]).sum(),
            "harmed": harmed.groupby(table["class"]).sum(),
        }
    )
    counts["net"] = counts["rescued"] - counts["harmed"]
    counts = counts.reset_index()
    return counts.sort_values(["net", "class"], ascending=[False, True], ignore_index=True)


def results_table(metrics: dict[str, Any], order: list[str]) -> str:
    """The metrics of :func:`evaluate` as aligned text in per cent: the streams of `order`, then fusion and its gain."""
    header = ("", "top-1", "interval", "top-5", "class mean", "std")
    rows = [
        (
            name,
            f"{100 * metrics[name]['top1']:.1f}",
            f"{100 * metrics[name]['top1_low']:.1f} to {100 * metrics[name]['top1_high']:.1f}",
            f"{100 * metrics[name]['top5']:.1f}",
            f"{100 * metrics[name]['mean_class_accuracy']:.1f}",
            f"{100 * metrics[name]['top1_std']:.1f}",
        )
        for name in [*order, FUSION]
    ]
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    lines = [
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in [header, *rows]
    ]
    gain = {key: 100 * value for key, value in metrics["fusion_gain"].items()}
    lines.append(f"fusion over its best stream: {gain['top1']:+.1f} points ({gain['low']:+.1f} to {gain['high']:+.1f})")
    return "\n".join(lines)


def _splits(
    scores_by_split: dict[int, dict[str, Scores]], fused_by_split: dict[int, Scores]
) -> dict[int, dict[str, Scores]]:
    """split -> system -> test scores, `fusion` last; the same systems in every split, the same row order within one."""
    if set(scores_by_split) != set(fused_by_split) or not scores_by_split:
        raise UserError(
            f"scores of splits {sorted(scores_by_split)} but fused scores of {sorted(fused_by_split)}; run `dvc repro`"
        )
    systems = list(next(iter(scores_by_split.values())))
    classes = next(iter(fused_by_split.values())).classes
    for name in systems:
        if name in RESERVED:
            raise UserError(f"streams.{name}: a stream cannot have this name; rename it in params.yaml")
    splits = {}
    for split, scores in scores_by_split.items():
        if set(scores) != set(systems):
            raise UserError(
                f"split {split} has scores of {', '.join(scores)}, another of {', '.join(systems)}; run `dvc repro`"
            )
        tested = {name: scores[name].of("test") for name in systems} | {FUSION: fused_by_split[split].of("test")}
        if not len(tested[FUSION]):
            raise UserError(
                f"split {split} has no readable test clips, so nothing can be measured; see data/splits/{split}.csv"
            )
        if not np.array_equal(tested[FUSION].classes, classes):
            raise UserError(f"split {split} was fused on other classes than another split; run `dvc repro`")
        splits[split] = align(tested)
    return splits


def _group_numbers(splits: dict[int, dict[str, Scores]], groups: pd.Series) -> dict[int, np.ndarray]:
    """split -> [N] numbers 0..G-1 of the groups that any split tests, numbered in sorted order."""
    names = {}
    for split, tested in splits.items():
        clips = tested[FUSION].clip_id
        named = groups.reindex(clips)
        if named.isna().any():
            raise UserError(
                f"clip {str(clips[named.isna().to_numpy()][0])!r} is scored but is not in clips.csv; run `dvc repro`"
            )
        names[split] = named.to_numpy(dtype=str)
    known = np.unique(np.concatenate(list(names.values())))
    return {split: np.searchsorted(known, named) for split, named in names.items()}


def _resample(right: dict[int, np.ndarray], numbers: dict[int, np.ndarray], bootstrap: int, seed: int) -> np.ndarray:
    """[B, S] mean top-1 over splits in each resampling of the groups.

    Few large groups can leave a split without clips in some resampling; the mean is then over the other splits.
    """
    groups = max(int(of.max()) for of in numbers.values()) + 1
    clips = {split: np.bincount(of, minlength=groups) for split, of in numbers.items()}
    hits = {  # split -> [G, S]
        split: np.stack([np.bincount(of, weights=row, minlength=groups) for row in right[split]], axis=1)
        for split, of in numbers.items()
    }
    generator = np.random.default_rng(seed)
    results = []
    for drawn in _draws(generator, groups, bootstrap):
        with np.errstate(invalid="ignore"):
            accuracies = [(drawn @ hits[split]) / (drawn @ clips[split])[:, None] for split in numbers]
        results.append(np.nanmean(accuracies, axis=0))
    return np.concatenate(results)


def _draws(generator: np.random.Generator, groups: int, bootstrap: int) -> Iterator[np.ndarray]:
    """[b, G] how often each group was drawn in each of b resamplings, until there were `bootstrap` of them."""
    chunk = max(_CHUNK // groups, 1)
    for start in range(0, bootstrap, chunk):
        size = min(chunk, bootstrap - start)
        drawn = generator.integers(groups, size=(size, groups))
        drawn += groups * np.arange(size)[:, None]
        yield np.bincount(drawn.ravel(), minlength=size * groups).reshape(size, groups).astype(np.float64)


def _best(splits: dict[int, dict[str, Scores]], streams: list[str]) -> str:
    for stream in streams:
        for split, tested in splits.items():
            if stream not in tested:
                raise UserError(f"stream {stream!r} is fused but has no scores on split {split}; run `dvc repro`")
    # rounded, so that equal accuracies are equal whatever the order of additions over splits
    means = [round(float(np.mean([(ranks(tested[s]) == 0).mean() for tested in splits.values()])), 9) for s in streams]
    return streams[int(np.argmax(means))]


def _mean_class_accuracy(scores: Scores) -> float:
    clips = np.bincount(scores.label)
    hits = np.bincount(scores.label, weights=ranks(scores) == 0)
    return float((hits[clips > 0] / clips[clips > 0]).mean())


def _predicted(scores: Scores) -> np.ndarray:
    return scores.classes[scores.logits.argmax(axis=1)]


def _confidence(scores: Scores) -> np.ndarray:
    return np.exp(log_softmax(scores.logits).max(axis=1, initial=-np.inf)).round(6)


def _frame(columns: dict[str, Any]) -> pd.DataFrame:
    """A table whose text is Python strings: numpy's have no place in a CSV or a JSON."""
    text = {name for name, values in columns.items() if isinstance(values, np.ndarray) and values.dtype.kind == "U"}
    return pd.DataFrame({name: v.astype(object) if name in text else v for name, v in columns.items()})


def _who(streams: list[str], right: np.ndarray) -> str:
    if right.all():
        return "all"
    return " + ".join(stream for stream, hit in zip(streams, right, strict=True) if hit) or "none"
