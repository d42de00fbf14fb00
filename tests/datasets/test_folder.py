from __future__ import annotations

import csv
import os
import zipfile
from pathlib import Path

import pandas as pd
import pytest
from folders import fill, refused, run, settings
from helpers import TEST_DATA

from twostream.datasets import folder, get_dataset
from twostream.errors import UserError


def write_csv(path: Path, *rows: list[str]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)


TREE = [f"{label}/{label}{take}_{i}.mp4" for label in ("run", "wave") for take in "abcdefgh" for i in (1, 2)]


def test_a_tree_of_classes_is_copied_described_and_split(tmp_path):
    source = fill(tmp_path / "in", *TREE)
    made = run(settings(source, splits=[1, 2, 3]), tmp_path / "out")
    assert list(made.clips.columns) == ["clip_id", "path", "class", "group", "status", "reason"]
    assert list(made.clips["path"]) == sorted(TREE)
    assert list(made.clips["clip_id"]) == [name[:-4] for name in sorted(TREE)]
    assert set(made.clips["status"]) == {"ok"} and set(made.clips["class"]) == {"run", "wave"}
    for n in (1, 2, 3):
        assert list(made.splits[n].index) == list(made.clips["clip_id"])
    assert (sum((made.splits[n] == "test").astype(int) for n in (1, 2, 3)) == 1).all()
    for name in TREE:
        copy = tmp_path / "out" / "videos" / name
        assert copy.read_bytes() == name.encode()
        assert copy.stat().st_nlink == 1 and (source / name).stat().st_nlink == 1 and not copy.is_symlink()


def test_the_module_is_found_by_name():
    assert get_dataset("folder") is folder


def test_the_same_folder_gives_the_same_bytes(tmp_path):
    source = fill(tmp_path / "in", *TREE)
    run(settings(source), tmp_path / "one")
    run(settings(source), tmp_path / "two")
    for name in ("annotations/clips.csv", "videos/run/runa_1.mp4"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


@pytest.mark.parametrize("wrapped", ["", "videos/", "data set/videos/"])
@pytest.mark.parametrize("packed", [False, True])
def test_a_wrapping_folder_and_an_archive_make_no_difference(tmp_path, wrapped, packed):
    source = fill(tmp_path / "in", *(wrapped + name for name in TREE), "read me.txt")
    if packed:
        with zipfile.ZipFile(tmp_path / "in.zip", "w") as archive:
            for path in source.rglob("*"):
                archive.write(path, path.relative_to(source))
        source = tmp_path / "in.zip"
    made = run(settings(source), tmp_path / "out")
    assert list(made.clips["path"]) == sorted(TREE)


def test_endings_count_in_any_case_and_other_files_are_counted(tmp_path, capsys):
    source = fill(
        tmp_path / "in", "a/1.AVI", "a/2.MkV", "a/3.webm", "b/4.mov", "a/notes.txt", "b/x.srt", "a/.hidden.mp4"
    )
    made = run(settings(source, test_fraction=0.5), tmp_path / "out")
    assert len(made.clips) == 4
    assert "2 file(s) are not videos and are left out: 'a/notes.txt', 'b/x.srt'" in capsys.readouterr().out


ODD = [
    'a/it\'s [1] "x" (y) & ; $.avi',
    "a/new\nline.avi",
    "a/üñí 走.avi",
    b"a/caf\xe9.avi",
    "a/caf\\xe9.avi",
    "a/Case.avi",
    "a/case.avi",
    "a/same.avi",
    "a/same.mp4",
    "a/same.mp4.mkv",
    "a/" + "long" * 60 + ".avi",
    "a/" + "long" * 59 + "LONG.avi",
    b"kl\xe4sse/1.avi",
    "-b/--help.avi",
]


def test_no_name_loses_a_clip(tmp_path):
    source = fill(tmp_path / "in", *ODD)
    made = run(settings(source, test_fraction=0.5), tmp_path / "out")
    contents = {(tmp_path / "out" / "videos" / path).read_bytes() for path in made.clips["path"]}
    assert contents == {os.fsencode(name) for name in ODD}
    assert made.clips["clip_id"].str.casefold().is_unique and made.clips["path"].str.casefold().is_unique
    assert {'a/it\'s [1] "x" (y) & ; $', "a/new\nline", "a/üñí 走", "a/same.avi", "a/same.mp4"} <= set(
        made.clips["clip_id"]
    )
    made.clips["path"].str.encode("utf-8")
    assert max(len(os.path.basename(path).encode()) for path in made.clips["path"]) <= 200
    table = tmp_path / "clips.csv"
    made.clips.to_csv(table, index=False, lineterminator="\n")
    again = pd.read_csv(table, dtype=str, keep_default_na=False)
    assert list(again["path"]) == list(made.clips["path"])


def test_links_are_followed_and_files_that_cannot_be_copied_are_listed(tmp_path):
    source = fill(tmp_path / "in", "a/1.avi", "a/2.avi", "b/3.avi", "b/4.avi")
    fill(tmp_path / "elsewhere", "5.avi")
    (source / "b" / "5.avi").symlink_to(tmp_path / "elsewhere" / "5.avi")
    (source / "c").symlink_to(tmp_path / "elsewhere")
    (source / "a" / "gone.avi").symlink_to(tmp_path / "gone")
    os.mkfifo(source / "a" / "pipe.avi")
    made = run(settings(source, test_fraction=0.5), tmp_path / "out")
    clips = made.clips.set_index("path")
    assert list(clips.index[clips["status"] == "ok"]) == [
        "a/1.avi",
        "a/2.avi",
        "b/3.avi",
        "b/4.avi",
        "b/5.avi",
        "c/5.avi",
    ]
    assert clips["reason"]["a/gone.avi"] == "a link to a file that does not exist"
    assert clips["reason"]["a/pipe.avi"] == "not a regular file"
    assert made.splits[1]["a/gone"] == "unused"
    copy = tmp_path / "out" / "videos" / "b" / "5.avi"
    assert copy.read_bytes() == b"5.avi" and not copy.is_symlink()


@pytest.mark.parametrize("stray", ["loose.avi", "run/deep/er.avi", "train/run/x.avi"])
def test_a_clip_that_lies_elsewhere_is_an_error_and_not_lost(tmp_path, stray):
    message = refused(settings(fill(tmp_path / "in", *TREE, stray)), tmp_path / "out")
    assert repr(stray) in message and "<class>/<clip>" in message


def test_a_folder_without_videos_is_one_line(tmp_path):
    assert "holds no videos" in refused(settings(fill(tmp_path / "in", "a/notes.txt")), tmp_path / "out")


def test_a_killed_copy_is_begun_again(tmp_path):
    source = fill(tmp_path / "in", *TREE)
    fill(tmp_path / "out" / "videos.part", "run/half.mp4")
    made = run(settings(source), tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out" / "videos" / "run").iterdir()) == sorted(
        os.path.basename(path) for path in made.clips["path"] if path.startswith("run/")
    )


def test_groups_come_from_the_pattern(tmp_path):
    source = fill(tmp_path / "in", *(f"{label}/t{i}_s{i % 4}.avi" for label in "ab" for i in range(8)))
    made = run(settings(source, group_pattern=r"_(s\d)"), tmp_path / "out")
    assert sorted(made.clips["group"].unique()) == ["s0", "s1", "s2", "s3"]


HEADER = ["path", "class", "group", "split"]
GOOD = [
    ["run/1.mp4", "run", "s1", "train"],
    ["run/2.mp4", "run", "s2", "test"],
    ["wave/1.mp4", "wave", "s1", "train"],
    ["wave/2.mp4", "wave", "s3", "val"],
]


def with_table(tmp_path: Path, *rows: list[str], where: str = "videos/", table: str = "split.csv") -> Path:
    source = fill(tmp_path / "in", *(where + row[0] for row in GOOD))
    write_csv(source / table, *rows)
    return source


def test_a_table_says_group_and_split(tmp_path):
    made = run(settings(with_table(tmp_path, HEADER, *GOOD)), tmp_path / "out")
    assert list(made.clips["group"]) == ["s1", "s2", "s1", "s3"]
    assert made.splits[1].to_dict() == {"run/1": "train", "run/2": "test", "wave/1": "train", "wave/2": "val"}


def test_a_table_by_another_name_or_in_the_project_is_found(tmp_path, monkeypatch):
    source = with_table(tmp_path, HEADER, *GOOD, table="mine.csv")
    assert run(settings(source, table="mine.csv"), tmp_path / "one").splits[1]["run/2"] == "test"
    monkeypatch.chdir(tmp_path)
    Path("data/tables").mkdir(parents=True)
    os.replace(source / "mine.csv", "data/tables/mine.csv")
    assert run(settings(source, table="data/tables/mine.csv"), tmp_path / "two").splits[1]["run/2"] == "test"
    assert "'mine.csv' is not in the source" in refused(settings(source, table="mine.csv"), tmp_path / "three")


def test_a_table_may_give_the_classes_of_clips_that_lie_anywhere(tmp_path):
    source = fill(tmp_path / "in", "x.mp4", "deep/er/y.mp4", "z/z.mp4", "z/w.mp4")
    rows = [["x.mp4", "run"], [str(source / "deep/er/y.mp4"), "run"], ["z/z.mp4", "wave"], ["z/w.mp4", "wave"]]
    write_csv(source / "split.csv", ["path", "class"], *rows)
    made = run(settings(source, test_fraction=0.5), tmp_path / "out")
    assert list(made.clips["path"]) == ["run/x.mp4", "run/y.mp4", "wave/w.mp4", "wave/z.mp4"]


def test_clips_of_one_name_in_several_folders_of_a_class_are_kept_apart(tmp_path):
    source = fill(tmp_path / "in", "day1/x.mp4", "day2/x.mp4", "day2/y.mp4")
    write_csv(source / "split.csv", ["path", "class"], ["day1/x.mp4", "a"], ["day2/x.mp4", "a"], ["day2/y.mp4", "b"])
    folder.fetch(settings(source), tmp_path / "videos", tmp_path / "annotations", tmp_path / "scratch")
    assert {p.read_bytes() for p in (tmp_path / "videos" / "a").iterdir()} == {b"day1/x.mp4", b"day2/x.mp4"}


def test_without_a_class_column_the_folder_is_the_class(tmp_path):
    rows = [["path", "split"], *([row[0], row[3]] for row in GOOD)]
    made = run(settings(with_table(tmp_path, *rows)), tmp_path / "out")
    assert list(made.clips["class"]) == ["run", "run", "wave", "wave"]


def test_names_with_quotes_and_newlines_stand_in_a_table(tmp_path):
    names = ['run/a "b", c.mp4', "run/new\nline.mp4", os.fsdecode(b"run/caf\xe9.mp4")]
    source = fill(tmp_path / "in", *names)
    with open(source / "split.csv", "w", newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
        csv.writer(file).writerows(
            [["path", "split"], *([name, side] for name, side in zip(names, ["train", "test", "val"], strict=True))]
        )
    made = run(settings(source), tmp_path / "out")
    assert set(made.clips["status"]) == {"ok"}
    assert made.splits[1].to_dict() == {'run/a "b", c': "train", "run/new\nline": "test", "run/caf\\xe9": "val"}


def test_a_row_without_its_file_is_missing_and_a_file_without_a_row_is_unused(tmp_path, capsys):
    source = with_table(tmp_path, HEADER, *GOOD, ["wave/gone.mp4", "wave", "s9", "test"])
    fill(source / "videos", "run/new.mp4", "other/thing.mp4")
    made = run(settings(source), tmp_path / "out")
    clips = made.clips.set_index("clip_id")
    assert clips["status"]["wave/gone"] == "missing" and clips["reason"]["wave/gone"]
    assert clips["status"]["run/new"] == "ok" and made.splits[1]["run/new"] == "unused"
    assert "other" not in set(clips["class"])
    said = capsys.readouterr().out
    assert "1 file(s) are listed in the table but not there" in said and "'videos/other/thing.mp4'" in said


def test_a_file_without_a_row_is_unused_when_the_table_gives_no_split_either(tmp_path):
    rows = [[f"run/anna{i}_1.mp4", f"g{i}"] for i in range(4)]
    source = fill(tmp_path / "in", *(row[0] for row in rows), "run/new.mp4", "wave/new.mp4")
    write_csv(source / "split.csv", ["path", "group"], *rows)
    made = run(settings(source, test_fraction=0.5), tmp_path / "out")
    assert set(made.splits[1].drop("run/new")) == {"train", "test"}
    assert made.splits[1]["run/new"] == "unused" and list(made.splits[1].index) == list(made.clips["clip_id"])


def test_a_relative_source_may_have_absolute_names_in_its_table(tmp_path, monkeypatch):
    source = with_table(tmp_path, HEADER, *([str(tmp_path / "in" / "videos" / row[0]), *row[1:]] for row in GOOD))
    monkeypatch.chdir(tmp_path)
    made = run(settings(source.name), Path("out"))
    assert set(made.clips["status"]) == {"ok"}


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (["run/1.mp4", "run", "s1", "trian"], "line 6: split 'trian' must be one of train, val, test, unused"),
        (["run/1.mp4", "run", "s1", ""], "line 6: split ''"),
        (["run/1.mp4", "run", "", "train"], "line 6: the group is empty"),
        (["run/9.mp4", "", "s1", "train"], "line 6: class ''"),
        (["run/9.mp4", "a/b", "s1", "train"], "line 6: class 'a/b'"),
        (["run/9.mp4", "..", "s1", "train"], "line 6: class '..'"),
        (["run/1.mp4", "run", "s1", "train"], "line 6: 'run/1.mp4' is in line 2 already"),
        (["", "run", "s1", "train"], "line 6: path ''"),
        (["/etc/passwd", "run", "s1", "train"], "line 6: path '/etc/passwd' is not a file inside"),
        (["../../../secret.mp4", "run", "s1", "train"], "is not a file inside"),
        (["run/9.mp4", "run"], "line 6: has fewer fields"),
        (["run/9.mp4", "run", "s1", "train", "more"], "line 6: has more fields"),
    ],
)
def test_a_bad_row_is_named_by_its_line(tmp_path, row, says):
    assert says in refused(settings(with_table(tmp_path, HEADER, *GOOD, row)), tmp_path / "out")


def test_bad_tables_are_one_line_each(tmp_path):
    source = with_table(tmp_path, ["file", "label"], ["a", "b"])
    assert "must be the columns" in refused(settings(source), tmp_path / "out")
    write_csv(source / "split.csv", HEADER)
    assert "no clips to" in refused(settings(source), tmp_path / "out")
    write_csv(source / "split.csv", ["path"], ["gone.mp4"], ["lost.mp4"])
    assert "none of the 2 clips" in refused(settings(source), tmp_path / "out")
    (source / "split.csv").write_text('path\n"run/1.mp4\n')
    assert "not valid CSV" in refused(settings(source), tmp_path / "out")


def test_a_group_in_two_subsets_of_the_users_table_is_an_error(tmp_path):
    source = with_table(tmp_path, HEADER, *GOOD[:3], ["wave/2.mp4", "wave", "s1", "test"])
    with pytest.raises(UserError, match="group 's1' is in two subsets, with 'wave/2' in test and 'run/1' in train"):
        run(settings(source), tmp_path / "out")


def test_groups_that_names_suggest_only_warn_against_the_users_split(tmp_path, capsys):
    source = fill(tmp_path / "in", "run/anna_1.mp4", "run/anna_2.mp4")
    write_csv(source / "split.csv", ["path", "split"], ["run/anna_1.mp4", "train"], ["run/anna_2.mp4", "test"])
    assert run(settings(source), tmp_path / "out").splits[1].to_dict() == {"run/anna_1": "train", "run/anna_2": "test"}
    assert "have clips in two subsets of the split, such as 'anna'" in capsys.readouterr().out


def test_a_table_has_one_split(tmp_path):
    with pytest.raises(UserError, match=r"dataset.splits: \[1, 2\]"):
        run(settings(with_table(tmp_path, HEADER, *GOOD), splits=[1, 2]), tmp_path / "out")


@pytest.mark.skipif(not TEST_DATA.is_dir(), reason="TWOSTREAM_TEST_DATA is not set")
@pytest.mark.parametrize(
    ("name", "clips", "groups", "train", "test"), [("fights", 226, 119, 150, 76), ("arid6", 72, 15, 48, 24)]
)
def test_real_clips_with_their_table(tmp_path, name, clips, groups, train, test):
    made = run(settings(TEST_DATA / name), tmp_path)
    assert len(made.clips) == clips and set(made.clips["status"]) == {"ok"}
    assert made.clips["group"].nunique() == groups
    assert made.splits[1].value_counts().to_dict() == {"train": train, "test": test}


@pytest.mark.skipif(not TEST_DATA.is_dir(), reason="TWOSTREAM_TEST_DATA is not set")
def test_names_of_real_clips_tell_the_groups_that_their_table_tells(tmp_path):
    given = run(settings(TEST_DATA / "arid6"), tmp_path / "table").clips["group"]
    found = run(settings(TEST_DATA / "arid6" / "videos"), tmp_path / "names").clips["group"]
    pairs = set(zip(given, found, strict=True))
    assert len(pairs) == given.nunique() == found.nunique()
