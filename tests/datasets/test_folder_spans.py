"""A table with start and end makes clips of spans of videos, without cutting files."""

from __future__ import annotations

import pandas as pd
import pytest
from folders import refused, run, settings
from helpers import moving_texture, write_video

from twostream.clipstore import ClipReader
from twostream.clipstore.extract import extract_rgb
from twostream.core.cache import FileCache, RecordCache
from twostream.datasets import folder
from twostream.datasets.folder.times import read_time
from twostream.datasets.probing import probe_clips
from twostream.datasets.tables import read_clips, write_table
from twostream.errors import UserError
from twostream.params import Rgb

FRAMES = 100  # 4 seconds


@pytest.fixture
def source(tmp_path):
    for number, name in enumerate(("one", "two", "three")):
        write_video(tmp_path / f"in/{name}.mp4", moving_texture(FRAMES, seed=number))
    return tmp_path / "in"


def table(source, *rows, header="path,class,start,end"):
    (source / "split.csv").write_text("\n".join([header, *rows]) + "\n")


def listed(source, tmp_path, **changes):
    dataset, places = settings(source, **changes), [tmp_path / "videos", tmp_path / "annotations"]
    folder.fetch(dataset, *places, tmp_path / "scratch")
    return folder.list_clips(dataset, *places)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("75.5", 75.5),
        ("75,5", 75.5),
        (".5", 0.5),
        ("3s", 3.0),
        ("1:15.5", 75.5),
        ("01:15,500", 75.5),
        ("90:00", 5400.0),
        ("1:01:15.5", 3675.5),
        ("00:00:00", 0.0),
        ("120f", 120),
        (" 120 F ", 120),
    ],
)
def test_times_are_read_in_every_form(text, value):
    assert read_time(text) == (value, "f" in text.lower())


@pytest.mark.parametrize(
    "text", ["1:75", "1:61:00", "-1", "nan", "inf", "1e3", "one", "1:2:3:4", "1.5f", "1;30", "12:"]
)
def test_other_forms_are_refused(text):
    with pytest.raises(ValueError, match="is not a time; write seconds"):
        read_time(text)


def test_all_forms_of_a_time_give_the_same_clip_and_videos_are_stored_once(source, tmp_path):
    table(
        source, "one.mp4,wave,1,2", "two.mp4,wave,0:01,00:00:02.000", "three.mp4,wave,25f,50f", "one.mp4,jump,0.99,2.01"
    )
    clips = listed(source, tmp_path)
    assert clips[["clip_id", "start", "end", "group"]].to_records(index=False).tolist() == [
        ("jump/one@1-2", 1.0, 2.0, "untrimmed/one.mp4"),
        ("wave/one@1-2", 1.0, 2.0, "untrimmed/one.mp4"),
        ("wave/three@1-2", 1.0, 2.0, "untrimmed/three.mp4"),
        ("wave/two@1-2", 1.0, 2.0, "untrimmed/two.mp4"),
    ]
    stored = [path.name for path in (tmp_path / "videos").rglob("*") if path.is_file()]
    assert sorted(stored) == ["one.mp4", "three.mp4", "two.mp4"]


def test_an_empty_time_is_the_start_or_the_end_and_clips_may_be_whole(source, tmp_path):
    table(source, "one.mp4,wave,,1:00", "two.mp4,wave,3,", "three.mp4,jump,,", "two.mp4,jump,0,4.2")
    with pytest.raises(UserError, match=r"line 2: end '1:00' is beyond the end of the video, which has 4.000 s"):
        listed(source, tmp_path)
    table(source, "one.mp4,wave,,1.51", "two.mp4,wave,3,", "three.mp4,jump,,", "two.mp4,jump,0,4.2")
    clips = listed(source, tmp_path)
    assert list(clips["clip_id"]) == ["jump/three", "jump/two@0-4", "wave/one@0-1.52", "wave/two@3-4"]
    assert clips["start"].isna().tolist() == [True, False, False, False]


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ("one.mp4,wave,2,1", "end '1' must be two frames or more after start '2'"),
        ("one.mp4,wave,1,1.04", "two frames or more"),
        ("one.mp4,wave,9,", "start '9' is beyond the end"),
        ("one.mp4,wave,0,120f", "end '120f' is beyond the end of the video, which has 4.000 s and 100 frames"),
        ("one.mp4,wave,x,2", "start 'x' is not a time; write seconds"),
        ("one.mp4,wave,0,1:99", "end '1:99' is not a time"),
        ("two.mp4,wave,0,1", "is in line 2 already"),
        ("two.mp4,jump,,", "with and without start and end"),
    ],
)
def test_a_wrong_time_is_refused_with_its_line_and_column(source, tmp_path, row, problem):
    table(source, "two.mp4,wave,0,1", row)
    message = refused(settings(source), tmp_path)
    assert f"{source}/split.csv, line 3: " in message and problem in message


def test_groups_and_splits_of_the_table_count(source, tmp_path):
    rows = [f"one.mp4,{label},{n},{n + 1},block{n},{'test' if n == 3 else 'train'}" for n in range(4) for label in "ab"]
    table(source, *rows, header="path,class,start,end,group,split")
    found = run(settings(source), tmp_path)
    assert set(found.clips["group"]) == {"block0", "block1", "block2", "block3"}
    assert found.splits[1]["a/one@3-4"] == "test" and found.splits[1]["a/one@0-1"] == "train"


def test_probing_and_extraction_read_the_spans_and_find_them_again(source, tmp_path, capsys):
    table(source, "one.mp4,wave,1,2", "one.mp4,jump,1.2,3", "two.mp4,jump,,")
    clips = listed(source, tmp_path)
    cache = RecordCache(tmp_path / "probes.jsonl")
    probed = probe_clips(clips, tmp_path / "videos", cache, workers=1, merge_copies=True)
    assert probed.set_index("clip_id")["frames"].to_dict() == {
        "jump/one@1.2-3": 45,
        "jump/two": 100,
        "wave/one@1-2": 25,
    }
    assert set(probed["fps"]) == {25.0} and set(probed["status"]) == {"ok"}
    write_table(probed, tmp_path / "clips.csv")
    back = read_clips(tmp_path / "clips.csv")
    pd.testing.assert_frame_equal(back, probed, check_dtype=False)
    store = FileCache(tmp_path / "cache", None)

    def extract(clips):
        return extract_rgb(clips, tmp_path / "videos", tmp_path / "rgb", Rgb(short_side=32, jpeg_quality=90), store, 1)

    assert extract(back)["extracted"] == 3
    with ClipReader(tmp_path / "rgb/jump/one@1.2-3.zip") as clip:
        assert len(clip) == 45 and clip.meta["span"] == [1.2, 3.0]
    assert extract(back) == {"clips": 3, "extracted": 0, "cached": 3}
    back.loc[0, "end"] = 2.6  # another span is another clip
    assert extract(back)["extracted"] == 1
    capsys.readouterr()
    probe_clips(clips, tmp_path / "videos", RecordCache(tmp_path / "probes.jsonl"), workers=1)
    assert "0 decoded, 3 from the cache" in capsys.readouterr().out
