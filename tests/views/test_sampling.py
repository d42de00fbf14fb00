import numpy as np
import pytest

from twostream.params import Sampling
from twostream.views.sampling import scoring_frames, training_frames, validation_frames


def _segments(segments, frames=1, stride=1):
    return Sampling(mode="segments", segments=segments, frames=frames, stride=stride)


def test_each_segment_gives_one_snippet_from_its_own_part():
    rng = np.random.default_rng(0)
    drawn = np.stack([training_frames(90, _segments(3), rng)[:, 0] for _ in range(2000)])
    for segment in range(3):
        part = drawn[:, segment]
        assert part.min() == 30 * segment and part.max() == 30 * segment + 29
        assert np.bincount(part - 30 * segment, minlength=30).min() > 30  # every frame has its chance


def test_snippets_are_contiguous_at_the_stride_and_stay_inside():
    rng = np.random.default_rng(0)
    for _ in range(200):
        frames = training_frames(64, _segments(3, frames=5, stride=3), rng)
        assert frames.shape == (3, 5)
        assert (np.diff(frames, axis=1) == 3).all() and frames.min() >= 0 and frames.max() <= 63


@pytest.mark.parametrize("count", [1, 2, 5, 16])
def test_short_clips_are_looped(count):
    frames = training_frames(count, _segments(2, frames=16), np.random.default_rng(0))
    assert frames.shape == (2, 16)
    assert frames[0].tolist() == [(frames[0, 0] + i) % count for i in range(16)]


def test_a_short_clip_is_looped_alike_when_it_validates_and_scores():
    wanted = [[0, 1, 2, 3, 4, 0, 1, 2]]
    assert validation_frames(5, _segments(1, frames=8)).tolist() == wanted
    assert scoring_frames(5, _segments(3, frames=8), segments=4).tolist() == wanted * 4
    assert scoring_frames(5, _segments(1, frames=4, stride=2), segments=1).tolist() == [[0, 2, 4, 1]]


def test_uniform_frames_span_the_whole_clip():
    sampling = Sampling(mode="uniform", segments=1, frames=16, stride=1)
    frames = training_frames(93, sampling, np.random.default_rng(0))
    assert frames[0, 0] == 0 and frames[0, -1] == 92
    assert np.abs(np.diff(frames[0]) - 92 / 15).max() <= 1
    assert np.array_equal(frames, validation_frames(93, sampling))
    assert np.array_equal(frames, scoring_frames(93, sampling, segments=10))


def test_validation_takes_the_middle_of_each_segment():
    assert validation_frames(90, _segments(3))[:, 0].tolist() == [15, 45, 75]


def test_scoring_snippets_are_spread_evenly_and_stay_inside():
    frames = scoring_frames(100, _segments(3, frames=16), segments=5)
    assert frames.shape == (5, 16)
    assert frames.min() >= 0 and frames.max() <= 99
    assert len(set(np.diff(frames[:, 0]))) == 1
