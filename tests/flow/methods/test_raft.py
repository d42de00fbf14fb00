from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from torchvision.models import optical_flow

from twostream.errors import UserError
from twostream.flow.methods import raft
from twostream.params import Raft

pytestmark = pytest.mark.slow


def _texture(height, width, seed=0):
    noise = np.random.default_rng(seed).integers(0, 256, (height, width)).astype(np.uint8)
    return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 2), None, 0, 255, cv2.NORM_MINMAX)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("raft") / "small.pth"
    torch.save(optical_flow.raft_small().state_dict(), path)
    return path


def _solver(weights, **changes):
    return raft.solver(Raft(**{"model": "small", "weights": str(weights), "updates": 2, **changes}), device="cpu")


@pytest.mark.parametrize("size", [(128, 160), (61, 133), (8, 8), (16, 400)])
def test_images_of_any_size_give_flow_of_their_size(weights, size):
    flow = _solver(weights)(_texture(*size), _texture(*size, seed=1))
    assert flow.shape == (*size, 2) and flow.dtype == np.float32 and np.isfinite(flow).all()


def test_a_size_that_needs_no_padding_gives_what_torchvision_gives(weights):
    first, second = _texture(128, 136), _texture(128, 136, seed=1)
    network = optical_flow.raft_small()
    network.load_state_dict(torch.load(weights))
    transform = optical_flow.Raft_Small_Weights.DEFAULT.transforms()
    images = transform(*(torch.from_numpy(np.stack([image] * 3)[None]) for image in (first, second)))
    with torch.inference_mode():
        theirs = network.eval()(*images, num_flow_updates=3)[-1][0].permute(1, 2, 0).numpy()
    assert np.abs(_solver(weights, updates=3)(first, second) - theirs).max() < 1e-4


def test_a_batch_gives_the_flow_of_its_pairs(weights):
    frames = np.stack([_texture(40, 50, seed) for seed in range(3)])
    solver = _solver(weights)
    flows = solver.match_batch(torch.from_numpy(frames[:-1]), torch.from_numpy(frames[1:])).numpy()
    assert flows.shape == (2, 40, 50, 2)
    for flow, alone in zip(flows, solver.sequence(iter(frames)), strict=True):
        assert np.abs(flow - alone).max() < 1e-3


def test_two_solvers_give_the_same_bytes(weights):
    first, second = _texture(48, 64), _texture(48, 64, seed=1)
    assert _solver(weights)(first, second).tobytes() == _solver(weights)(first, second).tobytes()


def test_a_missing_weight_file_is_named_with_what_it_should_be(tmp_path):
    with pytest.raises(UserError, match=r"none\.pth is no file; .*raft_small_\w+-\w+\.pth"):
        _solver(tmp_path / "none.pth")


def test_a_damaged_weight_file_is_named(tmp_path, weights):
    (tmp_path / "half.pth").write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(UserError, match=r"half\.pth"):
        _solver(tmp_path / "half.pth")


def test_the_weights_of_another_model_are_refused_in_one_line(weights):
    with pytest.raises(UserError, match="not the weights of raft large") as caught:
        _solver(weights, model="large")
    assert "\n" not in str(caught.value)


def test_a_failed_fetch_says_which_file_goes_where(monkeypatch, tmp_path):
    def no_network(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    pretrained = SimpleNamespace(url="https://example.org/raft_small.pth", get_state_dict=no_network)
    monkeypatch.setitem(raft._MODELS, "small", (optical_flow.raft_small, pretrained))
    with pytest.raises(UserError, match=r"no network.*checkpoints/raft_small\.pth.*`weights:`"):
        _solver("pretrained")
