"""RGB difference as a stream's input."""

from __future__ import annotations

import numpy as np

from twostream.clipstore import ClipReader, write_clip
from twostream.views.difference import ZERO, DifferenceClip, opener


def test_a_still_clip_is_zero_and_a_brighter_frame_is_above(tmp_path):
    frames = [np.full((16, 16, 3), value, np.uint8) for value in (50, 50, 90, 0)]
    write_clip(tmp_path / "a.zip", frames, 100, {"modality": "rgb"})
    with opener("difference")(tmp_path / "a.zip") as clip:
        assert isinstance(clip, DifferenceClip) and len(clip) == 3
        means = [clip.frame(index).mean() for index in range(3)]
    assert np.allclose(means, [ZERO, ZERO + 40, ZERO - 90], atol=1)
    with opener("frames")(tmp_path / "a.zip") as clip:
        assert isinstance(clip, ClipReader)


def test_differences_are_clipped_and_a_single_frame_does_not_change(tmp_path):
    white, black = (np.full((16, 16, 3), value, np.uint8) for value in (255, 0))
    for name, frames in (("one", [white]), ("two", [black, white])):
        write_clip(tmp_path / f"{name}.zip", frames, 100, {"modality": "rgb"})
    with opener("difference")(tmp_path / "one.zip") as clip:
        assert len(clip) == 1 and (clip.frame(0) == ZERO).all()
    with opener("difference")(tmp_path / "two.zip") as clip:
        assert (clip.frame(0) == 255).all()
