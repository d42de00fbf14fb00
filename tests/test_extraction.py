import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import moving_texture, write_video

from twostream.cache import FileCache
from twostream.clips import CLIP_COLUMNS
from twostream.clipstore import ClipReader
from twostream.errors import UserError
from twostream.extraction import extract
from twostream.flow.encoding import decode_flow
from twostream.params import parse_params

NAMES = ["a [1]", "b & 'c' \"d\"; #e!", "ünïcödé", "line\nbreak"]


@pytest.fixture
def scene(tmp_path, demo_values):
    """Four clips with awkward names whose texture moves two pixels a frame to the right."""
    rows = []
    for i, name in enumerate(NAMES):
        write_video(tmp_path / "videos" / "wave" / f"{name}.avi", moving_texture(6 + i, seed=i))
        rows.append([f"wave/{name}", f"wave/{name}.avi", "wave", "g", 6 + i, 25.0, 64, 48, "ok", ""])
    rows.append(["wave/bad", "wave/bad.avi", "wave", "g", 0, 0.0, 0, 0, "unreadable", "empty"])
    clips = pd.DataFrame(rows, columns=CLIP_COLUMNS)
    return tmp_path, clips, parse_params(demo_values)


def _run(scene, settings, out="out", workers=1):
    folder, clips, _ = scene
    return extract(clips, folder / "videos", folder / out, settings, FileCache(folder / "cache", None), workers)


def _bytes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "wave").iterdir())}


def test_every_readable_clip_gets_a_file_with_all_its_frames(scene):
    folder, _, params = scene
    assert _run(scene, params.rgb) == {"clips": 4, "extracted": 4, "cached": 0}
    for i, name in enumerate(NAMES):
        with ClipReader(folder / "out" / "wave" / f"{name}.zip") as clip:
            assert len(clip) == 6 + i and clip.meta["modality"] == "rgb"
            frame = clip.read([3])[0]
        assert np.abs(frame.astype(int) - moving_texture(6 + i, seed=i)[3]).mean() < 14
    assert not (folder / "out" / "wave" / "bad.zip").exists()


def test_flow_is_that_of_each_frame_to_the_next(scene):
    folder, _, params = scene
    _run(scene, params.flow)
    with ClipReader(folder / "out" / "wave" / f"{NAMES[1]}.zip") as clip:
        assert len(clip) == 6  # 7 frames
        flow = decode_flow(clip.read(range(6)), params.flow.bound)
    assert np.abs(np.median(flow[:, 10:-10, 10:-10].reshape(6, -1, 2), 1) - [2, 0]).max() < 0.3


def test_flow_between_spread_frames_covers_the_whole_clip(scene, demo_values):
    folder, _, _ = scene
    flow = parse_params({**demo_values, "flow": {**demo_values["flow"], "frames": 4}}).flow
    _run(scene, flow)
    with ClipReader(folder / "out" / "wave" / f"{NAMES[1]}.zip") as clip:
        # frames 0, 2, 4, 6 of 7: two frames of two pixels each
        flow_px = decode_flow(clip.read(range(3)), flow.bound)
    assert flow_px.shape[0] == 3
    assert np.abs(np.median(flow_px[..., 0]) - 4) < 0.3


def test_nothing_is_computed_twice(scene):
    folder, _, params = scene
    _run(scene, params.flow)
    before = _bytes(folder / "out")
    shutil.rmtree(folder / "out")  # as DVC does before it runs a stage
    assert _run(scene, params.flow) == {"clips": 4, "extracted": 0, "cached": 4}
    assert _bytes(folder / "out") == before


def test_one_more_clip_costs_one_more_clip(scene):
    folder, clips, params = scene
    _run((folder, clips.iloc[:3], params), params.rgb)
    assert _run(scene, params.rgb) == {"clips": 4, "extracted": 1, "cached": 3}


def test_a_changed_video_is_extracted_again(scene):
    folder, _, params = scene
    _run(scene, params.rgb)
    write_video(folder / "videos" / "wave" / f"{NAMES[0]}.avi", moving_texture(6, seed=9))
    assert _run(scene, params.rgb)["extracted"] == 1


def test_a_parameter_changed_and_changed_back_costs_nothing(scene, demo_values):
    _, _, params = scene
    other = parse_params({**demo_values, "flow": {**demo_values["flow"], "method": "dis"}}).flow
    _run(scene, params.flow)
    assert _run(scene, other)["extracted"] == 4
    assert _run(scene, params.flow)["extracted"] == 0


def test_another_methods_parameter_does_not_count(scene, demo_values):
    _, _, params = scene
    _run(scene, params.flow)
    flow = {**demo_values["flow"], "tvl1": {**demo_values["flow"]["tvl1"], "warps": 2}}
    assert _run(scene, parse_params({**demo_values, "flow": flow}).flow)["extracted"] == 0


def test_the_number_of_workers_changes_no_byte(scene):
    folder, _, params = scene
    _run(scene, params.flow, "one", workers=1)
    shutil.rmtree(folder / "cache")
    assert _run(scene, params.flow, "two", workers=2)["extracted"] == 4
    assert _bytes(folder / "one") == _bytes(folder / "two")


def test_a_clip_that_went_bad_is_named(scene):
    folder, _, params = scene
    (folder / "videos" / "wave" / f"{NAMES[0]}.avi").write_text("gone")
    with pytest.raises(UserError, match=r"1 clips cannot be read any more: 'wave/a \[1\]'"):
        _run(scene, params.rgb)
