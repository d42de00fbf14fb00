"""Split clips into train, val and test by complete groups, so that no source video is on two sides."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pandas as pd

from twostream.datasets import get_dataset
from twostream.datasets.tables import SUBSETS
from twostream.errors import UserError
from twostream.params import Dataset

# Splits that a data set does not bring are the same for every seed of the training.
_TEST_SEED = 0


def split_clips(dataset: Dataset, clips: pd.DataFrame, annotations: Path, seed: int) -> dict[int, pd.DataFrame]:
    """Return the tables of `splits/<n>.csv`: the splits of the data set, with validation clips held out of train.

    A clip that is missing or cannot be read is in them as `unused`.

    Args:
        dataset: the parameter section.
        clips: the table of `clips.csv`.
        annotations: folder of the data set's own split files.
        seed: chooses the groups that are held out for validation.

    Raises:
        UserError: the data set does not have the splits of `dataset.splits`, or too few groups for them.
    """
    readable = (clips["status"] == "ok").to_numpy()
    splits = {}
    for number, subset in get_dataset(dataset.name).list_splits(dataset, clips, annotations).items():
        subset = subset.where(readable, "unused")
        if not (subset == "val").any():
            subset = hold_out_validation(subset, clips, dataset.val_fraction, seed)
        splits[number] = pd.DataFrame({"clip_id": subset.index, "subset": subset.to_numpy()})
        counts = subset.value_counts()
        print(f"split {number}: {', '.join(f'{counts.get(name, 0)} {name}' for name in SUBSETS)}")
    return splits


def hold_out_validation(subset: pd.Series, clips: pd.DataFrame, fraction: float, seed: int) -> pd.Series:
    """Move about `fraction` of the training clips to `val`, by complete groups and with the classes in proportion.

    Neither side is empty. A group that alone has the training clips of some class stays in train if any other group
    can move. Of the folds that scikit-learn's StratifiedGroupKFold makes, the one is chosen that leaves the fewest
    classes without training clips and is, among those, closest to `fraction`.

    Args:
        subset: index clip_id, values `train`, `test` or `unused`.
        clips: columns clip_id, class and group, of at least the clips in `subset`.
        fraction: of the training clips, between 0 and 1.
        seed: seed of the shuffling before the folds are made.

    Returns:
        A copy of `subset` with some `train` changed to `val`.

    Raises:
        UserError: the training clips come from fewer than two groups.
    """
    train = clips[clips["clip_id"].isin(subset.index[subset == "train"])].sort_values("clip_id", ignore_index=True)
    if train["group"].nunique() < 2:
        raise UserError(
            f"dataset.val_fraction: the {len(train)} training clips come from {train['group'].nunique()} source(s), "
            "and validation needs a source of its own: add clips from more sources, or set dataset.group_pattern or "
            "give a table that separates them"
        )
    movable = train[~_in_only_group_of_a_class(train)]
    if movable.empty:  # each class has one group: the class of any group that moves has no training clips left
        movable = train
    wanted = fraction * len(train)
    groups, largest_class = movable["group"].nunique(), movable["class"].value_counts().max()
    folds = _folds(movable, max(2, min(round(len(movable) / wanted), groups, largest_class)), seed)
    sides = [movable["clip_id"][folds == fold] for fold in np.unique(folds)]
    result = subset.copy()
    result[min(sides, key=lambda side: (_classes_lost(train, side), abs(len(side) - wanted)))] = "val"
    return result


def assign_splits(clips: pd.DataFrame, n: int, test_fraction: float) -> pd.Series:
    """Make split number `n` of a data set without official splits: fold `n` of 1 / `test_fraction` is the test set.

    The folds are stratified by class and keep groups complete (StratifiedGroupKFold). Their number is rounded, and
    together they cover every clip once. A group that alone has a class stays in train in every split.

    Args:
        clips: columns clip_id, class, group, status. Missing clips become `unused`. A clip that cannot be read has a
            subset, so that the others keep theirs when it is repaired.
        n: from 1.
        test_fraction: between 0 and 0.5.

    Returns:
        Series: index clip_id in the order of `clips`, values `train`, `test`, `unused`.

    Raises:
        UserError: `n` is larger than the number of folds, or there are fewer groups than folds.
    """
    count = max(2, round(1 / test_fraction))
    if n > count:
        raise UserError(
            f"dataset.splits: there is no split {n}: a dataset.test_fraction of {test_fraction:g} makes {count} test "
            f"sets; use 1 to {count}, or a smaller test_fraction"
        )
    usable = clips[clips["status"] != "missing"].sort_values("clip_id", ignore_index=True)
    movable = usable[~_in_only_group_of_a_class(usable)]
    groups = movable["group"].nunique()
    if groups < count:
        raise UserError(
            f"dataset.test_fraction: {len(usable)} clips in {usable['group'].nunique()} groups cannot make {count} "
            f"test sets that leave every class training clips ({groups} groups can be moved): add clips from other "
            "sources, or give a finer dataset.group_pattern or a table with a `split` column"
        )
    test = movable["clip_id"][_folds(movable, count, _TEST_SEED) == n - 1]
    if test.empty:
        raise UserError(
            f"dataset.splits: the test set of split {n} is empty, because a few groups hold most of the {len(usable)} "
            "clips: add clips from more sources, or give a table with a `split` column"
        )
    result = pd.Series("unused", index=pd.Index(clips["clip_id"], name="clip_id"), name="subset")
    result[usable["clip_id"]] = "train"
    result[test] = "test"
    return result


def leaking_groups(subset: pd.Series, clips: pd.DataFrame) -> dict[str, list[str]]:
    """Return the groups with clips in more than one of train, val and test, each with the ids of those clips."""
    sided = clips.assign(side=clips["clip_id"].map(subset))
    sided = sided[sided["side"].isin(["train", "val", "test"])]
    sides = sided.groupby("group")["side"].transform("nunique")
    return {str(group): sorted(rows["clip_id"]) for group, rows in sided[sides > 1].groupby("group", sort=True)}


def check_groups(subset: pd.Series, clips: pd.DataFrame, where: str) -> None:
    """Raise a UserError that names `where`, the first leaking group and a clip of it per subset, if there is one."""
    leaking = leaking_groups(subset, clips)
    if not leaking:
        return
    group, ids = next(iter(leaking.items()))
    examples = {subset[clip]: clip for clip in reversed(ids)}
    named = " and ".join(f"{clip!r} in {side}" for side, clip in sorted(examples.items()))
    more = f" ({len(leaking) - 1} more groups likewise)" if len(leaking) > 1 else ""
    raise UserError(
        f"{where}: group {group!r} is in two subsets, with {named}{more}; put all clips of a group into one subset"
    )


def _in_only_group_of_a_class(clips: pd.DataFrame) -> pd.Series:
    """Return True for clips whose group is the only group of some class."""
    alone = clips.groupby("class")["group"].transform("nunique") == 1
    return clips["group"].isin(set(clips["group"][alone]))


def _classes_lost(train: pd.DataFrame, moved: pd.Series) -> int:
    return train["class"].nunique() - train["class"][~train["clip_id"].isin(moved)].nunique()


def _folds(clips: pd.DataFrame, count: int, seed: int) -> np.ndarray:
    """Return the fold of each clip, int64 [N] in 0..count-1; all 0 if there is only one group."""
    from sklearn.model_selection import StratifiedGroupKFold

    folds = np.zeros(len(clips), np.int64)
    if clips["group"].nunique() == 1:
        return folds
    # scikit-learn refuses to stratify if every class has fewer clips than there are folds.
    strata = clips["class"] if clips["class"].value_counts().max() >= count else np.zeros_like(folds)
    splitter = StratifiedGroupKFold(count, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)  # it is spread as far as possible
        for fold, (_, members) in enumerate(splitter.split(folds, strata, clips["group"])):
            folds[members] = fold
    return folds
