import pytest
import torch

from twostream.networks.cnn3d import CNN3Dv1, CNN3Dv2

# Parameters of the student study's networks, 51 classes, RGB; by hand: sum of (27 I + 1) O and 2 O per block, linears.
STUDY = [(CNN3Dv1, 1_125_555), (CNN3Dv2, 325_875)]


@pytest.mark.parametrize(("network", "parameters"), STUDY)
def test_parameter_counts_are_those_of_the_study(network, parameters):
    assert sum(p.numel() for p in network(3, 51).parameters()) == parameters


@pytest.mark.parametrize("network", [CNN3Dv1, CNN3Dv2])
@pytest.mark.parametrize("shape", [(8, 32, 32), (9, 33, 47), (4, 4, 4)])
def test_small_and_odd_inputs_give_one_row_per_clip(network, shape):
    assert network(2, 5)(torch.zeros(3, 2, *shape)).shape == (3, 5)


def test_v2_drops_out_in_training_only():
    torch.manual_seed(0)
    network = CNN3Dv2(2, 5).train()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm3d):
            module.eval()
    volume = torch.rand(1, 2, 8, 32, 32)
    assert not torch.equal(network(volume), network(volume))
    network.eval()
    assert torch.equal(network(volume), network(volume))
