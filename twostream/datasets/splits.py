"""Split clips into train, val and test by whole groups, so that no source video stands on two sides."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd

from twostream.errors import UserError


def hold_out_validation(subset: pd.Series, clips: pd.DataFrame, fraction: float, seed: int) -> pd.Series:
    """Move about `fraction` of the training clips to `val`, by whole groups and with the classes in proportion.

    Neither side comes out empty, and a group that alone holds the training clips of some class stays in train if any
    other can go. Of the folds that scikit-learn's StratifiedGroupKFold makes, the one is taken that leaves the fewest
    classes without training clips and then comes nearest to `fraction`. A subset that has `val` already is returned as
    it is.

    Args:
        subset: index clip_id, values `train`, `val`, `test` or `unused`.
        clips: columns clip_id, class and group, of at least the clips in `subset`.
        fraction: of the training clips, between 0 and 1.
        seed: of the shuffling before the folds are made.

    Returns:
        A copy of `subset` with some `train` turned into `val`.

    Raises:
        UserError: the training clips are of fewer than two groups.
    """
    if (subset == "val").any():
        return subset.copy()
    train = _rows(subset.index[subset == "train"], clips)
    if train["group"].nunique() < 2:
        raise UserError(
            f"dataset.val_fraction: the {len(train)} training clips come from {train['group'].nunique()} source(s), "
            "and validation "
            "needs one of its own: give clips from more sources, or a table or dataset.group_pattern that tells them "
            "apart"
        )
    movable = train[~_needed(train)]
    if movable.empty:  # each class has one group: whichever goes, its class goes with it
        movable = train
    target = fraction * len(train)
    groups = movable["group"].nunique()
    if groups == 1:
        held_out = movable["clip_id"]
    else:
        largest = movable["class"].value_counts().max()
        folds = _folds(movable, max(2, min(round(len(movable) / target), groups, largest)), seed)
        sides = [movable["clip_id"][folds == fold] for fold in np.unique(folds)]
        held_out = min(sides, key=lambda side: (_classes_lost(train, side), abs(len(side) - target)))
    result = subset.copy()
    result[held_out] = "val"
    return result


def assign_splits(clips: pd.DataFrame, n: int, test_fraction: float, seed: int) -> pd.Series:
    """Split number `n` of a data set that has none of its own: the n-th of 1/test_fraction folds is the test set.

    The folds are stratified by class and keep groups whole (StratifiedGroupKFold); their number is rounded, and
    together they cover every clip once. A group that alone holds a class stays in train in every split.

    Args:
        clips: columns clip_id, class, group, status; clips whose status is not `ok` become `unused`.
        n: 1 and up.
        test_fraction: between 0 and 0.5.
        seed: of the shuffling before the folds are made; the same for all n.

    Returns:
        Series: index clip_id in the order of `clips`, values `train`, `test`, `unused`.

    Raises:
        UserError: n is larger than the number of folds, or there are fewer groups than folds.
    """
    count = max(2, round(1 / test_fraction))
    if n > count:
        raise UserError(
            f"dataset.splits: there is no split {n}: a dataset.test_fraction of {test_fraction:g} makes {count} test "
            "sets; "
            f"use 1 to {count}, or a smaller test_fraction"
        )
    usable = clips[clips["status"] == "ok"].sort_values("clip_id", ignore_index=True)
    movable = usable[~_needed(usable)]
    groups = movable["group"].nunique()
    if groups < count:
        raise UserError(
            f"dataset.test_fraction: {len(usable)} clips in {usable['group'].nunique()} groups cannot make {count} "
            "test sets that leave "
            f"every class training clips ({groups} groups can be moved): give more clips from other sources, a finer "
            "dataset.group_pattern, or a table with a `split` column"
        )
    folds = _folds(movable, count, seed)
    test = movable["clip_id"][folds == n - 1]
    if test.empty:
        raise UserError(
            f"dataset.splits: the test set of split {n} comes out empty, because a few groups hold most of the "
            f"{len(usable)} clips: "
            "give clips from more sources, or a table with a `split` column"
        )
    result = pd.Series("unused", index=pd.Index(clips["clip_id"], name="clip_id"), name="subset")
    result[usable["clip_id"]] = "train"
    result[test] = "test"
    return result


def straddling_groups(subset: pd.Series, clips: pd.DataFrame) -> dict[str, list[str]]:
    """The groups with clips on more than one side of a split, each with those clips' ids; `unused` is no side."""
    sided = clips.assign(side=clips["clip_id"].map(subset))
    sided = sided[sided["side"].isin(["train", "val", "test"])]
    sides = sided.groupby("group")["side"].transform("nunique")
    return {str(group): sorted(rows["clip_id"]) for group, rows in sided[sides > 1].groupby("group", sort=True)}


def check_groups(subset: pd.Series, clips: pd.DataFrame, where: str) -> None:
    """Raise a UserError if a group stands on two sides: it names the first such group, one clip a side, and `where`."""
    straddling = straddling_groups(subset, clips)
    if not straddling:
        return
    group, ids = next(iter(straddling.items()))
    examples = {subset[clip]: clip for clip in reversed(ids)}
    named = " and ".join(f"{clip!r} in {side}" for side, clip in sorted(examples.items()))
    more = f" ({len(straddling) - 1} more groups likewise)" if len(straddling) > 1 else ""
    raise UserError(
        f"{where}: group {group!r} stands on two sides, with {named}{more}; put all clips of a group on one side"
    )


def _rows(ids: pd.Index, clips: pd.DataFrame) -> pd.DataFrame:
    rows = clips[clips["clip_id"].isin(ids)]
    return rows[["clip_id", "class", "group"]].sort_values("clip_id", ignore_index=True)


def _needed(clips: pd.DataFrame) -> pd.Series:
    """Of each clip, whether its group is the only one that some class has."""
    alone = clips.groupby("class")["group"].transform("nunique") == 1
    return clips["group"].isin(set(clips["group"][alone]))


def _classes_lost(train: pd.DataFrame, held_out: pd.Series) -> int:
    return train["class"].nunique() - train["class"][~train["clip_id"].isin(held_out)].nunique()


def _folds(clips: pd.DataFrame, count: int, seed: int) -> np.ndarray:
    """The fold of each clip, int64 [N] in 0..count-1, for at least `count` groups."""
    from sklearn.model_selection import StratifiedGroupKFold

    # Where every class has fewer clips than there are folds, scikit-learn refuses: then groups are kept and classes
    # not.
    largest = clips["class"].value_counts().max()
    strata = clips["class"] if largest >= count else np.zeros(len(clips), np.int64)
    folds = np.zeros(len(clips), np.int64)
    splitter = StratifiedGroupKFold(count, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)  # it is spread as far as it goes
        for fold, (_, part) in enumerate(splitter.split(folds, strata, clips["group"])):
            folds[part] = fold
    return folds
