"""Scores: what the file promises, and that streams cannot be mixed up."""

import os
import zipfile

import numpy as np
import pytest
from sklearn.metrics import top_k_accuracy_score

from twostream.errors import UserError
from twostream.fusion.scores import Scores, align, log_softmax, ranks, read_scores, write_scores


def make(clips=6, classes=4, seed=0):
    generator = np.random.default_rng(seed)
    return Scores(
        clip_id=np.array([f'run/a [{i}]\'; "ü"\n' for i in range(clips)]),
        label=generator.integers(classes, size=clips),
        classes=np.array([f"class {i}" for i in range(classes)]),
        subset=np.array(["val", "test"] * clips)[:clips],
        logits=generator.normal(size=(clips, classes)),
    )


def same(a, b):
    return all(np.array_equal(getattr(a, n), getattr(b, n)) for n in Scores.__dataclass_fields__)


def reordered(scores, seed=1):
    return scores.take(np.random.default_rng(seed).permutation(len(scores)))


@pytest.mark.parametrize("clips", [0, 1, 6])
def test_scores_come_back_as_they_were_written(tmp_path, clips):
    scores = make(clips)
    write_scores(tmp_path / "new" / "folder" / "s.npz", scores)
    back = read_scores(tmp_path / "new" / "folder" / "s.npz")
    assert same(scores, back)
    assert back.label.dtype == np.int64 and back.logits.dtype == np.float32
    assert os.listdir(tmp_path / "new" / "folder") == ["s.npz"]


def test_numpy_itself_reads_the_file_without_pickle(tmp_path):
    scores = make()
    write_scores(tmp_path / "s.npz", scores)
    with np.load(tmp_path / "s.npz", allow_pickle=False) as arrays:
        assert sorted(arrays) == sorted(["clip_id", "label", "classes", "subset", "logits"])
        assert np.array_equal(arrays["logits"], scores.logits)


def test_the_same_scores_give_the_same_bytes_at_any_time(tmp_path, monkeypatch):
    write_scores(tmp_path / "a.npz", make())
    monkeypatch.setattr("time.time", lambda: 2e9)
    write_scores(tmp_path / "b.npz", make())
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.npz") as archive:
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    write_scores(tmp_path / "s.npz", make())
    before = (tmp_path / "s.npz").read_bytes()
    monkeypatch.setattr(np.lib.format, "write_array", lambda *a, **k: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError):
        write_scores(tmp_path / "s.npz", make(seed=5))
    assert (tmp_path / "s.npz").read_bytes() == before


def test_no_damaged_byte_passes_for_other_scores(tmp_path):
    scores = make(2, 2)
    write_scores(tmp_path / "s.npz", scores)
    good = (tmp_path / "s.npz").read_bytes()
    damaged = tmp_path / "d.npz"
    for position in range(0, len(good), 3):
        damaged.write_bytes(good[:position] + bytes([good[position] ^ 0x5A]) + good[position + 1 :])
        try:
            assert same(read_scores(damaged), scores), position  # a date or a flag: nothing that is read
        except UserError as error:
            assert str(damaged) in str(error) and "\n" not in str(error)


def test_every_cut_is_a_user_error(tmp_path):
    write_scores(tmp_path / "s.npz", make(2, 2))
    good = (tmp_path / "s.npz").read_bytes()
    for length in range(0, len(good), 7):
        (tmp_path / "cut.npz").write_bytes(good[:length])
        with pytest.raises(UserError, match="cut.npz"):
            read_scores(tmp_path / "cut.npz")


def test_a_missing_file_a_missing_array_and_a_pickle_are_user_errors(tmp_path):
    with pytest.raises(UserError, match=r"none\.npz.*dvc repro"):
        read_scores(tmp_path / "none.npz")
    np.savez(tmp_path / "part.npz", clip_id=np.array(["a"]), label=np.array([0]))
    with pytest.raises(UserError, match="classes"):
        read_scores(tmp_path / "part.npz")
    arrays = {n: getattr(make(), n) for n in Scores.__dataclass_fields__}
    np.savez(tmp_path / "pickle.npz", **(arrays | {"clip_id": arrays["clip_id"].astype(object)}))
    with pytest.raises(UserError, match=r"pickle\.npz"):
        read_scores(tmp_path / "pickle.npz")


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("label", [0, 1, 2], r"label is not the index of a class for clip 'c'"),
        ("label", [0, -1, 0], r"label is not the index of a class for clip 'b'"),
        ("label", [0.0, 1.0, 0.0], "label has type float64, expected int64"),
        ("logits", [[0, 0], [0, np.nan], [0, 0]], r"logits are not finite for clip 'b'"),
        ("logits", [[0, 0, 0]] * 3, "logits has shape"),
        ("subset", ["val", "test", "other"], r"subset is not one of train, val, test for clip 'c'"),
        ("clip_id", ["a", "b", "a"], "clip_id holds 'a' twice"),
        ("classes", ["x", "x"], "classes holds 'x' twice"),
        ("clip_id", [1, 2, 3], "clip_id has type int64, expected str"),
    ],
)
def test_arrays_that_do_not_fit_together_are_refused(field, value, says):
    arrays = {
        "clip_id": np.array(["a", "b", "c"]),
        "label": np.array([0, 1, 0]),
        "classes": np.array(["x", "y"]),
        "subset": np.array(["val", "test", "test"]),
        "logits": np.zeros((3, 2)),
    }
    Scores(**arrays)
    with pytest.raises(ValueError, match=says):
        Scores(**(arrays | {field: np.array(value)}))


def test_align_brings_the_streams_into_one_order():
    scores = make(20)
    aligned = align({"a": scores, "b": reordered(scores), "c": reordered(scores, 2)})
    assert list(aligned) == ["a", "b", "c"]
    assert all(same(one, scores) for one in aligned.values())


def test_align_names_the_stream_that_could_not_score_a_clip():
    scores = make(4)
    for streams, lacks in (
        ({"rgb": scores, "flow": scores.take(np.array([0, 1, 3]))}, "'flow' has no scores of"),
        ({"rgb": scores.take(np.array([0, 1, 3])), "flow": scores}, "'rgb' has no scores of"),
    ):
        with pytest.raises(UserError, match=lacks) as caught:
            align(streams)
        assert repr(str(scores.clip_id[2])) in str(caught.value)


def test_align_refuses_other_labels_subsets_and_classes():
    scores = make(4, 3)
    arrays = {name: getattr(scores, name) for name in Scores.__dataclass_fields__}
    other = {
        "label": (scores.label + np.array([0, 0, 1, 0])) % 3,
        "subset": np.array(["val", "test", "test", "test"]),
        "classes": np.array(["class 0", "class 1", "class 9"]),
    }
    for field, value in other.items():
        with pytest.raises(
            UserError, match="class '?2|class '?9" if field == "classes" else f"another {field}"
        ) as caught:
            align({"a": scores, "b": Scores(**(arrays | {field: value}))})
        if field != "classes":
            assert repr(str(scores.clip_id[2])) in str(caught.value)


def test_ranks_agree_with_scikit_learn_and_with_argmax_on_ties():
    scores = make(200, 7)
    for k in (1, 2, 5):
        expected = top_k_accuracy_score(scores.label, scores.logits, k=k, labels=np.arange(7))
        assert (ranks(scores) < k).mean() == pytest.approx(expected)
    tied = Scores(scores.clip_id, scores.label, scores.classes, scores.subset, scores.logits.round(0))
    assert np.array_equal(ranks(tied) == 0, tied.logits.argmax(axis=1) == tied.label)


def test_log_softmax_survives_logits_that_overflow():
    assert log_softmax(np.array([1e4, 0.0, -1e4])).tolist() == [0.0, -1e4, -2e4]
    assert np.exp(log_softmax(np.log([[0.2, 0.3, 0.5]]))) == pytest.approx(np.array([[0.2, 0.3, 0.5]]))


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '<f4', 'fortran_order': False, 'shape': (10000000000000,), }",
        "__import__('os').mkdir('trapped')",
        "(" * 9000,
    ],
)
def test_a_header_that_would_fill_the_memory_or_run_code_is_refused(tmp_path, monkeypatch, header):
    monkeypatch.chdir(tmp_path)
    with zipfile.ZipFile("x.npz", "w") as archive:
        for name in ("clip_id", "label", "classes", "subset", "logits"):
            text = header.encode() + b"\n"
            archive.writestr(f"{name}.npy", b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text)
    with pytest.raises(UserError, match="not usable scores"):
        read_scores("x.npz")
    assert [path.name for path in tmp_path.iterdir()] == ["x.npz"]


def test_compressed_scores_are_refused(tmp_path):
    np.savez_compressed(tmp_path / "x.npz", logits=np.zeros(10**7))
    with pytest.raises(UserError, match="compressed"):
        read_scores(tmp_path / "x.npz")
