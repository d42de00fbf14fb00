"""Split clips into train, val and test by complete groups, so that no source video is on two sides.

A hash of a group's name decides on which side the group is. So to add, rename, relabel, replace or remove a clip moves
no clip of another group, except in a class that is too small for hashing (see :func:`_hold_out`).
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections import defaultdict
from pathlib import Path

import pandas as pd

from twostream.datasets import get_dataset
from twostream.datasets.tables import COPIES, SUBSETS
from twostream.errors import UserError
from twostream.params import Dataset


def split_clips(dataset: Dataset, clips: pd.DataFrame, annotations: Path, seed: int) -> dict[int, pd.DataFrame]:
    """Return the tables of `splits/<n>.csv`: the splits of the data set, with validation clips held out of train.

    A clip that is missing or cannot be read is in them as `unused`. Prints the number of clips of each subset.

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
            subset = hold_out_validation(subset, clips, number, dataset.val_fraction, seed)
        _report_copies(subset, clips, number)
        splits[number] = pd.DataFrame({"clip_id": subset.index, "subset": subset.to_numpy()})
        train, val, test, unused = ((subset == name).sum() for name in SUBSETS)
        print(
            f"split {number}: {train} train, {val} val ({100 * val / (train + val):.1f} % of the training set), "
            f"{test} test ({100 * test / (train + val + test):.1f} % of all), {unused} unused"
        )
    return splits


def _report_copies(subset: pd.Series, clips: pd.DataFrame, n: int) -> None:
    """Print a line if clips that show the same video are in different subsets."""
    if COPIES not in clips:
        return
    pairs = clips.loc[clips[COPIES] != "", ["clip_id", COPIES]].to_numpy()
    sides = [(copy, original, subset[copy], subset[original]) for copy, original in pairs]
    apart = [one for one in sides if one[2] != one[3] and "unused" not in one]
    if apart:
        copy, original, here, there = apart[0]
        print(
            f"split {n}: {len(apart)} clips show the video of a clip in another subset, such as {copy!r} in {here} and "
            f"{original!r} in {there}; the split stays as it is"
        )


def hold_out_validation(subset: pd.Series, clips: pd.DataFrame, n: int, fraction: float, seed: int) -> pd.Series:
    """Move about `fraction` of the training clips to `val`, by complete groups.

    A group is drawn by the hash of its name and the seed, so it is drawn in each split in which it is in train.
    Neither side is empty, and each class keeps training clips as far as possible (:func:`_hold_out`).

    Args:
        subset: index clip_id, values `train`, `test` or `unused`.
        clips: columns clip_id, class and group, of at least the clips in `subset`.
        n: number of the split, for the printed lines.
        fraction: expected fraction of the training clips, between 0 and 1.
        seed: another seed draws other groups.

    Returns:
        A copy of `subset` with some `train` changed to `val`.

    Raises:
        UserError: the training clips come from fewer than two groups.
    """
    train = clips[clips["clip_id"].isin(subset.index[subset == "train"])]
    groups = set(train["group"])
    if len(groups) < 2:
        raise UserError(
            f"dataset.val_fraction: the {len(train)} training clips come from {len(groups)} source(s), "
            "and validation needs a source of its own: add clips from more sources, or set dataset.group_pattern or "
            "give a table that separates them"
        )
    points = {group: _hash(group, str(seed)) for group in groups}
    held_out = _hold_out(train, points, 1 - fraction, 1, "val", n)
    result = subset.copy()
    result[train["clip_id"][train["group"].isin(held_out)]] = "val"
    return result


def assign_splits(clips: pd.DataFrame, n: int, test_fraction: float) -> pd.Series:
    """Make split number `n` of a data set without official splits.

    The range of the hash is divided into 1 / `test_fraction` equal intervals, rounded to a whole number. The groups
    whose hash is in the n-th interval are the test set of split `n`, so all splits together test every clip once.
    Small classes are the exception (:func:`_hold_out`): the only group of a class is in train in every split, and a
    class with fewer groups than intervals has groups that are tested more than once.

    Args:
        clips: columns clip_id, class, group, status. Clips that are missing or cannot be read become `unused`.
        n: from 1.
        test_fraction: between 0 and 0.5.

    Returns:
        Series: index clip_id in the order of `clips`, values `train`, `test`, `unused`.

    Raises:
        UserError: `n` is larger than the number of intervals, or there are fewer groups than intervals.
    """
    count = max(2, round(1 / test_fraction))
    if n > count:
        raise UserError(
            f"dataset.splits: there is no split {n}: a dataset.test_fraction of {test_fraction:g} makes {count} test "
            f"sets; use 1 to {count}, or a smaller test_fraction"
        )
    usable = clips[clips["status"] == "ok"]
    groups = set(usable["group"])
    alone = usable.groupby("class", observed=True)["group"].transform("nunique") == 1
    movable = groups - set(usable["group"][alone])
    if len(movable) < count:
        raise UserError(
            f"dataset.test_fraction: {len(usable)} clips in {len(groups)} groups cannot make {count} test sets that "
            f"leave every class training clips ({len(movable)} groups can be moved): add clips from other sources, or "
            "give a finer dataset.group_pattern or a table with a `split` column"
        )
    # The hash is rotated so that the n-th interval becomes the last: [count - 1, count).
    points = {group: (count * _hash(group, "test") - n) % count for group in groups}
    test = _hold_out(usable, points, count - 1, 2, "test", n)
    result = pd.Series("unused", index=pd.Index(clips["clip_id"], name="clip_id"), name="subset")
    result[usable["clip_id"]] = "train"
    result[usable["clip_id"][usable["group"].isin(test)]] = "test"
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


def _hash(group: str, key: str) -> float:
    """Return a number in [0, 1) that depends on the name of the group and the key alone, uniform over names."""
    name = unicodedata.normalize("NFC", group)  # file systems differ in how they store an accented letter
    digest = hashlib.blake2b(name.encode(), key=key.encode(), digest_size=6).digest()
    return int.from_bytes(digest, "big") / 2**48


def _hold_out(
    clips: pd.DataFrame, points: dict[str, float], threshold: float, keep: int, name: str, n: int
) -> set[str]:
    """Return the groups whose point is at least `threshold`, after a repair of the classes that are too small for this.

    Each class needs one group that is held out and `keep` groups in train, or as many as it has; its only group stays
    in train. In a class to which the points do not give this, single groups change sides: first those with clips of
    that class alone, among them the one with the largest point. A group stays if another class needs it where it is,
    unless a class would have no training clips at all otherwise.

    So if a clip comes or goes, another group moves only if it has clips of a class that was or now is too small. A
    printed line names this class and the group.

    Args:
        clips: columns class and group.
        points: a number per group.
        threshold: of the points.
        keep: groups per class that train needs; 2 if validation groups are drawn from them later.
        name: of the subset that is held out, for the printed lines.
        n: number of the split, for the printed lines.
    """
    held_out = {group for group, point in points.items() if point >= threshold}
    groups, classes = defaultdict(set), defaultdict(set)
    for label, group in zip(clips["class"], clips["group"], strict=True):
        groups[label].add(group)
        classes[group].add(label)

    def missing(label: str, out: bool) -> int:
        """Return how many groups more the class needs on a side; 0 or less if it has enough."""
        others = len(groups[label]) - 1
        if out:
            return min(1, others) - len(groups[label] & held_out)
        return max(1, min(keep, others)) - len(groups[label] - held_out)

    def cost(group: str, label: str, out: bool) -> tuple[int, bool, float, str]:
        short = sum(missing(other, not out) >= 0 for other in classes[group] - {label})
        return short, len(classes[group]) > 1, -points[group], group

    for out in (False, True):  # train first: a class without training clips cannot be learnt
        sides = ("train", name) if out else (name, "train")
        for label in sorted(groups):
            while missing(label, out) > 0:
                costs = [cost(group, label, out) for group in groups[label] if (group in held_out) != out]
                short, _, _, group = min(costs)
                if short and (out or groups[label] - held_out):
                    break
                held_out ^= {group}
                print(
                    f"split {n}: class {label!r} would have too few groups in {sides[1]}: group {group!r} moves there "
                    f"from {sides[0]}"
                )
    if not held_out:  # every group has the only clips of some class
        group = min(cost(group, "", True) for group in points)[-1]
        held_out.add(group)
        print(f"split {n}: {name} would be empty: group {group!r} moves there from train")
    return held_out
