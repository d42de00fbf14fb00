"""Training on a task that can be learnt in seconds: the brightness of a clip tells its class."""

import json

import numpy as np
import pytest
import torch

from twostream.cache import FileCache
from twostream.clipstore import write_clip
from twostream.data import EpochSampler, Example, TrainingViews, normalise
from twostream.errors import UserError
from twostream.params import Runtime, Score, parse_params
from twostream.scoring import TrainedStream, score_clips
from twostream.training import Task, best_epoch, train_stream

RUNTIME = Runtime(workers=1, accelerator="cpu", devices=1)


@pytest.fixture
def task(tmp_path, demo_values):
    def examples(subset, count, seed):
        rng = np.random.default_rng(seed)
        made = []
        for i in range(count):
            path = tmp_path / subset / f"{i}.zip"
            frames = [rng.integers(0, 90, (40, 48, 3)).astype(np.uint8) + np.uint8(120 * (i % 2)) for _ in range(6)]
            write_clip(path, frames, 90, {"modality": "rgb", "settings": {"short_side": 40}})
            made.append(Example(f"{subset}/{i}", path, i % 2))
        return made

    values = json.loads(json.dumps(demo_values))
    values["streams"]["cnn3d_v2"].update(size=16, epochs=4, patience=4, batch_size=4, lr=0.003)
    values["streams"]["cnn3d_v2"]["sampling"].update(frames=4)
    stream = parse_params(values).streams["cnn3d_v2"]
    return Task("v2", "rgb", stream, ["dark", "light"], examples("train", 16, 0), examples("val", 8, 1), 0, "32")


def _train(task, root, cache="cache"):
    train_stream(task, FileCache(root / cache, None), RUNTIME, root / "model", root / "curves")
    return (root / "model" / "model.pt").read_bytes()


def test_a_stream_learns_and_its_folder_is_all_that_scoring_needs(task, tmp_path):
    _train(task, tmp_path / "run")
    history = json.loads((tmp_path / "run" / "model" / "history.json").read_text())
    assert len(history) == 4 and history[-1]["train_loss"] < history[0]["train_loss"]
    stream = TrainedStream(tmp_path / "run" / "model", "cpu")
    logits = score_clips(stream, task.val, Score(segments=2, crops=3, flip=True), RUNTIME)
    assert logits.shape == (8, 2)
    assert (logits.argmax(1) == [example.label for example in task.val]).all()


def test_two_runs_give_the_same_bytes(task, tmp_path):
    assert _train(task, tmp_path / "one") == _train(task, tmp_path / "two")


def test_an_interrupted_run_goes_on_and_ends_with_the_same_bytes(task, tmp_path, monkeypatch, capsys):
    from twostream import training

    undisturbed = _train(task, tmp_path / "whole")
    seen = []
    step = training._Module.training_step

    def dies_in_the_third_epoch(self, batch, index):
        seen.append(self.current_epoch)
        if self.current_epoch == 2 and index == 1 and seen.count(2) == 2:
            raise RuntimeError("power cut")
        return step(self, batch, index)

    monkeypatch.setattr(training._Module, "training_step", dies_in_the_third_epoch)
    with pytest.raises(RuntimeError, match="power cut"):
        _train(task, tmp_path / "cut")
    seen.clear()
    seen += [2, 2]  # let it pass this time
    resumed = _train(task, tmp_path / "cut")
    assert seen[2:] == [2] * 4 + [3] * 4  # 16 clips, 4 a step: epochs 1 and 2 are not trained again
    assert "going on after epoch 2" in capsys.readouterr().out
    assert resumed == undisturbed
    for name in ("history.json", "config.json"):
        assert (tmp_path / "cut" / "model" / name).read_bytes() == (tmp_path / "whole" / "model" / name).read_bytes()
    curve = "plots/metrics/val/loss.tsv"
    assert (tmp_path / "cut/curves" / curve).read_bytes() == (tmp_path / "whole/curves" / curve).read_bytes()


def test_a_finished_run_is_not_trained_again(task, tmp_path, monkeypatch):
    from twostream import training

    first = _train(task, tmp_path / "run")
    (tmp_path / "run" / "model" / "model.pt").unlink()  # as DVC does before it runs a stage
    monkeypatch.setattr(training._Module, "training_step", lambda *_: pytest.fail("trained again"))
    assert _train(task, tmp_path / "run") == first


def test_weights_load_without_running_code(task, tmp_path):
    _train(task, tmp_path / "run")
    state = torch.load(tmp_path / "run" / "model" / "model.pt", weights_only=True)
    assert all(isinstance(value, torch.Tensor) for value in state.values())


@pytest.mark.parametrize("name", ["config.json", "model.pt"])
def test_a_model_folder_with_a_missing_or_broken_file_is_one_line(task, tmp_path, name):
    _train(task, tmp_path / "run")
    path = tmp_path / "run" / "model" / name
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match=name):
        TrainedStream(tmp_path / "run" / "model", "cpu")
    path.unlink()
    with pytest.raises(UserError, match=name):
        TrainedStream(tmp_path / "run" / "model", "cpu")


def _rows(*pairs):
    return [{"epoch": i + 1, "val_top1": top1, "val_loss": loss} for i, (top1, loss) in enumerate(pairs)]


def test_the_best_epoch_is_the_surest_among_the_about_equally_accurate():
    # 36 clips: one standard error at 0.39 is 0.08
    assert best_epoch(_rows((0.39, 1.8), (0.36, 1.2), (0.33, 1.1), (0.28, 1.0)), clips=36)["epoch"] == 3


def test_with_many_clips_accuracy_decides():
    assert best_epoch(_rows((0.50, 1.8), (0.46, 1.2), (0.53, 1.9)), clips=10_000)["epoch"] == 3


def test_a_kept_epoch_is_replaced_when_it_falls_behind():
    assert best_epoch(_rows((0.30, 1.0), (0.60, 1.5)), clips=100)["epoch"] == 2


def test_views_follow_from_seed_epoch_and_clip_alone(task):
    def views(seed):
        return TrainingViews(task.train, task.stream.sampling, task.stream.augment, 16, seed)

    assert torch.equal(views(0)[(3, 5)][0], views(0)[(3, 5)][0])
    assert not all(torch.equal(views(0)[(e, 5)][0], views(0)[(e + 1, 5)][0]) for e in range(8))


def test_an_epoch_visits_every_clip_once_in_another_order():
    epochs = iter([0, 1])
    sampler = EpochSampler(20, seed=0, epoch=lambda: next(epochs))
    first, second = list(sampler), list(sampler)
    assert sorted(index for _, index in first) == list(range(20)) == sorted(index for _, index in second)
    assert first != [(0, index) for _, index in second]
    assert {epoch for epoch, _ in second} == {1}


def test_normalise_is_v_minus_mean_over_std_a_channel():
    views = torch.randint(0, 256, (2, 3, 2, 4, 5, 5), dtype=torch.uint8)
    out = normalise(views, [128.0, 100.0], [57.6, 10.0])
    assert torch.allclose(out[:, :, 1], (views[:, :, 1].float() - 100) / 10)
