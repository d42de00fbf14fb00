"""What differs on a GPU, as far as it shows without one."""

import pytest
import torch

from twostream.errors import UserError
from twostream.streams.gpu import has_bf16, memory_as_user_error, mixed_precision, prefer_channels_last
from twostream.views import loading


def test_emulated_bf16_is_not_used(monkeypatch):
    """PyTorch counts emulation unless it is asked not to, as on a T4."""
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    assert not has_bf16()


def test_a_cpu_computes_in_32_bit():
    layer = torch.nn.Linear(4, 4)
    with mixed_precision(torch.device("cpu")):
        assert layer(torch.ones(1, 4)).dtype == torch.float32


def test_weights_of_3d_convolutions_have_channels_last_on_a_gpu_alone():
    network = torch.nn.Sequential(torch.nn.Conv3d(4, 4, 3), torch.nn.Conv2d(4, 4, 3))
    values = network[0].weight.clone()
    prefer_channels_last(network, torch.device("cpu"))
    assert network[0].weight.is_contiguous()
    prefer_channels_last(network, torch.device("cuda"))
    assert network[0].weight.is_contiguous(memory_format=torch.channels_last_3d) and network[1].weight.is_contiguous()
    assert torch.equal(network[0].weight, values)


def test_a_lack_of_memory_is_one_line_with_a_remedy():
    with (
        pytest.raises(UserError, match="memory of the GPU is too small; set batch_size"),
        memory_as_user_error("set batch_size below 8"),
    ):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate\n20 GiB")


def test_mean_and_deviation_are_copied_to_a_device_once(monkeypatch):
    views = torch.zeros(1, 1, 2, 1, 4, 4, dtype=torch.uint8)
    first = loading.normalise(views, [128.0, 127.0], [50.0, 50.0])
    monkeypatch.setattr(torch, "tensor", None)
    assert torch.equal(loading.normalise(views, [128.0, 127.0], [50.0, 50.0]), first)


@pytest.mark.parametrize("count, world", [(7, 2), (8, 4), (3, 1)])
def test_processes_share_the_validation_clips_without_repeats(monkeypatch, count, world):
    indices = []
    for rank in range(world):
        monkeypatch.setattr(loading, "_world", lambda rank=rank: (rank, world))
        sampler = loading.SharedSampler(count)
        assert len(sampler) == len(list(sampler)) > 0
        indices += sampler
    assert sorted(indices) == list(range(count))


def test_every_process_has_a_validation_clip(monkeypatch):
    monkeypatch.setattr(loading, "_world", lambda: (3, 4))
    assert list(loading.SharedSampler(2)) == [1]
