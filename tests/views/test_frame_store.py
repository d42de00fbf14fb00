import os

import numpy as np
import pytest
from helpers import moving_texture

from twostream.clipstore import ClipReader, write_clip
from twostream.views.frame_store import frame_store


@pytest.fixture
def paths(tmp_path):
    """An RGB clip of 5 frames of 48x64 and a flow clip of 3 codes of 32x40."""
    write_clip(tmp_path / "rgb.zip", moving_texture(5), 90, {"modality": "rgb"})
    codes = np.random.default_rng(0).integers(1, 256, (3, 32, 40, 2)).astype(np.uint8)
    write_clip(tmp_path / "flow.zip", codes, 90, {"modality": "flow"})
    return [tmp_path / "rgb.zip", tmp_path / "flow.zip"]


SIZE = 5 * 48 * 64 * 3 + 3 * 32 * 40 * 2


def test_stored_frames_are_those_of_the_file(paths):
    open_clip = frame_store(paths, SIZE)
    for path in paths:
        for _ in range(2):
            with open_clip(path) as stored, ClipReader(path) as clip:
                assert len(stored) == len(clip) and stored.meta == clip.meta
                assert np.array_equal(stored.read(range(len(clip))), clip.read(range(len(clip))))


def test_a_frame_is_decoded_once_also_for_other_processes(paths, monkeypatch):
    open_clip = frame_store(paths, SIZE)
    with ClipReader(paths[0]) as clip:
        expected = clip.read([1, 3])
    child = os.fork()
    if child == 0:
        with open_clip(paths[0]) as clip:
            clip.read([1, 3])
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    monkeypatch.setattr(ClipReader, "frame", lambda *_: pytest.fail("decoded again"))
    with open_clip(paths[0]) as clip:
        assert np.array_equal(clip.read([1, 3]), expected)


def test_without_room_for_all_frames_none_is_stored(paths):
    assert frame_store(paths, SIZE - 1) is ClipReader
