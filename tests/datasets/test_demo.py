"""The demo data set: what is rendered, how it is named and split, and that its classes take both streams."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from twostream.datasets import demo as demo_set
from twostream.datasets.demo.pose import draw_pose
from twostream.errors import UserError
from twostream.params import Demo
from twostream.video.probe import probe

HMDB51_NAME = re.compile(
    r"^(?P<source>.+)_(?P<label>(?:approach|sidestep|squat)_(?:ball|flag|umbrella))"
    r"_[hulf]_(?:cm|nm)_np\d_(?:fr|ba|le|ri)_(?:goo|med|bad)_\d+\.avi$"
)
TINY = Demo(groups=4, takes=1, frames=8, width=64, height=48, seed=0)


def _dataset(demo: Demo = TINY, splits: tuple[int, ...] = (1, 2, 3)) -> SimpleNamespace:
    return SimpleNamespace(demo=demo, splits=list(splits))


def _make(folder: Path, demo: Demo = TINY, workers: int = 1) -> Path:
    demo_set.fetch(_dataset(demo), folder / "videos", folder / "annotations", folder / "scratch", workers)
    return folder


def _digests(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _lists(folder: Path) -> dict[int, dict[str, int]]:
    """Read the split files by their format alone: split -> file name -> 0, 1 or 2."""
    lists: dict[int, dict[str, int]] = {1: {}, 2: {}, 3: {}}
    for path in (folder / "annotations").iterdir():
        number = int(re.fullmatch(r"\w+_test_split(\d)\.txt", path.name)[1])
        for line in path.read_text().splitlines():
            name, code = line.rsplit(" ", 1)
            lists[number][name] = int(code)
    return lists


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _make(tmp_path_factory.mktemp("demo"))


@pytest.mark.slow
def test_each_group_films_every_class_and_names_say_so(made: Path) -> None:
    found = [(path.parent.name, HMDB51_NAME.match(path.name)) for path in (made / "videos").rglob("*.avi")]
    assert len(found) == 4 * 1 * 9
    assert all(match and match["label"] == folder for folder, match in found)
    assert len({(match["source"], folder) for folder, match in found}) == 36
    assert {path.suffix for path in (made / "videos").rglob("*") if path.is_file()} == {".avi"}  # no half-written file


def test_videos_are_avi_files_that_decode_at_the_size_length_and_rate_asked_for(made: Path) -> None:
    lengths = set()
    for path in sorted((made / "videos").rglob("*.avi")):
        assert path.read_bytes()[:4] == b"RIFF"
        seen = probe(path)
        assert (seen.readable, seen.reason, seen.width, seen.height, seen.fps) == (True, "", 64, 48, 25.0)
        lengths.add(seen.frames)
    assert min(lengths) >= 6 and max(lengths) <= 10 and len(lengths) > 2


@pytest.mark.slow
def test_the_number_of_processes_changes_no_byte(made: Path, tmp_path: Path) -> None:
    assert _digests(_make(tmp_path, workers=2)) == _digests(made)


@pytest.mark.slow
def test_another_seed_gives_other_videos(made: Path, tmp_path: Path) -> None:
    demos = [Demo(groups=3, takes=1, frames=4, width=32, height=32, seed=seed) for seed in (0, 1)]
    one, other = (_digests(_make(tmp_path / str(demo.seed), demo) / "videos").values() for demo in demos)
    assert len(one) == 27 and not set(one) & set(other)


def test_files_do_not_carry_the_version_of_the_encoder(made: Path) -> None:
    assert all(b"Lav" not in path.read_bytes() for path in (made / "videos").rglob("*.avi"))


def test_no_group_stands_on_both_sides_and_each_is_tested_in_exactly_one_split(made: Path) -> None:
    names = {path.name for path in (made / "videos").rglob("*.avi")}
    tested: list[str] = []
    for listed in _lists(made).values():
        assert set(listed) == names and set(listed.values()) == {1, 2}
        sides = [{HMDB51_NAME.match(name)["source"] for name in names if listed[name] == side} for side in (1, 2)]
        assert not sides[0] & sides[1]
        tested += sides[1]
    assert len(tested) == len(set(tested)) == 4


@pytest.mark.parametrize(("groups", "tested"), [(3, {1}), (4, {1, 2}), (12, {4}), (200, {66, 67})])
def test_a_third_of_the_groups_is_tested_in_each_split(tmp_path: Path, groups: int, tested: set[int]) -> None:
    names = {demo_set.Clip("squat", "ball", g, 0): f"{demo_set.source_of(g)}_squat_ball_0.avi" for g in range(groups)}
    demo_set._write_splits(names, groups, 5, tmp_path)
    for number in (1, 2, 3):
        lines = (tmp_path / f"squat_ball_test_split{number}.txt").read_text().splitlines()
        assert len(lines) == groups and sum(line.endswith(" 2") for line in lines) in tested


def test_sources_differ_and_hold_the_characters_that_break_scripts() -> None:
    sources = [demo_set.source_of(group) for group in range(200)]
    assert len(set(sources)) == 200
    assert set("[]&;#!'()$ ") <= set("".join(sources[:12]))
    assert not any("/" in source or f"_{label}_" in source for source in sources for label in demo_set.CLASSES)


def test_every_clip_is_listed_once_with_its_group_and_subset(made: Path) -> None:
    dataset = _dataset(splits=(1, 3))
    clips = demo_set.list_clips(dataset, made / "videos", made / "annotations")
    splits = demo_set.list_splits(dataset, clips, made / "annotations")
    assert list(clips.columns) == ["clip_id", "path", "class", "group", "status", "reason"]
    assert clips["clip_id"].is_unique and len(clips) == 36 and set(clips["status"]) == {"ok"}
    for row in clips.to_dict("records"):
        path = made / "videos" / row["path"]
        assert path.is_file() and row["clip_id"] == f"{row['class']}/{path.stem}"
        assert HMDB51_NAME.match(path.name)["source"] == row["group"]
    lists = _lists(made)
    assert set(splits) == {1, 3}
    for number, subsets in splits.items():
        expected = {Path(name).stem: {1: "train", 2: "test"}[code] for name, code in lists[number].items()}
        assert {clip_id.split("/", 1)[1]: subset for clip_id, subset in subsets.items()} == expected


def test_a_message_names_a_damaged_or_missing_split_file(made: Path, tmp_path: Path) -> None:
    for path in (made / "annotations").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    broken = tmp_path / "squat_flag_test_split1.txt"
    broken.write_text("a_squat_flag_f_nm_np1_fr_goo_0.avi 1\nb_squat_flag_f_nm_np1_fr_goo_0.avi 7\n")
    with pytest.raises(UserError, match=r"squat_flag_test_split1\.txt, line 2: 'b_squat_flag.* 7'"):
        demo_set.list_clips(_dataset(), made / "videos", tmp_path)
    broken.unlink()
    with pytest.raises(UserError, match=r"squat_flag_test_split1\.txt: cannot be read"):
        demo_set.list_clips(_dataset(), made / "videos", tmp_path)


@pytest.mark.parametrize(("width", "height"), [(32, 480), (640, 32), (32, 32)])
def test_every_place_can_be_drawn_at_extreme_shapes(width: int, height: int) -> None:
    demo = Demo(groups=12, takes=1, frames=4, width=width, height=height, seed=1)
    for group in range(12):
        frame = next(demo_set.render(demo_set.Clip("approach", "flag", group, 0), demo))
        assert frame.shape == (height, width, 3) and frame.dtype == np.uint8 and frame.std() > 5


@pytest.mark.slow
def test_single_frames_hold_the_same_poses_in_every_motion() -> None:
    """Moments of each coordinate of the pose, over many clips, against the closed form of `a sin(phase)`."""
    for motion in demo_set.MOTIONS:
        rng = np.random.default_rng(7)
        poses = [draw_pose(motion, 30, rng) for _ in range(1500)]
        for key in ("side", "crouch", "depth"):
            at = np.array([pose[key][17] for pose in poses])
            # a uniform in 0.5..1: E[x^2] = E[a^2] / 2 = (1 - 0.5^3) / (3 * 0.5 * 2); the phase makes the mean 0.
            assert abs(at.mean()) < 0.06  # 4 standard errors
            assert np.mean(at**2) == pytest.approx((1 - 0.5**3) / 3, abs=0.03)


def test_the_coordinate_of_the_motion_moves_more_than_the_others() -> None:
    coordinates = {"approach": "depth", "sidestep": "side", "squat": "crouch"}
    rng = np.random.default_rng(7)
    for motion, swings in coordinates.items():
        for _ in range(500):
            pose = draw_pose(motion, 30, rng)
            steps = {key: np.abs(np.diff(pose[key])).mean() for key in coordinates.values()}
            assert steps.pop(swings) > max(steps.values())


@pytest.mark.slow
def test_frames_show_the_thing_but_not_the_motion_and_flow_shows_the_motion_but_not_the_thing() -> None:
    """Ridge regression on a few numbers per clip, trained on seven groups and tested on the other seven."""
    demo = Demo(groups=14, takes=1, frames=20, width=96, height=72, seed=3)
    looks, moves, motions, things, trained = [], [], [], [], []
    for group in range(14):
        for m, motion in enumerate(demo_set.MOTIONS):
            for t, thing in enumerate(demo_set.THINGS):
                frames = list(demo_set.render(demo_set.Clip(motion, thing, group, 0), demo))
                looks.append(_colours_and_layout(frames[len(frames) // 2]))
                moves.append(_flow_statistics(frames))
                motions.append(m)
                things.append(t)
                trained.append(group % 2 == 0)
    train = np.array(trained)
    # 63 test clips: chance is 1/3 with a standard error of 0.06.
    assert _ridge_accuracy(looks, things, train) > 0.8
    assert _ridge_accuracy(looks, motions, train) < 0.55
    assert _ridge_accuracy(moves, motions, train) > 0.8
    assert _ridge_accuracy(moves, things, train) < 0.6


def _colours_and_layout(frame: np.ndarray) -> np.ndarray:
    hue, saturation, value = cv2.split(cv2.cvtColor(frame, cv2.COLOR_RGB2HSV))
    vivid = hue[(saturation > 150) & (value > 100)]
    layout = cv2.resize(frame, (6, 6), interpolation=cv2.INTER_AREA).ravel() / 255
    return np.concatenate([np.sqrt(np.bincount(vivid // 15, minlength=12)[:12] / 50), 0.3 * layout])


def _flow_statistics(frames: list[np.ndarray]) -> np.ndarray:
    """How much the mean x, mean y and expansion of coarse flow vary over the clip, and where things move."""
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
    pairs = zip(grey[:-1], grey[1:], strict=True)
    flow = [cv2.calcOpticalFlowFarneback(a, b, None, 0.5, 3, 15, 3, 5, 1.2, 0) for a, b in pairs]
    coarse = np.stack([cv2.resize(f, (6, 6), interpolation=cv2.INTER_AREA) for f in flow])  # [T, 6, 6, 2]
    up = np.linspace(-1, 1, 6)[:, None]
    summary = [coarse[..., 0].mean((1, 2)), coarse[..., 1].mean((1, 2)), (coarse[..., 1] * up).mean((1, 2))]
    spread = np.log([s.std() + 0.01 for s in summary])
    return np.concatenate([spread, 0.3 * coarse.std(0).ravel()])


def _ridge_accuracy(features: list[np.ndarray], labels: list[int], train: np.ndarray) -> float:
    x, y = np.array(features), np.array(labels)
    x = np.c_[x - x[train].mean(0), np.ones(len(x))]
    weights = np.linalg.solve(x[train].T @ x[train] + 0.3 * np.eye(x.shape[1]), x[train].T @ np.eye(3)[y[train]])
    return float(((x[~train] @ weights).argmax(1) == y[~train]).mean())
