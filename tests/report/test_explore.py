import json
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np
import pandas as pd
import pytest
from helpers import write_video

from twostream.datasets.tables import CLIP_COLUMNS
from twostream.errors import UserError
from twostream.report.explore import exploration_charts, read_exploration, write_exploration


def row(clip_id: str, path: str = "", frames: int = 50, fps: float = 25.0, status: str = "ok", size=(64, 48)) -> tuple:
    class_name, name = clip_id.rsplit("/", 1)
    if status != "ok":
        frames, fps, size = 0, 0.0, (0, 0)
    reason = "" if status == "ok" else "why not"
    return clip_id, path, class_name, name[:1], frames, fps, *size, status, reason


def table(*rows: tuple) -> pd.DataFrame:
    return pd.DataFrame(list(rows), columns=CLIP_COLUMNS)


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """11 frames, blue but for the middle one, which is red."""
    frames = [np.full((48, 64, 3), (0, 0, 220), np.uint8) for _ in range(11)]
    frames[5][:] = (220, 0, 0)
    return write_video(tmp_path / "videos" / "v.avi", frames, codec="mjpeg")


def sheet_of(out: Path) -> np.ndarray:
    return cv2.imread(str(out / "contact_sheet.jpg"))[..., ::-1]


def test_tables_count_what_the_clips_table_says(tmp_path, video):
    clips = table(
        row("run/a1", "v.avi", 25, 25.0),  # 1 s
        row("run/a2", "v.avi", 50, 25.0),  # 2 s
        row("run/b1", status="unreadable"),
        row("jump/c1", "v.avi", 180, 30.0, size=(320, 240)),  # 6 s
        row("jump/c2", status="missing"),
    )
    clips["frames"] = clips["frames"].clip(upper=10)  # the file has 11 frames; durations come below
    clips["fps"] = [10.0, 5.0, 0.0, 10 / 6, 0.0]
    summary = write_exploration(clips, video.parent, tmp_path / "out")
    tables = read_exploration(tmp_path / "out").tables

    assert tables["classes"].to_dict("records") == [
        {
            "class": "jump",
            "clips": 2,
            "seconds": 6.0,
            "median_seconds": 6.0,
            "readable": 1,
            "unreadable": 0,
            "missing": 1,
        },
        {
            "class": "run",
            "clips": 3,
            "seconds": 3.0,
            "median_seconds": 1.5,
            "readable": 2,
            "unreadable": 1,
            "missing": 0,
        },
    ]
    assert tables["durations"].to_numpy().tolist() == [
        ["0 to 1 s", 1],
        ["1 to 2 s", 1],
        ["2 to 5 s", 0],
        ["over 5 s", 1],
    ]
    assert tables["resolutions"].to_numpy().tolist() == [["64x48", 2], ["320x240", 1]]
    assert tables["fps"].to_numpy().tolist() == [[1.667, 1], [5.0, 1], [10.0, 1]]
    assert (summary["clips"], summary["readable"], summary["unreadable"], summary["missing"]) == (5, 3, 1, 1)
    assert (summary["classes"], summary["classes_without_clips"], summary["groups"]) == (2, 0, 3)
    assert summary["frames"] == {"total": 30, "min": 10, "median": 10, "mean": 10, "max": 10}
    assert summary["seconds"] == {"total": 9.0, "min": 1.0, "median": 2.0, "mean": 3.0, "max": 6.0}
    assert json.loads((tmp_path / "out" / "summary.json").read_text()) == summary


def test_a_clip_without_a_frame_rate_has_no_duration_and_is_counted(tmp_path, video):
    clips = table(row("a/x", "v.avi", 10, 0.0), row("a/y", "v.avi", 10, 5.0))
    summary = write_exploration(clips, video.parent, tmp_path / "out")
    assert summary["unknown_duration"] == 1
    assert summary["seconds"]["total"] == 2.0
    tables = read_exploration(tmp_path / "out").tables
    assert tables["durations"]["clips"].sum() == 1


def test_the_contact_sheet_shows_the_middle_frame_in_its_colours(tmp_path, video):
    write_exploration(table(row("a/x", "v.avi", 11)), video.parent, tmp_path / "out")
    sheet = sheet_of(tmp_path / "out")
    red = sheet[20:160, 20:220].reshape(-1, 3).mean(axis=0)
    assert red[0] > 180 and red[2] < 60


@pytest.mark.parametrize("classes", [1, 5, 51])
def test_the_frames_of_the_sheet_are_found_again_class_by_class(tmp_path, classes):
    """Each class has a video of its own grey level, which its frame must show up to the edges."""
    levels = [40 + 200 * number // classes for number in range(classes)]
    for number, level in enumerate(levels):
        write_video(tmp_path / f"{number}.avi", [np.full((48, 64, 3), level, np.uint8)] * 2, codec="mjpeg")
    clips = table(*(row(f"class{number:03d}/x", f"{number}.avi", 2) for number in range(classes)))
    write_exploration(clips, tmp_path, tmp_path / "out")
    frames = read_exploration(tmp_path / "out").frames
    assert [frame.shape[1] / frame.shape[0] for frame in frames] == [pytest.approx(4 / 3)] * classes
    for frame, level in zip(frames, levels, strict=True):
        assert np.abs(frame.astype(int) - level).max() < 25 and abs(frame.mean() - level) < 4


def test_clips_and_minutes_of_a_class_are_two_charts(tmp_path, video):
    clips = table(row("run/a", "v.avi", 10), row("run/b", "v.avi", 10), row("jump/c", "v.avi", 10))
    clips["fps"] = [10 / 60, 10 / 60, 10 / 90]  # one, one and one and a half minutes
    write_exploration(clips, video.parent, tmp_path / "out")
    tables = read_exploration(tmp_path / "out").tables
    drawn = exploration_charts(tables)
    assert "jump: 1<" in drawn["classes"][0] and "run: 2<" in drawn["classes"][0]
    assert "jump: 1.5<" in drawn["minutes"][0] and "run: 2.0<" in drawn["minutes"][0]


def test_another_shape_is_letterboxed_not_stretched(tmp_path):
    # A tall frame with a white square in it: after letterboxing the square is still as wide as high.
    frame = np.zeros((160, 64, 3), np.uint8)
    frame[60:100, 12:52] = 255
    video = write_video(tmp_path / "tall.avi", [frame] * 4, codec="mjpeg")
    write_exploration(table(row("a/x", video.name, 4)), tmp_path, tmp_path / "out")
    cell = sheet_of(tmp_path / "out")[8:188, 8:248].astype(int).mean(axis=-1)
    columns = slice(120 - 36, 120 + 36)  # inside the frame, which is 72 pixels wide
    ys, xs = np.nonzero(cell[:, columns] > 200)
    assert abs((np.ptp(ys) + 1) - (np.ptp(xs) + 1)) <= 2
    assert 43 <= np.ptp(ys) + 1 <= 47  # 40 px of 160, shown at 180 high


def test_a_class_without_a_readable_clip_keeps_its_place(tmp_path, video):
    clips = table(row("a/x", "v.avi", 11), row("b/x", status="missing"), row("c/x", "v.avi", 11))
    summary = write_exploration(clips, video.parent, tmp_path / "out")
    assert summary["classes_without_clips"] == 1
    assert summary["classes"] == 3


def test_no_readable_clip_at_all_still_gives_every_file(tmp_path):
    write_exploration(table(row("a/x", status="missing")), tmp_path, tmp_path / "out")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {
        *("summary.json", "classes.csv", "durations.csv", "resolutions.csv", "fps.csv"),
        *("contact_sheet.jpg", "classes.svg", "minutes.svg", "durations.svg"),
    }


@pytest.mark.parametrize("classes", [1, 2, 51, 101, 400])
def test_the_sheet_stays_small_and_near_four_to_three(tmp_path, classes):
    noise = np.random.default_rng(0).integers(0, 256, (120, 160, 3)).astype(np.uint8)
    video = write_video(tmp_path / "n.avi", [noise] * 2, codec="mjpeg")
    clips = table(*(row(f"class{number}/x", video.name, 2) for number in range(classes)))
    write_exploration(clips, tmp_path, tmp_path / "out")
    height, width = sheet_of(tmp_path / "out").shape[:2]
    assert (tmp_path / "out" / "contact_sheet.jpg").stat().st_size < 3_000_000
    if classes > 2:
        assert 1.0 < width / height < 1.8


def test_names_of_any_kind_give_sound_files(tmp_path, video):
    names = ["<script>alert(1)</script>", "a & b \"c\" 'd'", "line\nbreak\ttab", "走る", "\u202egnp", "None", "x" * 200]
    clips = table(*(row(f"{name}/x", "v.avi", 11) for name in names), row("<b>/y", status="missing"))
    write_exploration(clips, video.parent, tmp_path / "out")
    tables = read_exploration(tmp_path / "out").tables
    assert set(tables["classes"]["class"]) == {*names, "<b>"}
    svg = (tmp_path / "out" / "classes.svg").read_text(encoding="utf-8")
    tags = {element.tag.split("}")[1] for element in ElementTree.fromstring(svg).iter()}
    assert tags <= {"svg", "style", "title", "text", "rect", "path", "g"}


def test_the_same_clips_give_the_same_bytes(tmp_path, video):
    clips = table(row("a/x", "v.avi", 11), row("b/x", "v.avi", 11))
    for out in ("one", "two"):
        write_exploration(clips.sample(frac=1, random_state=len(out)), video.parent, tmp_path / out)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes(), path.name


@pytest.mark.parametrize(("path", "frames"), [("gone.avi", 11), ("v.avi", 50)])
def test_a_clip_that_is_not_what_the_table_says_is_named_in_one_line(tmp_path, video, path, frames):
    with pytest.raises(UserError, match=path) as error:
        write_exploration(table(row("a/x", path, frames)), video.parent, tmp_path / "out")
    assert "\n" not in str(error.value)


def test_a_damaged_exploration_is_one_line(tmp_path, video):
    out = tmp_path / "out"
    for name, damaged in {"summary.json": b"{", "contact_sheet.jpg": jpeg((9, 9)), "fps.csv": None}.items():
        write_exploration(table(row("a/x", "v.avi", 11)), video.parent, out)
        (out / name).unlink()
        if damaged is not None:
            (out / name).write_bytes(damaged)
        with pytest.raises(UserError, match="dvc repro") as error:
            read_exploration(out)
        assert "\n" not in str(error.value)


def jpeg(size: tuple[int, int]) -> bytes:
    return cv2.imencode(".jpg", np.zeros((*size, 3), np.uint8))[1].tobytes()
