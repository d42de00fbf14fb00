from __future__ import annotations

import pandas as pd
import pytest

from twostream.datasets.tables import CLIP_COLUMNS, classes_of, read_clips, read_split, write_table
from twostream.errors import UserError

ODD = ['it\'s "x" [y] & ;#!$,', "two\nlines", "car\rriage", "None", "NA", "", "007"]


def clips(names: list[str]) -> pd.DataFrame:
    rows = [(f"c/{name}", f"c/{name}.avi", name, "g", 3, 29.97, 320, 240, "ok", "") for name in names]
    return pd.DataFrame(rows, columns=CLIP_COLUMNS)


def test_any_name_survives_the_table_of_clips(tmp_path):
    write_table(clips(ODD), tmp_path / "new" / "clips.csv")
    pd.testing.assert_frame_equal(read_clips(tmp_path / "new" / "clips.csv"), clips(ODD), check_dtype=False)
    assert classes_of(read_clips(tmp_path / "new" / "clips.csv")) == sorted(ODD)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["clips.csv"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"status": "fine"}, "its status is not one of"),
        ({"clip_id": "../../outside"}, "its id leads out"),
        ({"clip_id": "/tmp/x"}, "its id leads out"),
        ({"path": "a/../../passwd"}, "its path leads out"),
        ({"frames": 0}, "it has no frames"),
        ({"width": -320}, "it has no frames"),
    ],
)
def test_a_clip_that_no_stage_would_list_is_named(tmp_path, changes, words):
    table = clips(["a", "b"])
    for column, value in changes.items():
        table.loc[1, column] = value
    write_table(table, tmp_path / "clips.csv")
    with pytest.raises(UserError, match=words):
        read_clips(tmp_path / "clips.csv")


def test_a_split_is_read_by_clip(tmp_path):
    write_table(pd.DataFrame({"clip_id": ODD, "subset": "val"}), tmp_path / "1.csv")
    split = read_split(tmp_path / "1.csv")
    assert list(split.index) == ODD and set(split) == {"val"}


def test_a_bad_table_is_one_line_that_names_the_file(tmp_path):
    path = tmp_path / "clips.csv"
    with pytest.raises(UserError, match="clips.csv: cannot be read .*; run `dvc repro`"):
        read_clips(path)
    write_table(clips(["a", "a"]), path)
    with pytest.raises(UserError, match="clips.csv: clip 'c/a' is listed twice"):
        read_clips(path)
    with pytest.raises(UserError, match="clips.csv: has the columns .*; expected clip_id, subset"):
        read_split(path)
    write_table(pd.DataFrame({"clip_id": ["a/1"], "subset": ["valid"]}), path)
    with pytest.raises(UserError, match="clips.csv: subset 'valid' must be one of train, val, test, unused"):
        read_split(path)
    path.write_text("clip_id,frames\na,many\n")
    with pytest.raises(UserError, match="clips.csv: ") as caught:
        read_clips(path)
    assert "\n" not in str(caught.value)
