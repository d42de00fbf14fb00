"""Batches from clip files, and the same views made on the device that trains."""

import numpy as np
import pytest
import torch
from helpers import moving_texture

from twostream.clipstore import ClipReader, write_clip
from twostream.errors import UserError
from twostream.flow.encoding import encode_flow
from twostream.params import Augment, Sampling, Score
from twostream.views.gpu_decode import make_views
from twostream.views.loading import EpochSampler, Example, ScoringViews, TrainingViews, ValidationViews, make_loader
from twostream.views.sampling import training_frames
from twostream.views.transforms import draw_view, read_view

PLAIN = {"scales": [1.0], "flip": False, "jitter": 0.0, "gamma": 0.0, "dark": 0.0}
SEGMENTS = Sampling(mode="segments", segments=2, frames=3, stride=1)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Four short clips of each modality, smooth as videos are."""
    folder = tmp_path_factory.mktemp("clips")
    y, x = np.mgrid[:48, :64] / 48
    made = {"rgb": [], "flow": []}
    for i in range(4):
        flow = [np.stack([3 * np.sin(4 * x + t + i), 2 * np.cos(3 * y * x + t) - i], -1) for t in range(5)]
        frames = [frame // 2 + 60 for frame in moving_texture(5 + i, seed=i)]
        for modality, images in (("rgb", frames), ("flow", [encode_flow(field, 8.0) for field in flow])):
            path = folder / modality / f"{i}.zip"
            write_clip(path, images, 95, {"modality": modality})
            made[modality].append(Example(f"a/{i}", path, i % 2))
    return made


def _views(examples, augment, size=32, demean=False, encoded=False):
    return TrainingViews(examples, SEGMENTS, Augment(**{**PLAIN, **augment}), size, 0, demean, encoded)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loaders_batches_are_the_views_one_by_one(clips, workers):
    views = _views(clips["rgb"], {"scales": [1.0, 0.8], "flip": True, "jitter": 0.2})
    sampler = EpochSampler(4, 0, lambda: 3)
    if workers:
        batches = list(make_loader(views, 3, workers, sampler))
    else:
        batches = [views.__getitems__(part) for part in (list(sampler)[:3], list(sampler)[3:])]
    assert [tuple(batch.shape) for batch, _ in batches] == [(3, 2, 3, 3, 32, 32), (1, 2, 3, 3, 32, 32)]
    loaded, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    for (epoch, index), one, label in zip(sampler, loaded, labels, strict=True):
        rng = np.random.default_rng((0, epoch, index))
        with ClipReader(clips["rgb"][index].path) as clip:
            frames = training_frames(len(clip), SEGMENTS, rng)
            expected = read_view(clip, frames, draw_view(64, 48, views.augment, rng), 32)
        assert np.array_equal(one, expected) and label == index % 2


def test_validation_and_scoring_batches_hold_the_clips_in_order(clips):
    validation, labels = ValidationViews(clips["flow"], SEGMENTS, 24).__getitems__([2, 1])
    assert validation.shape == (2, 2, 2, 3, 24, 24) and labels.tolist() == [0, 1]
    score = Score(segments=2, crops=3, flip=True)
    scoring, indices = ScoringViews(clips["flow"], SEGMENTS, score, 24).__getitems__([2, 1])
    assert scoring.shape == (2, 12, 1, 2, 3, 24, 24) and indices.tolist() == [2, 1]
    # The middle crop's views are the middle of the clip, and come after the first crop's with its mirror images.
    alone, _ = ScoringViews(clips["flow"], SEGMENTS, Score(segments=2, crops=1, flip=False), 24).__getitems__([2])
    assert torch.equal(scoring[0, 4:6], alone[0])


AUGMENTATIONS = [{}, {"scales": [0.8]}, {"flip": True}, {"jitter": 0.4}, {"gamma": 0.5, "dark": 1.0}]


@pytest.mark.parametrize("augment", AUGMENTATIONS, ids=["plain", "crop", "flip", "jitter", "light"])
@pytest.mark.parametrize("size", [32, 56])
def test_views_made_on_the_device_are_those_of_the_workers(clips, augment, size):
    asked = [(epoch, index) for epoch in range(2) for index in range(4)]
    expected, labels = _views(clips["rgb"], augment, size).__getitems__(asked)
    encoded, same = _views(clips["rgb"], augment, size, encoded=True).__getitems__(asked)
    made = make_views(encoded, torch.device("cpu"))
    assert made.dtype == torch.uint8 and made.shape == expected.shape and torch.equal(labels, same)
    apart = (made.int() - expected.int()).abs().float()
    assert apart.mean() < 1.5 and apart.max() <= 20  # the decoders interpolate chroma each in its way


@pytest.mark.parametrize("demean", [False, True])
@pytest.mark.parametrize("augment", AUGMENTATIONS[:3], ids=["plain", "crop", "flip"])
def test_views_of_flow_made_on_the_device_are_those_of_the_workers_to_a_level(clips, augment, demean):
    asked = [(epoch, index) for epoch in range(2) for index in range(4)]
    expected, _ = _views(clips["flow"], augment, 40, demean).__getitems__(asked)
    encoded, _ = _views(clips["flow"], augment, 40, demean, encoded=True).__getitems__(asked)
    assert (make_views(encoded, torch.device("cpu")).int() - expected.int()).abs().max() <= 1


def test_a_damaged_frame_on_the_device_is_one_line(clips):
    encoded, _ = _views(clips["rgb"], {}, encoded=True).__getitems__([(0, 0)])
    encoded.jpegs[0][1] = b"\xff\xd8 nothing"
    with pytest.raises(UserError, match="train.decode: .* on the cpu") as caught:
        make_views(encoded, torch.device("cpu"))
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("modality", ["rgb", "flow"])
def test_a_gpu_makes_the_views_of_the_cpu(clips, modality):
    encoded, _ = _views(clips[modality], {"scales": [0.8], "flip": True}, encoded=True).__getitems__([(0, 0), (1, 3)])
    one, other = (make_views(encoded, torch.device(device)).cpu().int() for device in ("cpu", "cuda"))
    assert (one - other).abs().float().mean() < 1.5
