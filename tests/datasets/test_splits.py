from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from twostream.datasets.splits import assign_splits, check_groups, hold_out_validation, leaking_groups
from twostream.errors import UserError


def table(rows: list[tuple[str, str]]) -> pd.DataFrame:
    """Clips of (class, group), named in order."""
    return pd.DataFrame(
        {
            "clip_id": [f"{label}/{i:04d}" for i, (label, _) in enumerate(rows)],
            "class": [label for label, _ in rows],
            "group": [group for _, group in rows],
            "status": "ok",
        }
    )


def random_clips(seed: int, classes: int = 6, groups: int = 40, clips: int = 400) -> pd.DataFrame:
    """Groups of very unequal size, some with clips of several classes."""
    rng = np.random.default_rng(seed)
    weights = rng.dirichlet(np.full(groups, 0.5))
    return table([(f"c{rng.integers(classes)}", f"g{g}") for g in rng.choice(groups, clips, p=weights)])


def all_train(clips: pd.DataFrame) -> pd.Series:
    return pd.Series("train", index=pd.Index(clips["clip_id"], name="clip_id"), name="subset")


@pytest.mark.parametrize("seed", range(20))
def test_validation_is_whole_groups_and_neither_side_is_empty(seed):
    clips = random_clips(seed)
    subset = hold_out_validation(all_train(clips), clips, 0.2, seed)
    assert leaking_groups(subset, clips) == {}
    assert {"train", "val"} == set(subset)
    trained = set(clips["class"][(subset == "train").to_numpy()])
    assert trained == set(clips["class"]), "a class without training clips cannot be learnt"


@pytest.mark.parametrize("fraction", [0.05, 0.1, 0.2, 0.33, 0.5])
def test_validation_has_about_the_fraction_and_the_classes_in_proportion(fraction):
    clips = table([(f"c{i % 4}", f"g{i // 4}") for i in range(800)])  # 200 groups, each with every class
    subset = hold_out_validation(all_train(clips), clips, fraction, 0)
    held_out = clips[(subset == "val").to_numpy()]
    assert len(held_out) / 800 == pytest.approx(fraction, abs=0.02)
    assert held_out["class"].value_counts().nunique() == 1


def test_validation_takes_from_train_alone_and_keeps_the_order():
    clips = random_clips(0)
    given = all_train(clips)
    given.iloc[::3] = "test"
    given.iloc[1::7] = "unused"
    subset = hold_out_validation(given, clips, 0.2, 0)
    assert (subset[given != "train"] == given[given != "train"]).all()
    assert subset.index.equals(given.index) and subset.index.name == "clip_id"
    assert (given != "val").all(), "the argument is left alone"


def test_a_seed_decides_and_the_order_of_the_rows_does_not():
    clips = random_clips(3)
    first = hold_out_validation(all_train(clips), clips, 0.2, 1)
    shuffled = clips.sample(frac=1, random_state=9)
    again = hold_out_validation(all_train(shuffled), shuffled, 0.2, 1)
    assert again.sort_index().equals(first.sort_index())
    assert any(not hold_out_validation(all_train(clips), clips, 0.2, s).equals(first) for s in range(2, 6))


def test_the_only_group_of_a_class_stays_in_train():
    clips = table([("rare", "lonely")] * 5 + [("common", f"g{i}") for i in range(5)])
    for seed in range(10):
        subset = hold_out_validation(all_train(clips), clips, 0.5, seed)
        assert (subset.iloc[:5] == "train").all()
        assert (subset == "val").any()


def test_two_groups_are_enough_and_one_is_not():
    clips = table([("a", "g1"), ("b", "g2")])
    assert sorted(hold_out_validation(all_train(clips), clips, 0.2, 0)) == ["train", "val"]
    clips = table([("a", "g1"), ("b", "g1")])
    with pytest.raises(UserError, match=r"dataset.val_fraction: the 2 training clips come from 1 source") as caught:
        hold_out_validation(all_train(clips), clips, 0.2, 0)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("seed", range(5))
def test_test_sets_cover_every_movable_clip_once_and_keep_groups_whole(seed):
    clips = random_clips(seed, groups=60)
    splits = [assign_splits(clips, n, 0.25) for n in (1, 2, 3, 4)]
    for subset in splits:
        assert leaking_groups(subset, clips) == {}
        assert set(subset) == {"train", "test"}
        assert list(subset.index) == list(clips["clip_id"])
    assert (sum((subset == "test").astype(int) for subset in splits) == 1).all()


def test_test_sets_are_stratified():
    clips = table([(f"c{i % 5}", f"c{i % 5}-{i // 10}") for i in range(600)])
    subset = assign_splits(clips, 2, 0.3)
    tested = clips["class"][(subset == "test").to_numpy()].value_counts()
    assert tested.sum() == pytest.approx(200, abs=12) and tested.max() - tested.min() <= 8


def test_clips_that_are_not_there_are_unused():
    clips = random_clips(0)
    clips.loc[:9, "status"] = "missing"
    subset = assign_splits(clips, 1, 0.3)
    assert (subset.iloc[:10] == "unused").all() and (subset.iloc[10:] != "unused").all()


def test_a_split_beyond_the_folds_and_too_few_groups_are_one_line_each():
    with pytest.raises(UserError, match="no split 4: a dataset.test_fraction of 0.3 makes 3 test sets"):
        assign_splits(random_clips(0), 4, 0.3)
    with pytest.raises(UserError, match="dataset.test_fraction: 40 clips in 2 groups cannot make 3"):
        assign_splits(table([("a", "g1"), ("a", "g2")] * 20), 1, 0.3)


def test_a_group_in_two_subsets_is_named_with_a_clip_of_each():
    clips = table([("a", "g1"), ("a", "g2"), ("b", "g2"), ("b", "g3")])
    subset = pd.Series(["train", "train", "test", "unused"], index=clips["clip_id"])
    assert leaking_groups(subset, clips) == {"g2": ["a/0001", "b/0002"]}
    with pytest.raises(UserError, match="split.csv: group 'g2' .* 'b/0002' in test and 'a/0001' in train"):
        check_groups(subset, clips, "split.csv")
    subset["b/0002"] = "unused"
    check_groups(subset, clips, "split.csv")
    subset["b/0002"] = "val"
    with pytest.raises(UserError, match="'b/0002' in val"):
        check_groups(subset, clips, "split.csv")
