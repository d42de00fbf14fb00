"""Training on a task that can be learnt in seconds: the brightness of a clip tells its class."""

import copy
import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import as_pulled
from PIL import Image
from torch.nn import functional

from twostream.clipstore import ClipReader, write_clip
from twostream.core.cache import FileCache
from twostream.errors import UserError
from twostream.networks.registry import create_model
from twostream.params import Runtime, Score, Stream, parse_params
from twostream.streams import fitting, trained, training
from twostream.streams.fitting import mix_clips
from twostream.streams.network import build_network
from twostream.streams.scoring import score_clips
from twostream.streams.task import Task, best_epoch, class_weights
from twostream.streams.trained import TrainedStream
from twostream.streams.training import finished_epochs, train_stream
from twostream.views.examples import Example
from twostream.views.loading import EpochSampler, TrainingViews, make_loader, normalise, read_scoring_views

pytestmark = pytest.mark.slow

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


def _network(task):
    return build_network(task.stream, task.modality, len(task.classes), task.stream.weights)


def _with(task, **changes):
    """The task with other values in its stream; those of augment by their own names."""
    augment = {name: changes.pop(name) for name in list(changes) if name in task.stream.augment.model_fields_set}
    values = task.stream.model_dump()
    values["augment"].update(augment)
    return dataclasses.replace(task, stream=Stream.model_validate({**values, **changes}))


def _train(task, root, cache="cache"):
    train_stream(task, FileCache(root / cache, None), RUNTIME, root / "model", root / "curves")
    return (root / "model" / "model.pt").read_bytes()


def _finished(task, root):
    return finished_epochs(task, FileCache(root / "cache", None), RUNTIME, root / "model")


def _scored(root, examples, protocol):
    return score_clips(root / "model", examples, protocol, RUNTIME, root / "cache")[1]


def test_a_stream_learns_and_its_folder_is_all_that_scoring_needs(task, tmp_path):
    _train(task, tmp_path / "run")
    history = json.loads((tmp_path / "run" / "model" / "history.json").read_text())
    assert len(history) == 4 and history[-1]["train_loss"] < history[0]["train_loss"]
    logits = _scored(tmp_path / "run", task.val, Score(segments=2, crops=3, flip=True))
    assert logits.shape == (8, 2)
    assert (logits.argmax(1) == [example.label for example in task.val]).all()


def test_two_runs_give_the_same_bytes(task, tmp_path):
    assert _train(task, tmp_path / "one") == _train(task, tmp_path / "two")


RECIPES = [{}, {"mixup": 0.4, "jitter": 0.2, "label_smoothing": 0.1}]


@pytest.mark.parametrize("recipe", RECIPES, ids=["plain", "everything"])
def test_an_interrupted_run_goes_on_and_ends_with_the_same_bytes(task, tmp_path, monkeypatch, capsys, recipe):
    task = _with(task, **recipe)
    undisturbed = _train(task, tmp_path / "whole")
    seen = []
    step = fitting._Module.training_step

    def dies_in_the_third_epoch(self, batch, index):
        seen.append(self.current_epoch)
        if self.current_epoch == 2 and index == 1 and seen.count(2) == 2:
            raise SystemExit(130)  # what Ctrl-C raises in a stage
        return step(self, batch, index)

    monkeypatch.setattr(fitting._Module, "training_step", dies_in_the_third_epoch)
    with pytest.raises(SystemExit, match="130"):
        _train(task, tmp_path / "cut")
    assert "the next run starts with epoch 3" in capsys.readouterr().out
    assert _finished(task, tmp_path / "cut") == 2
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


def test_a_compiled_network_learns_the_same_and_its_weights_have_the_same_names(task, tmp_path, monkeypatch):
    compiled = []

    def traced_only(self):
        compiled.append(type(self))
        real(self, backend="eager")  # the whole of it takes half a minute

    real = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", traced_only)
    task = _with(task, epochs=1, dropout=0.0)
    plain = _train(task, tmp_path / "plain")
    assert not compiled
    assert _train(dataclasses.replace(task, compile=True), tmp_path / "compiled") == plain
    assert len(compiled) == 1


def test_memory_is_kept_once_a_step_has_shown_how_much_it_takes(task, tmp_path, monkeypatch):

    steps, calls = [], []
    step = fitting._Module.training_step
    monkeypatch.setattr(fitting._Module, "training_step", lambda *given: (steps.append(1), step(*given))[1])
    monkeypatch.setattr(fitting, "keep_freed_memory", lambda: calls.append(len(steps)))
    monkeypatch.setattr(trained, "keep_freed_memory", lambda: calls.append("score"))
    _train(task, tmp_path)
    a_epoch = len(steps) // task.stream.epochs
    assert calls == [1 + epoch * a_epoch for epoch in range(task.stream.epochs)]
    _scored(tmp_path, task.val, Score(segments=1, crops=1, flip=False))
    assert calls.count("score") == 1  # of eight batches


def test_a_finished_run_is_not_trained_again(task, tmp_path, monkeypatch):
    assert _finished(task, tmp_path / "run") == 0
    first = _train(task, tmp_path / "run")
    assert _finished(task, tmp_path / "run") is None
    (tmp_path / "run" / "model" / "model.pt").unlink()  # as DVC does before it runs a stage
    monkeypatch.setattr(fitting._Module, "training_step", lambda *_: pytest.fail("trained again"))
    assert _train(task, tmp_path / "run") == first


def test_a_model_that_was_pulled_is_not_trained_again(task, tmp_path, monkeypatch):
    """DVC's objects and dvc.lock are there, the cache of the machine that trained is not."""
    monkeypatch.chdir(tmp_path)
    runtime = RUNTIME, Path("models/v2-1"), Path("curves")
    train_stream(task, FileCache("first", None), *runtime)
    first = Path("models/v2-1/model.pt").read_bytes()
    as_pulled("models/v2-1", "objects")
    monkeypatch.setattr(fitting._Module, "training_step", lambda *_: pytest.fail("trained again"))
    assert finished_epochs(task, FileCache("second", "objects"), *runtime[:2]) is None
    train_stream(task, FileCache("second", "objects"), *runtime)
    assert Path("models/v2-1/model.pt").read_bytes() == first
    with pytest.raises(pytest.fail.Exception, match="trained again"):
        train_stream(_with(task, epochs=2), FileCache("third", "objects"), *runtime)
    Path("models/v2-1/config.json").unlink()
    Path("models/v2-1/config.json").write_bytes(b"[")
    as_pulled("models/v2-1", "objects")
    with pytest.raises(pytest.fail.Exception, match="trained again"):
        train_stream(task, FileCache("fourth", "objects"), *runtime)


def test_a_model_that_was_damaged_before_dvc_took_it_is_trained_again(task, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    task = _with(task, epochs=1)
    runtime, model = (RUNTIME, Path("models/v2-1"), Path("curves")), Path("models/v2-1/model.pt")
    train_stream(task, FileCache("first", None), *runtime)
    content = bytearray(model.read_bytes())
    content[len(content) // 2] ^= 1
    model.unlink()
    model.write_bytes(content)
    as_pulled("models/v2-1", "objects")
    assert finished_epochs(task, FileCache("second", "objects"), *runtime[:2]) == 0


def test_a_damaged_state_starts_the_training_again(task, tmp_path, capsys):
    task, cache = _with(task, epochs=1), FileCache(tmp_path / "cache", None)
    state = training._state(cache, training._key(task, training._arithmetic(task, RUNTIME), None))
    state.parent.mkdir(parents=True)
    state.write_bytes(b"PK cut short")
    assert _finished(task, tmp_path) == 0
    _train(task, tmp_path)
    assert "v2: the state of an earlier run is damaged, starting again\n" in capsys.readouterr().out


def test_renamed_clips_in_the_same_order_are_not_trained_again(task, tmp_path):
    _train(task, tmp_path)
    renamed = [dataclasses.replace(example, clip_id=f"{example.clip_id}-new") for example in task.train]
    assert _finished(dataclasses.replace(task, train=renamed), tmp_path) is None
    assert _finished(dataclasses.replace(task, train=renamed[::-1]), tmp_path) == 0


def test_frames_that_changed_train_again_whatever_the_clips_say_of_themselves(task, tmp_path):
    """As after a change to the code that extracts: the source and the settings of a clip stay the same."""
    _train(task, tmp_path)
    with ClipReader(task.train[0].path) as clip:
        frames, meta = clip.read(range(len(clip))), clip.meta
    write_clip(task.train[0].path, 255 - frames, 90, {"modality": "rgb", "settings": meta["settings"]})
    before = (tmp_path / "model/model.pt").read_bytes()
    assert _train(task, tmp_path) != before


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


def _plain_loop(task, loss_of):
    """One epoch of Adam by hand, without Lightning: the starting weights, and those after every step."""
    torch.manual_seed(task.seed)
    model = _network(task).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=task.stream.lr)
    views = TrainingViews(task.train, task.stream.sampling, task.stream.augment, task.stream.size, task.seed)
    sampler = EpochSampler(len(task.train), task.seed, lambda: 0)
    states = [copy.deepcopy(model.state_dict())]
    for step, (batch, labels) in enumerate(make_loader(views, task.stream.batch_size, 1, sampler)):
        optimizer.zero_grad()
        loss_of(model, normalise(batch, **model.normalisation), labels, step).backward()
        optimizer.step()
        states.append(copy.deepcopy(model.state_dict()))
    return states


def _plain_loss(model, inputs, labels, step):
    return functional.cross_entropy(model(inputs), labels)


def _weights(root):
    return torch.load(root / "model" / "model.pt", weights_only=True)


def test_without_switches_training_is_plain_gradient_descent(task, tmp_path):
    task = _with(task, epochs=1, dropout=0.0)
    _train(task, tmp_path)
    expected = _plain_loop(task, _plain_loss)[-1]
    assert all(torch.equal(value, expected[name]) for name, value in _weights(tmp_path).items())


def test_mixup_mixes_clips_and_their_labels_by_the_same_share(task, tmp_path, monkeypatch):
    """The cross-entropy to a mixture of labels is the mixture of their cross-entropies."""
    shares, partners = [0.3, 0.9, 0.5, 0.6], torch.tensor([2, 3, 1, 0])
    draws = iter(shares)

    def mix(inputs, targets, alpha):
        assert alpha == 1.0
        share = next(draws)
        return tuple(share * values + (1 - share) * values[partners] for values in (inputs, targets))

    def loss(model, inputs, labels, step):
        logits = model(shares[step] * inputs + (1 - shares[step]) * inputs[partners])
        first, second = (functional.cross_entropy(logits, those) for those in (labels, labels[partners]))
        return shares[step] * first + (1 - shares[step]) * second

    monkeypatch.setattr(fitting, "mix_clips", mix)
    task = _with(task, epochs=1, dropout=0.0, mixup=1.0)
    _train(task, tmp_path)
    mixed, plain = _plain_loop(task, loss)[-1], _plain_loop(task, _plain_loss)[-1]
    head = _weights(tmp_path)["network.classifier.weight"]
    torch.testing.assert_close(head, mixed["network.classifier.weight"], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(head, plain["network.classifier.weight"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("alpha", [0.2, 1.0])
def test_shares_of_a_mixup_are_beta_distributed_and_the_same_for_clips_and_targets(alpha):
    torch.manual_seed(0)
    eye = torch.eye(5)
    shares = []
    for _ in range(2000):
        inputs, targets = mix_clips(eye[:, :, None], eye, alpha)
        assert torch.equal(inputs[..., 0], targets)
        own = targets.diagonal()
        (others,) = torch.nonzero(own < 1, as_tuple=True)  # a clip can be its own partner
        shares += own[others[:1]].tolist()
    assert np.mean(shares) == pytest.approx(0.5, abs=0.03)
    assert np.var(shares) == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.1)


@pytest.fixture
def pretrained(task, tmp_path):
    """The task with a weight file of five other classes, whose batch norms have seen something."""
    torch.manual_seed(1)
    network = _network(dataclasses.replace(task, classes=list("abcde"))).network
    for layer in _norms(network):
        torch.nn.init.uniform_(layer.running_mean, -0.1, 0.1)
        torch.nn.init.uniform_(layer.running_var, 0.1, 0.4)
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    return _with(task, weights=str(tmp_path / "weights.pth"), epochs=1)


def _norms(network):
    return [layer for layer in network.modules() if isinstance(layer, torch.nn.BatchNorm3d)]


@pytest.mark.parametrize(
    "freeze, changes", [("none", [True] * 3), ("partial", [True, False, False]), ("all", [False] * 3)]
)
def test_frozen_batch_norms_keep_the_loaded_statistics_and_learn_their_scale(pretrained, tmp_path, freeze, changes):
    _train(_with(pretrained, freeze_bn=freeze), tmp_path)
    before, after = torch.load(pretrained.stream.weights), _weights(tmp_path)
    norms = [name.removesuffix(".running_mean") for name in before if name.endswith("running_mean")]
    for norm, changed in zip(norms, changes, strict=True):
        for leaf in ("running_mean", "running_var", "num_batches_tracked"):
            assert torch.equal(before[f"{norm}.{leaf}"], after[f"network.{norm}.{leaf}"]) != changed
        assert not torch.equal(before[f"{norm}.weight"], after[f"network.{norm}.weight"])


def test_frozen_batch_norms_use_the_loaded_statistics_while_training(pretrained, tmp_path, monkeypatch):
    """With all of them frozen and no dropout, a network in training gives what it gives when it scores."""
    seen = []
    step = fitting._Module.training_step

    def spy(self, *args):
        seen.append((self.model.training, [layer.training for layer in _norms(self.model)]))
        return step(self, *args)

    monkeypatch.setattr(fitting._Module, "training_step", spy)
    _train(_with(pretrained, freeze_bn="partial", epochs=2), tmp_path)
    assert seen == [(True, [True, False, False])] * 8


def test_a_network_without_batch_norm_has_nothing_to_freeze(pretrained, tmp_path, monkeypatch):
    monkeypatch.setattr(fitting, "build_network", lambda *_: torch.nn.Linear(2, 2))
    with pytest.raises(UserError, match=r"streams\.v2\.freeze_bn: cnn3d_v2 has no batch norm"):
        _train(_with(pretrained, freeze_bn="all"), tmp_path)


@pytest.mark.parametrize("lr_new, groups", [(1.0, 1), (10.0, 2)])
def test_new_layers_have_their_own_learning_rate(pretrained, tmp_path, monkeypatch, lr_new, groups):
    seen = []
    end = fitting._Module.on_train_batch_end
    monkeypatch.setattr(
        fitting._Module,
        "on_train_batch_end",
        lambda self, *x: (seen.append(self.optimizers()), end(self, *x))[1],
    )
    stream = {"lr_new": lr_new, "optimizer": "sgd", "warmup_epochs": 0, "schedule": "constant"}
    task = _with(pretrained, **stream)
    _train(task, tmp_path)
    optimizer = seen[0]
    assert len(optimizer.param_groups) == groups
    rates = {tuple(parameter.shape): group["lr"] for group in optimizer.param_groups for parameter in group["params"]}
    assert rates[(2, 256)] == pytest.approx(lr_new * task.stream.lr)  # the classifier: two classes, not five
    assert rates[(256, 128)] == pytest.approx(task.stream.lr)  # the hidden layer, loaded
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(_network(task).parameters()))


def test_the_model_says_which_bytes_it_started_from(pretrained, tmp_path):
    _train(pretrained, tmp_path)
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    digest = hashlib.sha256((tmp_path / "weights.pth").read_bytes()).hexdigest()
    assert (config["weights"], config["weights_sha256"]) == (pretrained.stream.weights, digest)


def _flow_weights(tmp_path, task, model, shape, **extraction):
    """The task with a file of weights that were trained on flow; a model folder's config.json says on which."""
    (tmp_path / "flow").mkdir()
    torch.save({"Conv3d_1a_7x7.conv3d.weight": torch.zeros(shape)}, tmp_path / "flow" / "model.pt")
    if extraction:
        (tmp_path / "flow" / "config.json").write_text(json.dumps({"modality": "flow", "extraction": extraction}))
    return _with(task, model=model, weights=str(tmp_path / "flow" / "model.pt"))


def test_weights_of_flow_in_another_code_are_refused_and_those_of_another_method_named(flow_task, tmp_path, capsys):
    _rewrite(flow_task[0].train[0].path, {"method": "dis", "bound": 20.0})
    task = _flow_weights(tmp_path, flow_task[0], "flow3d", (1,), method="tvl1", bound=8.0)
    with pytest.raises(UserError, match=r"was trained on flow with bound 8, and flow.bound is 20.*set flow.bound to 8"):
        _train(task, tmp_path)
    config = tmp_path / "flow" / "config.json"
    config.write_text(config.read_text().replace("8.0", "20.0"))
    with pytest.raises(UserError, match="do not fit the model"):
        _train(task, tmp_path)
    assert "was trained on flow of tvl1, and flow.method is dis" in capsys.readouterr().out


def test_the_published_flow_weights_of_i3d_need_their_bound(flow_task, tmp_path):
    _rewrite(flow_task[0].train[0].path, {"method": "tvl1", "bound": 15.0})
    task = _flow_weights(tmp_path, flow_task[0], "i3d", (64, 2, 7, 7, 7))
    with pytest.raises(UserError, match=r"with bound 20, and flow.bound is 15"):
        _train(task, tmp_path)


def _rewrite(path, settings):
    with ClipReader(path) as clip:
        frames = [clip.frame(index) for index in range(len(clip))]
    path.unlink()
    write_clip(path, frames, 90, {"modality": "flow", "settings": settings})


@pytest.fixture
def flow_task(task, tmp_path):
    """Classes of opposite motion, filmed by a camera that moves or stands still."""

    def examples(subset, camera):
        made = []
        for i in range(6):
            rng = np.random.default_rng(i)
            path = tmp_path / subset / f"{i}.zip"
            codes = np.full((5, 40, 48, 2), 128, np.uint8)
            codes[:, 10:30, 10:30, 0] += np.uint8(40) if i % 2 else np.uint8(256 - 40)
            codes += rng.integers(0, 6, codes.shape).astype(np.uint8)
            write_clip(path, codes + np.uint8(camera), 98, {"modality": "flow", "settings": {}})
            made.append(Example(f"{subset}/{i}", path, i % 2))
        return made

    flow = dataclasses.replace(task, name="motion", modality="flow", train=examples("a", 0), val=examples("b", 0))
    return _with(flow, epochs=1), examples("c", 32)


@pytest.mark.parametrize("demean", [False, True])
def test_a_demeaned_stream_scores_a_moving_camera_as_a_still_one(flow_task, tmp_path, demean):
    task, moving = flow_task
    _train(_with(task, demean=demean), tmp_path)
    stream = TrainedStream(tmp_path / "model", "cpu")
    assert stream.config["demean"] is demean
    protocol = Score(segments=2, crops=3, flip=True)
    still, moved = (_scored(tmp_path, examples, protocol) for examples in (task.val, moving))
    assert np.allclose(still, moved, atol=0.02 * np.abs(still).max()) is demean


def test_rgb_cannot_be_demeaned(task, tmp_path):
    with pytest.raises(UserError, match=r"streams\.v2\.demean: .* set it to false") as caught:
        _train(_with(task, demean=True), tmp_path)
    assert "\n" not in str(caught.value)


def test_a_clips_logits_are_the_mean_over_contiguous_snippets_crops_and_mirror_images(task, tmp_path):
    """Of a 3D network: each view by itself through the network, in other words than score_clips."""
    sampling = {"mode": "segments", "segments": 1, "frames": 4, "stride": 1}
    _train(_with(task, epochs=1, size=32, sampling=sampling), tmp_path)
    stream = TrainedStream(tmp_path / "model", "cpu")
    rng = np.random.default_rng(0)
    frames = [np.repeat(rng.integers(0, 256, (40, 48, 1)).astype(np.uint8), 3, axis=2) for _ in range(6)]
    write_clip(tmp_path / "grey.zip", frames, 90, {"modality": "rgb"})
    example = Example("a/grey", tmp_path / "grey.zip", 0)
    scored = _scored(tmp_path, [example], Score(segments=2, crops=3, flip=True))
    with ClipReader(example.path) as clip:
        pieces = clip.read([0, 1, 2, 3, 2, 3, 4, 5]).reshape(2, 4, 40, 48, 3)
        views = read_scoring_views(clip, stream.sampling, Score(segments=2, crops=3, flip=True), 32)
    assert views.shape == (12, 1, 3, 4, 32, 32)
    squares = [pieces[:, :, :, left : left + 40] for left in (0, 4, 8)]
    squares = [image for square in squares for image in (square, square[:, :, :, ::-1])]
    single = []
    for square in squares:
        for piece in square:
            small = np.stack([Image.fromarray(frame).resize((32, 32), Image.Resampling.BILINEAR) for frame in piece])
            single.append(stream.logits(torch.from_numpy(small).permute(3, 0, 1, 2)[None, None]))
    # INTER_AREA against Pillow's triangle filter.
    assert np.allclose(scored[0], torch.cat(single).mean(0), rtol=0.01, atol=0.01)


LAST = {  # what `tune: last` trains
    "resnet18": "layer4.1 fc",
    "resnet50": "layer4.2 fc",
    "i3d": "Mixed_5c logits",
    "i3d_4f": "Mixed_4f logits",
    "video/r3d_18": "layer4.1 fc",
    "video/s3d": "features.15 classifier.1",
    "video/swin3d_t": "features.6.1 norm head",
    "timm/test_efficientnet": "blocks.4.0 conv_head bn2 classifier",
    "inflated/resnet18": "layer4.1 fc",
    "cnn3d_v2": "hidden classifier",
}


@pytest.mark.parametrize("name", LAST)
def test_the_last_block_and_all_after_it_learn_and_the_rest_is_frozen(name):
    with torch.device("meta"):
        model = create_model(name, modality="rgb", classes=3, frames=8, input_size=32)
    frozen = fitting.freeze_body(model)
    learning = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    expected = tuple(f"{layer}." for layer in LAST[name].split())
    assert learning and all(name.partition(".")[2].removeprefix("backbone.").startswith(expected) for name in learning)
    assert {layer for layer in expected if any(layer in name for name in learning)} == set(expected)
    held = {id(parameter) for layer in frozen for parameter in layer.parameters()}
    assert not any(id(parameter) in held for parameter in model.parameters() if parameter.requires_grad)


def test_a_frozen_body_keeps_its_weights_and_statistics(task, tmp_path):
    _train(task, tmp_path / "start")
    start = tmp_path / "start/model/model.pt"
    _train(_with(task, weights=str(start), tune="last", epochs=1, lr=0.1), tmp_path / "tuned")
    before, after = torch.load(start), torch.load(tmp_path / "tuned/model/model.pt")
    changed = {name.split(".")[1] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"hidden", "classifier"}


def test_balanced_sampling_draws_classes_evenly_and_the_weights_of_a_loss_make_up_for_rare_ones():
    labels = np.array([0] * 90 + [2] * 10)
    weights = class_weights(labels, 3)
    assert weights[labels].sum() == pytest.approx(100) and weights[1] == 0 and weights[2] == pytest.approx(5)
    drawn = [index for _, index in EpochSampler(100, 0, lambda: 0, weights[labels])]
    assert len(drawn) == 100 and 30 < (labels[drawn] == 2).sum() < 70


@pytest.mark.parametrize("balance", ["sampler", "loss"])
def test_a_balanced_training_is_another_training(task, tmp_path, balance):
    task = _with(task, epochs=1)
    rare = dataclasses.replace(task, train=[example for i, example in enumerate(task.train) if i % 2 or i < 4])
    assert _train(_with(rare, balance=balance), tmp_path / balance) != _train(rare, tmp_path / "plain")


def test_gpus_divide_the_batch_and_do_not_change_the_key(task, monkeypatch):
    monkeypatch.setattr(training, "device_of", lambda _: "cuda")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    two = RUNTIME.model_copy(update={"accelerator": "auto", "devices": 2})
    assert training._arithmetic(dataclasses.replace(task, precision="auto"), two) == ("cuda", "bf16-mixed")
    assert training._processes(task, "cuda", two) == (2, 1)
    with pytest.raises(UserError, match=r"streams\.v2\.batch_size: 5 clips cannot be divided among 2 processes"):
        training._processes(_with(task, batch_size=5), "cuda", two)
    with pytest.raises(UserError, match=r"3 processes, but this machine has 2 GPUs; set runtime\.devices to at most 2"):
        training._processes(task, "cuda", two.model_copy(update={"devices": 3}))
    for name, value in {"TORCHELASTIC_RUN_ID": "1", "LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "4"}.items():
        monkeypatch.setenv(name, value)
    assert training._processes(task, "cuda", two) == (2, 2)


def test_batch_norms_in_several_processes_on_a_cpu_are_one_line(task):
    with pytest.raises(UserError, match=r"streams\.v2: several processes train cnn3d_v2 on GPUs only.*freeze_bn: all"):
        fitting._Module(task, "cpu", 2)


def test_a_last_batch_of_one_clip_that_a_batch_norm_cannot_use_is_one_line(task, tmp_path):
    task = _with(task, model="flow3d", sampling={**task.stream.sampling.model_dump(), "frames": 1})
    task = dataclasses.replace(task, train=task.train[:5])
    with pytest.raises(UserError, match=r"streams\.v2: of 5 clips, the last batch has one.*change batch_size"):
        _train(task, tmp_path)
