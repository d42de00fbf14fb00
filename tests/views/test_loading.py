import numpy as np
import pytest
import torch
from helpers import moving_texture

from twostream.clipstore import ClipReader, write_clip
from twostream.flow.encoding import encode_flow
from twostream.params import Augment, Sampling, Score
from twostream.views.frame_store import frame_store
from twostream.views.loading import (
    EpochSampler,
    Example,
    ScoringViews,
    TrainingViews,
    ValidationViews,
    make_loader,
    normalise,
)
from twostream.views.sampling import training_frames
from twostream.views.transforms import draw_view, read_view

AUGMENT = Augment(scales=[1.0, 0.8], flip=True, jitter=0.2)
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


@pytest.mark.parametrize("modality", ["rgb", "flow"])
@pytest.mark.parametrize("workers, stored", [(1, False), (2, False), (2, True)])
def test_epochs_are_the_same_for_any_number_of_workers_and_from_memory(clips, modality, workers, stored):
    """Each item against its clip read alone; the second and third epoch find frames in the store."""
    examples = clips[modality]
    open_clip = frame_store([example.path for example in examples], 1 << 30) if stored else ClipReader
    views = TrainingViews(examples, SEGMENTS, AUGMENT, 32, 0, open_clip=open_clip)
    epochs = iter([7, 8, 9])
    loader = make_loader(views, 3, workers, EpochSampler(4, 0, lambda: next(epochs)))
    for epoch in (7, 8, 9):
        batches = list(loader)
        channels = 3 if modality == "rgb" else 2
        assert [batch.shape for batch, _ in batches] == [(3, 2, channels, 3, 32, 32), (1, 2, channels, 3, 32, 32)]
        loaded, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
        for (_, index), one, label in zip(EpochSampler(4, 0, lambda: epoch), loaded, labels, strict=True):  # noqa: B023
            rng = np.random.default_rng((0, epoch, index))
            with ClipReader(examples[index].path) as clip:
                frames = training_frames(len(clip), SEGMENTS, rng)
                expected = read_view(clip, frames, draw_view(64, 48, AUGMENT, rng), 32)
            assert np.array_equal(one, expected) and label == index % 2


def test_validation_and_scoring_batches_hold_the_clips_in_order(clips):
    ((validation, labels),) = make_loader(ValidationViews(clips["flow"][:3], SEGMENTS, 24), 4, 1)
    assert validation.shape == (3, 2, 2, 3, 24, 24) and labels.tolist() == [0, 1, 0]
    score = Score(segments=2, crops=3, flip=True)
    ((scoring, indices),) = make_loader(ScoringViews(clips["flow"][:3], SEGMENTS, score, 24), 4, 1)
    assert scoring.shape == (3, 12, 1, 2, 3, 24, 24) and indices.tolist() == [0, 1, 2]
    # The middle crop's views are the middle of the clip, and come after the first crop's with its mirror images.
    alone, _ = ScoringViews(clips["flow"], SEGMENTS, Score(segments=2, crops=1, flip=False), 24)[2]
    assert torch.equal(scoring[2, 4:6], alone)


def test_an_epoch_visits_every_clip_once_in_another_order():
    epochs = iter([0, 1])
    sampler = EpochSampler(20, seed=0, epoch=lambda: next(epochs))
    first, second = list(sampler), list(sampler)
    assert sorted(index for _, index in first) == list(range(20)) == sorted(index for _, index in second)
    assert first != [(0, index) for _, index in second]
    assert {epoch for epoch, _ in second} == {1}


def test_normalise_is_v_minus_mean_over_std_per_channel():
    views = torch.randint(0, 256, (2, 3, 2, 4, 5, 5), dtype=torch.uint8)
    out = normalise(views, [128.0, 100.0], [57.6, 10.0])
    assert torch.allclose(out[:, :, 1], (views[:, :, 1].float() - 100) / 10)
