from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from folders import settings
from helpers import moving_texture, write_video

from twostream.core.cache import RecordCache
from twostream.datasets import get_dataset
from twostream.datasets.probing import list_and_probe, probe_clips
from twostream.datasets.splits import split_clips
from twostream.datasets.tables import read_clips, write_table

COLUMNS = ["clip_id", "path", "class", "group", "status", "reason"]


def frames(seed: int, count: int = 24) -> list[np.ndarray]:
    return moving_texture(count, height=72, width=96, step=3, seed=seed)


def probed(tmp_path: Path, merge: bool = True, **groups: str) -> pd.DataFrame:
    """Probe the videos in `tmp_path`, each in a group of its own but for `groups`."""
    names = sorted(path.name for path in tmp_path.iterdir() if path.suffix != ".jsonl")
    rows = [[name, name, name[0], groups.get(Path(name).stem, name), "ok", ""] for name in names]
    cache = RecordCache(tmp_path / "probes.jsonl")
    return probe_clips(pd.DataFrame(rows, columns=COLUMNS), tmp_path, cache, workers=1, merge_copies=merge)


ALTERED = {
    "the same": lambda image: image,
    "scaled": lambda image: cv2.resize(image, (64, 48), interpolation=cv2.INTER_AREA),
    "mirrored": lambda image: np.ascontiguousarray(image[:, ::-1]),
    "brighter": lambda image: (image * 0.7 + 60).astype(np.uint8),
    "cut": lambda image: np.ascontiguousarray(image[2:-2, 2:-2]),
}


@pytest.mark.parametrize("codec, ending", [("mpeg4", ".avi"), ("mjpeg", ".mkv"), ("libx264", ".mp4")])
@pytest.mark.parametrize("altered", ALTERED)
def test_altered_copies_are_found_and_other_videos_are_not(tmp_path, capsys, altered, codec, ending):
    for seed in range(4):
        write_video(tmp_path / f"a{seed}.avi", frames(seed))
    write_video(tmp_path / f"b{ending}", [ALTERED[altered](image) for image in frames(2)], codec=codec)
    table = probed(tmp_path).set_index("clip_id")
    assert table["copy_of"].to_dict() == {**{f"a{seed}.avi": "" for seed in range(4)}, f"b{ending}": "a2.avi"}
    assert table["group"][f"b{ending}"] == table["group"]["a2.avi"] and table["group"].nunique() == 4
    printed = capsys.readouterr().out
    assert f"1 clips show the video of another clip, such as 'b{ending}' that of 'a2.avi'; copies share a" in printed
    assert f"of another class, such as 'b{ending}' (b) that of 'a2.avi' (a); remove the one of the wrong" in printed


def test_the_same_bytes_are_found_even_if_nothing_moves(tmp_path):
    still = [frames(1)[0]] * 12
    write_video(tmp_path / "a.avi", still)
    shutil.copy(tmp_path / "a.avi", tmp_path / "b.avi")
    shutil.copy(tmp_path / "a.avi", tmp_path / "c.AVI")
    write_video(tmp_path / "d.avi", [still[0] // 2] * 12)  # the scene of a fixed camera at night: another video
    assert list(probed(tmp_path)["copy_of"]) == ["", "a.avi", "a.avi", ""]


def test_clips_of_one_fixed_camera_are_not_copies(tmp_path):
    background = cv2.resize(frames(5)[0], (192, 144))
    for seed, name in enumerate("abc"):
        images = []
        for step in range(24):
            image = background.copy()
            x, y = 10 + 6 * step if seed else 150 - 6 * step, 30 + 20 * seed
            image[y : y + 40, x : x + 25] = (250, 20, 120)
            images.append(image)
        write_video(tmp_path / f"{name}.avi", images)
    assert "copy_of" not in probed(tmp_path)


def test_groups_of_copies_become_the_largest_and_other_groups_stay(tmp_path):
    for seed in range(6):
        write_video(tmp_path / f"a{seed}.avi", frames(seed))
    write_video(tmp_path / "a9.avi", frames(4))
    table = probed(tmp_path, a0="x", a1="x", a4="x", a9="y", a5="y", a2="z").set_index("clip_id")
    assert [table["group"][f"a{n}.avi"] for n in (0, 1, 4, 9, 5, 2, 3)] == [*"xxxxxz", "a3.avi"]


def test_the_groups_of_official_splits_stay(tmp_path, capsys):
    write_video(tmp_path / "a1.avi", frames(1))
    write_video(tmp_path / "a2.avi", frames(1), codec="mjpeg")
    table = probed(tmp_path, merge=False)
    assert list(table["group"]) == ["a1.avi", "a2.avi"] and list(table["copy_of"]) == ["", "a1.avi"]
    assert "their groups and splits stay" in capsys.readouterr().out


def source(tmp_path: Path) -> Path:
    for seed in range(16):
        write_video(tmp_path / "clips" / ("walk", "run")[seed % 2] / f"{seed:03}.avi", frames(seed, 8))
    return tmp_path / "clips"


def listed(tmp_path: Path, dataset) -> tuple[pd.DataFrame, pd.Series]:
    shutil.rmtree(tmp_path / "out", ignore_errors=True)
    videos, annotations = tmp_path / "out" / "videos", tmp_path / "out" / "annotations"
    get_dataset("folder").fetch(dataset, videos, annotations, tmp_path / "scratch")
    cache = RecordCache(tmp_path / "probes.jsonl")
    clips = list_and_probe(dataset, videos, annotations, cache, workers=1)
    write_table(clips, tmp_path / "clips.csv")
    pd.testing.assert_frame_equal(read_clips(tmp_path / "clips.csv"), clips, check_dtype=False)
    return clips, split_clips(dataset, clips, annotations, seed=0)[1].set_index("clip_id")["subset"]


@pytest.mark.slow
def test_a_copy_of_a_clip_moves_no_other_clip(tmp_path):
    dataset = settings(source(tmp_path))
    clips, before = listed(tmp_path, dataset)
    assert "copy_of" not in clips
    for number, original in enumerate(before.index[:6]):
        write_video(tmp_path / "clips" / "walk" / f"copy of {number} mirrored.mp4", frames(int(original[-3:]), 8))
        clips, after = listed(tmp_path, dataset)
        copies = clips[clips["copy_of"] != ""]
        for copy, first in zip(copies["clip_id"], copies["copy_of"], strict=True):
            assert after[copy] == after[first]
        moved = {clip for clip in before.index if before[clip] != after[clip]}
        assert moved <= {*copies["clip_id"], *copies["copy_of"]}


def test_the_users_own_split_stays_with_a_line_about_copies_in_two_subsets(tmp_path, capsys):
    folder = source(tmp_path)
    clips = sorted(path.relative_to(folder) for path in folder.rglob("*.avi"))
    rows = [f"{path},g{n},{('train', 'train', 'val', 'test')[n % 4]}" for n, path in enumerate(clips)]
    shutil.copy(folder / clips[0], folder / clips[3])
    (folder / "split.csv").write_text("\n".join(["path,group,split", *rows]))
    table, subset = listed(tmp_path, settings(folder))
    first, other = (str(clips[n].with_suffix("")) for n in (0, 3))
    assert (subset[first], subset[other]) == ("train", "test")
    assert table.set_index("clip_id")["group"][other] == "g0"
    line = (
        f"split 1: 1 clips show the video of a clip in another subset, such as {other!r} in test and {first!r} in train"
    )
    assert line in capsys.readouterr().out
