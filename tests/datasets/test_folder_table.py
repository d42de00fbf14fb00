"""Tables of clips as people write them, and class folders in all the forms in which they lie on disks."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path

import pytest
from folders import fill, refused, run, settings

from twostream.errors import UserError

CLIPS = [f"{label}/{name}1.mp4" for label in ("walk", "run") for name in "abcd"]
SUBSETS = ["train", "train", "val", "test"] * 2
ROWS = [
    [clip, clip.split("/")[0], f"g{number % 4 + 1}", subset]
    for number, (clip, subset) in enumerate(zip(CLIPS, SUBSETS, strict=True))
]
SIDES = ("train", "train", "test")
HEADER = ["path", "class", "group", "split"]


def table(tmp_path: Path, content: str | bytes, *clips: str | bytes) -> Path:
    source = fill(tmp_path / "in", *(clips or CLIPS))
    (source / "split.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    return source


def text(rows=None, header=HEADER, delimiter=",", end="\n") -> str:
    return "".join(delimiter.join(row) + end for row in [header, *(ROWS if rows is None else rows)])


FORMS = {
    "as documented": text(),
    "semicolons": text(delimiter=";"),
    "tabs": text(delimiter="\t"),
    "bars": text(delimiter="|"),
    "Excel's first line": "sep=;\r\n" + text(delimiter=";", end="\r\n"),
    "CRLF": text(end="\r\n"),
    "CR": text(end="\r"),
    "BOM": b"\xef\xbb\xbf" + text().encode(),
    "UTF-16 of Excel": text(delimiter="\t", end="\r\n").encode("utf-16"),
    "UTF-16, big end first": b"\xfe\xff" + text().encode("utf-16-be"),
    "UTF-32": text().encode("utf-32"),
    "UTF-16 without BOM": text().encode("utf-16-le"),
    "blanks in the header": text(header=["path", " class", " group ", " split"]),
    "blanks everywhere": text([[f" {cell} " for cell in row] for row in ROWS], delimiter=" ,"),
    "quotes after blanks": text([[f'"{cell}"' for cell in row] for row in ROWS], delimiter=", "),
    "capitals": text([[*row[:3], row[3].upper()] for row in ROWS], header=["Path", "CLASS", "Group", "Split"]),
    "backslashes": text([[row[0].replace("/", "\\"), *row[1:]] for row in ROWS]),
    "dots": text([[f"./{row[0]}", *row[1:]] for row in ROWS]),
    "the name of the source first": text([[f"in/{row[0]}", *row[1:]] for row in ROWS]),
    "names in the folder of their class": text([[row[0].split("/")[1], *row[1:]] for row in ROWS]),
    "invisible characters": text([[f"{row[0]}\u200b", *row[1:]] for row in ROWS], ["\ufeffpath", *HEADER[1:]]),
    "another order": text([row[::-1] for row in ROWS], header=HEADER[::-1]),
    "blank lines": "\n" + text().replace("\n", "\n\n,,,\n"),
    "surplus fields": text([[*row, "", ""] for row in ROWS], header=[*HEADER, "", ""]),
    "index of pandas": text([[str(i), *row] for i, row in enumerate(ROWS)], header=["", *HEADER]),
    "other words": text([[*row[:3], {"train": "Training", "val": "valid", "test": "testing"}[row[3]]] for row in ROWS]),
    "more columns": text([[*row, "2.5", "slow"] for row in ROWS], header=[*HEADER, "duration", "notes"]),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_table_is_read_in_the_forms_that_people_write(tmp_path, form):
    made = run(settings(table(tmp_path, FORMS[form])), tmp_path / "out")
    found = made.clips.set_index("path")
    assert set(found["status"]) == {"ok"}
    for path, label, group, subset in ROWS:
        assert list(found.loc[path, ["class", "group"]]) == [label, group]
        assert made.splits[1][path.removesuffix(".mp4")] == subset


def test_absolute_paths_through_a_link_and_without_it_are_found(tmp_path):
    fill(tmp_path / "real", *CLIPS)
    (tmp_path / "in").symlink_to(tmp_path / "real")
    rows = [[f"{tmp_path}/{('real', 'in')[i % 2]}/{row[0]}", *row[1:]] for i, row in enumerate(ROWS)]
    made = run(settings(table(tmp_path, text(rows))), tmp_path / "out")
    assert set(made.clips["status"]) == {"ok"}


@pytest.mark.parametrize("on_disk", ["NFC", "NFD"])
@pytest.mark.parametrize(
    "in_table, encoding",
    [("NFC", "latin-1"), ("NFC", "cp1252"), ("NFC", "utf-8"), ("NFD", "utf-8"), ("NFC", "utf-16"), ("NFD", "utf-16")],
)
def test_names_with_accents_are_found_in_every_encoding_and_form(tmp_path, on_disk, in_table, encoding):
    names = ["Läufe/Zoë.mp4", "Läufe/Noël.mp4", "Pöse/Zoë.mp4"]
    rows = [
        [name, name.split("/")[0], f"é{i}", side] for i, (name, side) in enumerate(zip(names, SUBSETS, strict=False))
    ]
    rows[2][3] = "test"
    content = unicodedata.normalize(in_table, text(rows)).encode(encoding)
    source = table(tmp_path, content, *(unicodedata.normalize(on_disk, name) for name in names))
    made = run(settings(source), tmp_path / "out")
    assert set(made.clips["status"]) == {"ok"}
    assert sorted(made.clips["class"].unique()) == ["Läufe", "Pöse"]
    assert sorted(made.clips["group"]) == ["é0", "é1", "é2"]


def test_names_that_are_no_text_are_found_by_their_bytes(tmp_path):
    names = [b"run/caf\xe9.mp4", b"run/b.mp4", b"wave/c.mp4"]
    source = table(tmp_path, b"path,split\n%b,train\n%b,test\n%b,val\n" % tuple(names), *names)
    assert set(run(settings(source), tmp_path / "out").clips["status"]) == {"ok"}


@pytest.mark.parametrize("encoding", ["cp1251", "mac-roman"])
def test_a_table_in_an_encoding_that_is_not_known_is_named(tmp_path, encoding):
    names = {"cp1251": ["бег/а.mp4", "бег/б.mp4", "run/c.mp4"], "mac-roman": ["Läufe/Zoë.mp4", "b/b.mp4", "run/c.mp4"]}
    rows = [[name, name.split("/")[0], name[-5], side] for name, side in zip(names[encoding], SIDES, strict=True)]
    source = table(tmp_path, text(rows).encode(encoding), *names[encoding])
    line = refused(settings(source), tmp_path / "out")
    assert "split.csv, line 2: " in line and "the table is not UTF-8; save it as CSV (UTF-8)" in line


def test_the_columns_of_a_table_without_a_known_delimiter_are_not_one_name(tmp_path):
    source = table(tmp_path, text(delimiter=":"))
    assert "line 1: separate the columns with commas, semicolons or tabs" in refused(settings(source), tmp_path / "out")


def test_a_table_without_endings_is_compared_with_the_files(tmp_path):
    source = table(tmp_path, text([[row[0].removesuffix(".mp4"), *row[1:]] for row in ROWS]))
    assert "such as 'walk/a1' (there is 'walk/a1.mp4')" in refused(settings(source), tmp_path / "out")


def test_names_in_other_capitals_are_found_and_named(tmp_path, capsys):
    source = table(tmp_path, text([["Walk/A1.MP4", *ROWS[0][1:]], *ROWS[1:]]))
    assert set(run(settings(source), tmp_path / "out").clips["status"]) == {"ok"}
    assert "1 file(s) differ from their row in capitals: 'walk/a1.mp4'" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (["path", "labels", "group", "split"], "line 1: column 'labels' is not known; rename it to class"),
        (["path", "class_name", "group", "split"], "line 1: column 'class_name' is not known; rename it to class"),
        (["path", "class", "group", "spilt"], "line 1: column 'spilt' is not known; rename it to split"),
        (["path", "class", "group", "Subset"], "line 1: column 'Subset' is not known; rename it to split"),
        (["path", "class", "group_id", "split"], "line 1: column 'group_id' is not known; rename it to group"),
        (
            ["filename", "class", "group", "split"],
            "line 1: .* rename the column 'filename' to path",
        ),
        (["where", "class", "group", "split"], "line 1: .* path is missing .found 'where,class,group,split'"),
        (ROWS[0], "line 1: .* path is missing .this is a clip"),
        (["path", "class", "Class", "split"], "line 1: column class is there 2 times"),
    ],
)
def test_a_column_that_is_close_to_a_known_one_is_named_with_the_remedy(tmp_path, header, words):
    source = table(tmp_path, text(header=header))
    with pytest.raises(UserError, match=f"split.csv, {words}"):
        run(settings(source), tmp_path / "out")


def test_other_columns_are_named_once(tmp_path, capsys):
    run(settings(table(tmp_path, FORMS["more columns"])), tmp_path / "out")
    assert capsys.readouterr().out.count("the columns 'duration', 'notes' are not used") == 1


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"PK\x03\x04 and so on", "is a spreadsheet, not text; save it as CSV"),
        (b"\xff\xfep\0a\0t\0h\0\n", "is not valid UTF-16; save it as CSV"),
        (b"", "is empty; the first line must be the columns path,class,group,split"),
        (text([*ROWS, ["C:\\clips\\walk\\a1.mp4", *ROWS[0][1:]]]).encode(), r"line 10: path .* relative to the class"),
        (text([ROWS[0], ["walk/b1.mp4", "Walk", "g2", "test"]]).encode(), "line 3: class 'Walk' is 'walk' in line 2"),
    ],
)
def test_what_cannot_be_read_is_one_line_with_a_remedy(tmp_path, content, words):
    source = table(tmp_path, content)
    assert re.search(words, refused(settings(source), tmp_path / "out"))


def in_subsets(*names: str) -> list[str]:
    return [f"{name}/{clip}" for name in names for clip in CLIPS]


@pytest.mark.parametrize("wrapped", ["", "data/"])
@pytest.mark.parametrize("train, val, test", [("train", "val", "test"), ("Training", "validation", "TEST")])
def test_folders_of_the_subsets_give_the_split(tmp_path, wrapped, train, val, test):
    names = [f"{wrapped}{folder}/walk/{folder}_{i}.mp4" for folder in (train, val, test) for i in (1, 2)]
    names += [f"{wrapped}{folder}/run/deep/{folder}_{i}.mp4" for folder in (train, val, test) for i in (3, 4)]
    made = run(settings(fill(tmp_path / "in", *names)), tmp_path / "out")
    assert sorted(made.clips["class"].unique()) == ["run", "walk"]
    expected = {f"walk/{train}_1": "train", f"run/{val}_3": "val", f"walk/{test}_2": "test"}
    assert len(made.clips) == 12 and {name: made.splits[1][name] for name in expected} == expected


def test_the_same_name_in_two_subsets_is_two_clips(tmp_path):
    made = run(settings(fill(tmp_path / "in", *in_subsets("train", "test"))), tmp_path / "out")
    assert made.splits[1].value_counts().to_dict() == {"train": 8, "test": 8}


def test_a_table_without_a_split_leaves_that_of_the_folders(tmp_path):
    names = in_subsets("train", "test")
    rows = [[name, f"g{i}"] for i, name in enumerate(names)]
    made = run(settings(table(tmp_path, text(rows, header=["path", "group"]), *names)), tmp_path / "out")
    assert sorted(made.clips["class"].unique()) == ["run", "walk"]
    assert made.splits[1].value_counts().to_dict() == {"train": 8, "test": 8}


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (in_subsets("train", "val"), "the folder test is missing; rename another one to it"),
        (["train/a.mp4", "test/b.mp4"], "test, train are subsets, not classes; put a folder per class into each"),
        ([*in_subsets("train", "test"), "extra/walk/x.mp4"], "are not at <class>/<clip> or <train|val|test>/<class>/"),
        ([*CLIPS, "Run/x.mp4"], "the classes 'Run' and 'run' differ only in capitals"),
    ],
)
def test_folders_that_are_neither_classes_nor_subsets_are_one_line(tmp_path, names, words):
    assert words in refused(settings(fill(tmp_path / "in", *names)), tmp_path / "out")


def test_a_class_folder_in_both_forms_is_one_class(tmp_path):
    names = [unicodedata.normalize(form, f"é/{form}.mp4") for form in ("NFC", "NFD")]
    made = run(settings(fill(tmp_path / "in", *names, "run/x.mp4"), test_fraction=0.5), tmp_path / "out")
    assert sorted(made.clips["path"]) == ["run/x.mp4", "é/NFC.mp4", "é/NFD.mp4"]


def test_a_table_with_another_name_is_not_passed_over_in_silence(tmp_path, capsys):
    source = fill(tmp_path / "in", *CLIPS, "splits.csv")
    run(settings(source), tmp_path / "out")
    assert "to read 'splits.csv' as the table of clips, name it in dataset.table" in capsys.readouterr().out
