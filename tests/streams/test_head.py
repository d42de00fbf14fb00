"""Linear classifiers on the features of a frozen network."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from helpers import ROOT
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from twostream.clipstore import write_clip
from twostream.core.cache import FileCache
from twostream.errors import UserError
from twostream.flow.encoding import mirror_codes
from twostream.networks.registry import create_model
from twostream.params import Runtime, Score, parse_params
from twostream.streams import features
from twostream.streams.frozen import feed_unit_length
from twostream.streams.head import SHRINKAGES, fit_head, log_loss
from twostream.streams.scoring import score_clips
from twostream.streams.task import Task
from twostream.streams.trained import TrainedStream
from twostream.streams.training import count_missing_features, finished_epochs, train_stream
from twostream.views.examples import Example

pytestmark = pytest.mark.slow

RUNTIME = Runtime(workers=1, accelerator="cpu", devices=1)
OTHER_PROTOCOL = Score(segments=3, crops=3, flip=True)  # a head has its own


@pytest.fixture
def task(tmp_path, demo_values):
    """A frozen network of random weights; the brightness of a clip is its class."""
    torch.manual_seed(0)
    weights = tmp_path / "start.pt"
    network = create_model("cnn3d_v2", modality="rgb", classes=5, frames=4, input_size=16)
    torch.save(network.network.state_dict(), weights)
    values = json.loads(json.dumps(demo_values))
    values["streams"]["cnn3d_v2"].update(size=16, tune="head", weights="data/weights/start.pt")
    values["streams"]["cnn3d_v2"]["sampling"] = {"mode": "segments", "segments": 2, "frames": 4, "stride": 1}
    stream = parse_params(values).streams["cnn3d_v2"].model_copy(update={"weights": str(weights)})
    train, val = _clips(tmp_path / "train", 12, 0), _clips(tmp_path / "val", 4, 1)
    groups = tuple(f"g{number // 2}" for number in range(16))
    return Task("v2", "rgb", stream, ["dark", "light"], train, val, 0, "32", groups=groups)


def _clips(folder, count, seed):
    rng = np.random.default_rng(seed)
    made = []
    for i in range(count):
        frames = [rng.integers(0, 200, (20, 24, 3)).astype(np.uint8) + np.uint8(40 * (i % 2)) for _ in range(6)]
        write_clip(folder / f"{i}.zip", frames, 90, {"modality": "rgb", "settings": {"short_side": 20}})
        made.append(Example(f"{folder.name}/{i}", folder / f"{i}.zip", i % 2))
    return made


def _train(task, root, folder="model"):
    train_stream(task, FileCache(root / "cache", None), RUNTIME, root / folder, root / f"{folder}-curves")
    return root / folder


def _score(model, examples):
    return score_clips(model, examples, OTHER_PROTOCOL, RUNTIME, model.parent / "cache")[1]


def test_a_head_is_an_ordinary_model_folder_and_its_scores_are_the_networks_logits(task, tmp_path):
    model, test = _train(task, tmp_path), _clips(tmp_path / "test", 6, 2)
    logits = _score(model, test)
    assert (logits.argmax(1) == [example.label for example in test]).mean() > 0.6
    network = TrainedStream(model, "cpu")
    assert np.abs(np.stack(list(network.score(test, OTHER_PROTOCOL, 1))) - logits).max() < 1e-4 * np.abs(logits).max()


@pytest.mark.parametrize(
    ("layer", "shape", "axes"),
    [
        (torch.nn.Linear(6, 3), (2, 6), ()),
        (torch.nn.Linear(6, 3), (2, 5, 6), (1,)),
        (torch.nn.Conv3d(6, 3, 1), (2, 6, 4, 2, 2), (2, 3, 4)),
    ],
    ids=["features", "tokens", "a volume"],
)
def test_a_head_gets_the_mean_of_what_enters_it_at_length_1(layer, shape, axes):
    entered = torch.rand(shape)
    mean = entered.mean(axes) if axes else entered
    expected = mean / mean.square().sum(1, keepdim=True).sqrt() @ layer.weight.view(3, 6).T + layer.bias
    feed_unit_length(layer)
    torch.testing.assert_close(layer(entered).flatten(1), expected)


def test_training_clips_are_scored_by_heads_that_have_not_seen_their_group(task, tmp_path):
    model = _train(task, tmp_path)
    out_of_fold = list(json.loads((model / "out_of_fold.json").read_text()).values())
    assert np.allclose(_score(model, [*task.train, *task.val]), out_of_fold)
    (history,) = json.loads((model / "history.json").read_text())
    labels = [example.label for example in [*task.train, *task.val]]
    assert history["val_top1"] == pytest.approx((np.argmax(out_of_fold, 1) == labels).mean())


@pytest.mark.parametrize("flip", [True, False])
def test_a_head_on_flow_sees_clips_and_their_mirror_images_unless_flips_are_off(task, tmp_path, flip):
    torch.manual_seed(0)
    network = create_model("cnn3d_v2", modality="flow", classes=2, frames=4, input_size=16)
    torch.save(network.network.state_dict(), tmp_path / "flow.pt")
    augment = task.stream.augment.model_copy(update={"flip": flip})
    stream = task.stream.model_copy(update={"weights": str(tmp_path / "flow.pt"), "augment": augment})
    rng = np.random.default_rng(0)
    fields = rng.integers(60, 200, (6, 20, 24, 2)).astype(np.uint8)
    meta = {"modality": "flow", "settings": {"short_side": 20, "bound": 8.0, "method": "dis"}}
    examples = []
    for number, codes in enumerate((fields, mirror_codes(fields))):
        write_clip(tmp_path / f"{number}.zip", list(codes), 100, meta)
        examples.append(Example(f"a/{number}", tmp_path / f"{number}.zip", 0))
    frozen = features.FrozenStream("v2", stream, "flow", RUNTIME, FileCache(tmp_path / "cache", None))
    clip, mirrored = frozen.features(examples)
    assert np.allclose(clip, mirrored, rtol=1e-3, atol=1e-4) == flip  # JPEG is not symmetric


def test_seeds_splits_and_other_clips_share_features_and_the_networks_file(task, tmp_path, monkeypatch):
    first = _train(task, tmp_path)
    monkeypatch.setattr(features.FrozenStream, "_network", lambda self: pytest.fail("the network is built again"))
    monkeypatch.setitem(sys.modules, "twostream.streams.frozen", None)  # nor is torch imported
    again = dataclasses.replace(task, seed=1, train=task.train[2:], groups=task.groups[2:])
    assert finished_epochs(again, FileCache(tmp_path / "cache", None), RUNTIME, tmp_path / "second") == 0
    assert count_missing_features(again, FileCache(tmp_path / "cache", None), RUNTIME) == 0
    second = _train(again, tmp_path, "second")
    assert (first / "model.pt").read_bytes() == (second / "model.pt").read_bytes()
    assert (first / "head.safetensors").read_bytes() != (second / "head.safetensors").read_bytes()


def test_weights_that_are_not_numbers_are_one_line(task, tmp_path):
    state = torch.load(task.stream.weights)
    torch.save({name: value * float("nan") for name, value in state.items()}, task.stream.weights)
    with pytest.raises(UserError, match=r"streams\.v2\.weights: with .*start\.pt cnn3d_v2 gives features that are not"):
        _train(task, tmp_path)


def test_one_more_clip_is_one_more_look_of_the_network(task, tmp_path, capsys):
    _train(task, tmp_path)
    more = dataclasses.replace(task, train=[*task.train, *_clips(tmp_path / "more", 1, 5)], groups=(*task.groups, "h"))
    _train(more, tmp_path, "more-model")
    assert "v2: 17 clips, 1 seen by the network, 16 from the cache" in capsys.readouterr().out


def test_a_finished_head_needs_no_torch_and_a_missing_file_is_one_line(task, tmp_path):
    model = _train(task, tmp_path)
    assert finished_epochs(task, FileCache(tmp_path / "cache", None), RUNTIME, model) is None
    script = f"""
import sys
from pathlib import Path
from twostream.params import Runtime, Score
from twostream.streams.scoring import score_clips
from twostream.views.examples import Example
runtime, score = Runtime(workers=1, accelerator="cpu", devices=1), Score(segments=1, crops=1, flip=False)
example = Example("train/0", Path({str(task.train[0].path)!r}), 0)
score_clips(Path({str(model)!r}), [example], score, runtime, Path({str(tmp_path / "cache")!r}))
sys.exit("torch" in sys.modules)
"""
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)
    (model / "head.safetensors").unlink()
    for scores in (lambda: _score(model, task.val), lambda: TrainedStream(model, "cpu")):
        with pytest.raises(UserError, match=r"head"):
            scores()


def test_the_shrinkage_is_chosen_across_groups_and_the_classifier_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    labels, groups = rng.integers(0, 3, 60), np.arange(60) // 3
    values = (rng.normal(size=(60, 8)) + labels[:, None] * np.arange(8) / 4).astype(np.float32) * 7 + 3
    head = fit_head(values, labels, groups, 3, balanced=False, seed=0)
    assert head.shrinkage in SHRINKAGES
    # scikit-learn shrinks towards the mean variance within classes; here it is the mean of the total variance.
    within = np.mean(
        [(values - values[labels == k].mean(0))[labels == k].var(0) * (labels == k).sum() for k in range(3)]
    )
    odds = head.shrinkage / (1 - head.shrinkage) * values.var(0).mean() / (within * 3 / 60)
    model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=odds / (1 + odds)).fit(values, labels)
    logits = head.logits(values)
    differences = logits - logits[:, :1] - head.bias + head.bias[0]
    expected = values @ (model.coef_ - model.coef_[:1]).T
    ratio = (differences[:, 1:] / expected[:, 1:]).mean()
    assert np.abs(differences - ratio * expected).max() < 1e-3 * np.abs(differences).max()
    assert (logits.argmax(1) == model.predict(values)).mean() > 0.95


def test_logits_are_calibrated_out_of_fold():
    rng = np.random.default_rng(5)
    labels = rng.integers(0, 2, 200)
    values = (rng.normal(size=(200, 150)) + labels[:, None] * 0.1).astype(np.float32)
    head = fit_head(values, labels, np.arange(200), 2, balanced=False, seed=0)
    losses = [log_loss(factor * head.out_of_fold, labels) for factor in (0.5, 0.7, 1, 1.4, 2)]
    assert np.argmin(losses) == 2 and losses[2] < np.log(2)


def test_few_clips_of_classes_that_share_factors_are_told_apart():
    """Nine classes, a motion times a thing, with four clips each: what varies within a class is learnt from all."""
    rng = np.random.default_rng(6)
    labels = np.tile(np.arange(9), 10)
    factors = np.concatenate([np.eye(3)[labels // 3], np.eye(3)[labels % 3]], axis=1) @ rng.normal(size=(6, 100))
    nuisance = rng.normal(size=(90, 10)) @ rng.normal(size=(10, 100)) * 1.5
    values = (factors + nuisance + 0.3 * rng.normal(size=(90, 100))).astype(np.float32)
    head = fit_head(values[:36], labels[:36], np.arange(36), 9, balanced=False, seed=0)
    assert (head.logits(values[36:]).argmax(1) == labels[36:]).mean() > 0.85


def test_a_clip_is_not_scored_by_what_was_learnt_from_its_group():
    """Each group has its own random label and its clips are alike: seen, they are easy; unseen, they are chance."""
    rng = np.random.default_rng(1)
    groups = np.repeat(np.arange(30), 4)
    labels = rng.permutation(np.arange(30) % 2)[groups]
    values = (rng.normal(size=(30, 64))[groups] + 0.01 * rng.normal(size=(120, 64))).astype(np.float32)
    head = fit_head(values, labels, groups, 2, balanced=False, seed=0)
    assert (head.logits(values).argmax(1) == labels).mean() > 0.9
    assert (head.out_of_fold.argmax(1) == labels).mean() < 0.75


def test_a_class_without_training_clips_is_predicted_last():
    rng = np.random.default_rng(2)
    labels = rng.integers(0, 2, 40) * 2
    head = fit_head(rng.normal(size=(40, 5)).astype(np.float32), labels, np.arange(40), 3, balanced=False, seed=0)
    assert (head.logits(rng.normal(size=(9, 5))).argmin(1) == 1).all()


def test_clips_of_a_single_group_are_fitted_but_tell_nothing_out_of_fold():
    rng = np.random.default_rng(3)
    values, labels = rng.normal(size=(10, 4)).astype(np.float32), np.arange(10) % 2
    head = fit_head(values, labels, np.zeros(10), 2, balanced=False, seed=0)
    assert not head.out_of_fold.any() and head.weight.any()


@pytest.mark.parametrize(("per_class", "is_held_out"), [(1, False), (2, True), (3, True)])
def test_classes_of_fewer_clips_than_folds_are_fitted(per_class, is_held_out, capsys):
    labels = np.repeat(np.arange(12), per_class)
    values = np.random.default_rng(4).normal(size=(len(labels), 6)).astype(np.float32)
    head = fit_head(values, labels, np.arange(len(labels)), 12, balanced=False, seed=0)
    assert head.weight.any() and head.out_of_fold.any() == is_held_out
    assert ("too few training clips" in capsys.readouterr().out) != is_held_out


def test_balanced_heads_predict_the_rare_class_more_often():
    rng = np.random.default_rng(4)
    labels = (np.arange(100) % 10 == 0).astype(int)
    values = (rng.normal(size=(100, 3)) + labels[:, None] * 0.7).astype(np.float32)
    plain, balanced = (fit_head(values, labels, np.arange(100), 2, balanced=b, seed=0) for b in (False, True))
    assert balanced.logits(values).argmax(1).sum() > plain.logits(values).argmax(1).sum()


def test_a_network_without_loaded_weights_cannot_be_frozen(demo_values):
    values = json.loads(json.dumps(demo_values))
    values["streams"]["cnn3d_v2"]["tune"] = "head"
    with pytest.raises(UserError, match="tune: head freezes loaded weights"):
        parse_params(values)
