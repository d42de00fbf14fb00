"""Ten odd files among good clips: each is listed with its reason, and no good one is lost."""

import pandas as pd
import pytest
from helpers import moving_texture, write_audio, write_video

from twostream.core.cache import RecordCache
from twostream.datasets import get_dataset, probing
from twostream.datasets.probing import list_and_probe, probe_clips
from twostream.datasets.splits import split_clips
from twostream.datasets.tables import CLIP_COLUMNS, read_clips, write_table
from twostream.errors import UserError
from twostream.params import parse_params
from twostream.video.probe import probe


def _dataset(values, source, **changes):
    section = {**values["dataset"], "name": "folder", "source": str(source), **changes}
    return parse_params({**values, "dataset": section}).dataset


def _cache(tmp_path):
    return RecordCache(tmp_path / "probes.jsonl")


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "source"
    for label in ("jump", "run"):
        for i, word in enumerate(["alpha", "beta", "gamma", "delta", "epsilon", "zeta"]):
            write_video(folder / label / f"{word}_{label}.avi", moving_texture(6, seed=i))
    good = {"jump/[x] 'q' \"r\" (s).avi": 7, "jump/two\nlines.avi": 8, "run/日本語.avi": 9}
    for name, seed in good.items():
        write_video(folder / name, moving_texture(6, seed=seed))
    (folder / "jump" / "empty.avi").write_bytes(b"")
    (folder / "jump" / "text.avi").write_text("hello\n" * 99)
    half = write_video(folder / "run" / "half.avi", moving_texture(60, 120, 160), codec="mjpeg")
    half.write_bytes(half.read_bytes()[: half.stat().st_size // 2])
    write_video(folder / "run" / "single.avi", moving_texture(1))
    write_video(folder / "run" / "thin.avi", moving_texture(6, height=48, width=4))
    write_audio(folder / "run" / "sound.avi")
    return folder


def _list(tmp_path, dataset):
    videos, annotations, scratch = tmp_path / "videos", tmp_path / "annotations", tmp_path / "scratch"
    get_dataset("folder").fetch(dataset, videos, annotations, scratch)
    clips = list_and_probe(dataset, videos, annotations, _cache(tmp_path), workers=1)
    return clips, split_clips(dataset, clips, annotations, seed=0)


def test_every_odd_file_is_listed_with_its_reason_and_no_good_one_is_lost(tmp_path, demo_values, source):
    clips, splits = _list(tmp_path, _dataset(demo_values, source, max_unreadable=6))
    write_table(clips, tmp_path / "clips.csv")
    back = read_clips(tmp_path / "clips.csv").set_index("clip_id")
    reasons = back[back["status"] == "unreadable"]["reason"]
    expected = {
        "jump/empty": "empty file",
        "jump/text": "not a video",
        "run/half": "cut short",
        "run/single": "a single frame",
        "run/thin": "smaller than 16",
        "run/sound": "no video stream",
    }
    assert set(reasons.index) == set(expected)
    for clip_id, words in expected.items():
        assert words in reasons[clip_id]
    readable = back[back["status"] == "ok"]
    assert len(readable) == 15 and (readable["frames"] == 6).all()
    assert {"jump/[x] 'q' \"r\" (s)", "jump/two\nlines", "run/日本語"} <= set(readable.index)
    subset = splits[1].set_index("clip_id")["subset"]
    assert set(subset.index) == set(back.index)
    assert (subset[reasons.index] == "unused").all()
    assert set(subset[readable.index]) == {"train", "val", "test"}


def test_too_many_unreadable_clips_fail_and_are_named(tmp_path, demo_values, source):
    with pytest.raises(UserError) as caught:
        _list(tmp_path, _dataset(demo_values, source, max_unreadable=5))
    message = str(caught.value)
    assert message.startswith("6 clips cannot be read, dataset.max_unreadable allows 5")
    for name in ("empty.avi", "text.avi", "half.avi", "single.avi", "thin.avi", "sound.avi"):
        assert name in message
    assert "\n" not in message


def test_no_group_is_in_two_subsets_of_a_split(tmp_path, demo_values):
    folder = tmp_path / "source"
    for label in ("jump", "run"):
        for number, word in enumerate(["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta"]):
            for take in (1, 2):
                frames = moving_texture(3, seed=4 * number + 2 * take + (label == "run"))
                write_video(folder / label / f"{word}_session_{take}.avi", frames)
    dataset = _dataset(demo_values, folder, group_pattern="^([a-z]+)_", splits=[1, 2, 3])
    clips, splits = _list(tmp_path, dataset)
    group = clips.set_index("clip_id")["group"]
    for table in splits.values():
        subset = table.set_index("clip_id")["subset"]
        sides = {name: set(group[subset.index[subset == name]]) for name in ("train", "val", "test")}
        assert all(sides.values())
        assert not sides["train"] & sides["val"] and not (sides["train"] | sides["val"]) & sides["test"]


def test_validation_clips_of_the_users_table_stay_as_they_are(tmp_path, demo_values, capsys):
    rows = ["path,group,split"]
    for label in ("jump", "run"):
        for group, subset in enumerate(["train", "train", "train", "val", "test"]):
            write_video(tmp_path / "source" / label / f"{group}.avi", moving_texture(3))
            rows.append(f"{label}/{group}.avi,g{group},{subset}")
    (tmp_path / "source" / "split.csv").write_text("\n".join(rows))
    _, splits = _list(tmp_path, _dataset(demo_values, tmp_path / "source", splits=[1]))
    assert list(splits[1]["subset"]) == ["train", "train", "train", "val", "test"] * 2
    line = "split 1: 6 train, 2 val (25.0 % of the training set), 2 test (20.0 % of all), 0 unused"
    assert line in capsys.readouterr().out.splitlines()


def test_when_no_clip_can_be_read_one_line_says_so(tmp_path, demo_values):
    rows = ["path,class,group,split", "jump/1.avi,jump,a,train", "run/1.avi,run,b,test"]
    for label in ("jump", "run"):
        (tmp_path / "source" / label).mkdir(parents=True)
        (tmp_path / "source" / label / "1.avi").write_bytes(b"")
    (tmp_path / "source" / "split.csv").write_text("\n".join(rows))
    with pytest.raises(UserError, match="none of its 2 clips can be read: 'jump/1.avi': empty file .*; 'run/1.avi'"):
        _list(tmp_path, _dataset(demo_values, tmp_path / "source", splits=[1], max_unreadable=2))


INDEX_COLUMNS = ["clip_id", "path", "class", "group", "status", "reason"]


def test_a_missing_clip_is_not_probed_and_keeps_its_reason(tmp_path):
    write_video(tmp_path / "a" / "1.avi", moving_texture(6, height=48, width=64))
    rows = [["a/0", "a/0.avi", "a", "g", "missing", "not in the source"], ["a/1", "a/1.avi", "a", "g", "ok", ""]]
    table = probe_clips(pd.DataFrame(rows, columns=INDEX_COLUMNS), tmp_path, _cache(tmp_path), workers=1)
    assert list(table.columns) == CLIP_COLUMNS
    assert table.iloc[0].tolist() == ["a/0", "a/0.avi", "a", "g", 0, 0.0, 0, 0, "missing", "not in the source"]
    assert table.iloc[1].tolist() == ["a/1", "a/1.avi", "a", "g", 6, 25.0, 64, 48, "ok", ""]
    assert [table[name].dtype for name in ("frames", "fps", "width", "height")] == [
        "int64",
        "float64",
        "int64",
        "int64",
    ]


def test_a_table_of_missing_clips_alone_keeps_its_types(tmp_path):
    rows = [["a/0", "a/0.avi", "a", "g", "missing", "gone"]]
    table = probe_clips(pd.DataFrame(rows, columns=INDEX_COLUMNS), tmp_path, _cache(tmp_path), workers=1)
    assert table.iloc[0].tolist() == ["a/0", "a/0.avi", "a", "g", 0, 0.0, 0, 0, "missing", "gone"]
    assert table["frames"].dtype == "int64"


def test_one_class_is_no_data_set(tmp_path, demo_values):
    for word in ["alpha", "beta", "gamma", "delta", "epsilon", "zeta"]:
        write_video(tmp_path / "source" / "jump" / f"{word}.avi", moving_texture(3))
    with pytest.raises(UserError, match="at least two"):
        _list(tmp_path, _dataset(demo_values, tmp_path / "source"))


@pytest.fixture
def decoded(monkeypatch):
    """The names of the files that are decoded, in order."""
    names = []

    def record(path, see, span):
        names.append(path.name)
        return probe(path, see)

    monkeypatch.setattr(probing, "probe", record)
    return names


def _probe_folder(folder, tmp_path):
    """Probe the videos of `folder` in the order of their names, with what the cache file holds."""
    names = sorted(path.name for path in folder.iterdir())
    table = pd.DataFrame([[f"a/{name}", name, "a", "g", "ok", ""] for name in names], columns=INDEX_COLUMNS)
    return probe_clips(table, folder, _cache(tmp_path), workers=1)


def test_one_more_clip_decodes_one_clip(tmp_path, decoded):
    folder = tmp_path / "videos"
    for name in "acd":
        write_video(folder / f"{name}.avi", moving_texture(4, seed=ord(name)))
    first = _probe_folder(folder, tmp_path)
    write_video(folder / "b.avi", moving_texture(5))
    (folder / "d.avi").rename(folder / "e.avi")
    second = _probe_folder(folder, tmp_path)
    assert decoded == ["a.avi", "c.avi", "d.avi", "b.avi"]
    assert second["frames"].tolist() == [4, 5, 4, 4]
    old = ["frames", "fps", "width", "height", "status", "reason"]
    pd.testing.assert_frame_equal(first[old], second[old].drop(index=1).reset_index(drop=True))


def test_a_changed_clip_is_decoded_and_so_is_one_that_could_not_be_read(tmp_path, decoded):
    folder = tmp_path / "videos"
    for name in "ab":
        write_video(folder / f"{name}.avi", moving_texture(4, seed=ord(name)))
    (folder / "c.avi").write_bytes(b"no video")
    _probe_folder(folder, tmp_path)
    write_video(folder / "b.avi", moving_texture(7))
    again = _probe_folder(folder, tmp_path)
    assert decoded == ["a.avi", "b.avi", "c.avi", "b.avi", "c.avi"]
    assert again["frames"].tolist() == [4, 7, 0]


def test_another_decoder_decodes_every_clip_again(tmp_path, decoded, monkeypatch):
    write_video(tmp_path / "videos" / "a.avi", moving_texture(4))
    _probe_folder(tmp_path / "videos", tmp_path)
    monkeypatch.setattr(probing, "code_digest", lambda *paths: "other")
    _probe_folder(tmp_path / "videos", tmp_path)
    monkeypatch.setattr(probing.av, "__version__", "0")
    _probe_folder(tmp_path / "videos", tmp_path)
    assert decoded == ["a.avi"] * 3


def test_a_killed_run_keeps_what_it_decoded(tmp_path, decoded, monkeypatch):
    for name in "abc":
        write_video(tmp_path / "videos" / f"{name}.avi", moving_texture(4, seed=ord(name)))
    whole = probing.probe

    def killed(path, see, span):
        if path.name == "c.avi":
            raise KeyboardInterrupt
        return whole(path, see, span)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(probing, "probe", killed)
        _probe_folder(tmp_path / "videos", tmp_path)
    _probe_folder(tmp_path / "videos", tmp_path)
    assert decoded == ["a.avi", "b.avi", "c.avi"]
