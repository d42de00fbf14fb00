"""The key of what is computed has the code of every module that is loaded for it, also of those loaded by name."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
from helpers import ROOT

from twostream.core.imports import NOT_IN_OUTPUTS, import_closure
from twostream.flow import method_files
from twostream.networks.names import network_files
from twostream.params import Flow

METHODS = get_args(Flow.model_fields["method"].annotation)
NETWORKS = ["cnn3d_v1", "flow3d", "i3d", "resnet18", "inflated/resnet18", "video/s3d", "timm/mobilenetv3_small_050"]
TRAINING = [ROOT / f"twostream/streams/{name}.py" for name in ("fitting", "trained")]


def _names(files) -> set[str]:
    return {path.relative_to(ROOT).as_posix() for path in import_closure(files)}


def _loaded(*parts: str) -> list[set[str]]:
    """The modules of the library that are loaded after each part of a script, in a process of its own."""
    show = """
import sys
for module in list(sys.modules.values()):
    if module.__name__.startswith("twostream.") and not module.__file__.endswith("__init__.py"):
        print(module.__file__)
print("END OF PART")
"""
    script = "".join(part + show for part in parts)
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True, text=True)
    return [_in_outputs(printed.splitlines()) for printed in done.stdout.split("END OF PART")[:-1]]


def _in_outputs(lines: list[str]) -> set[str]:
    files = {Path(line).relative_to(ROOT).as_posix() for line in lines if line.startswith(str(ROOT))}
    return {file for file in files if not any(file == name or file.startswith(f"{name}/") for name in NOT_IN_OUTPUTS)}


@pytest.mark.slow
@pytest.mark.parametrize("network", NETWORKS)
def test_the_files_of_a_network_are_those_that_building_it_loads(network, tmp_path):
    building = f"""
import torch
from twostream.networks.registry import create_model
given = dict(modality="rgb", classes=2, frames=16, input_size=64)
network = create_model({network!r}, **given)
"""
    loading = f"""
base = getattr(network.network, "backbone", network.network)
torch.save(base.state_dict(), {str(tmp_path / "w.pth")!r})
create_model({network!r}, **given, weights={str(tmp_path / "w.pth")!r})
"""
    for loaded, weights in zip(_loaded(building, loading), ("none", "a path"), strict=True):
        assert loaded == _names([ROOT / "twostream/networks/registry.py", *network_files(network, weights)])


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_the_files_of_a_flow_method_are_those_that_solving_loads(method):
    script = f"""
import numpy as np
from twostream.clipstore import flow
from twostream.flow import make_solver
from twostream.profiles import load_profile
from twostream.params import parse_params
values = load_profile("demo")
values["flow"].update(method={method!r}, device="cpu")
try:
    make_solver(parse_params(values).flow, "cpu")(*np.zeros((2, 64, 64), np.uint8))
except Exception as error:
    assert "weights" in str(error), error
"""
    named = _names([ROOT / "twostream/clipstore/flow.py", *method_files(method, "cpu")])
    assert _loaded(script) == [{file for file in named if not file.endswith("__init__.py")}]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_every_method_has_its_files(device):
    for method in METHODS:
        assert all(file.is_file() for file in method_files(method, device))
    assert ("methods/tvl1/torch.py" in str(method_files("tvl1", device))) == (device == "cuda")


def test_another_network_or_another_solver_does_not_count():
    training = _names([*TRAINING, *network_files("flow3d", "none")])
    assert "twostream/networks/flow3d.py" in training and "twostream/streams/fitting.py" in training
    others = {"cnn3d", "resnet", "timm_backbones", "torchvision_video", "pretrained", "inflate", "weights"}
    assert not {f"twostream/networks/{name}.py" for name in others} & training
    rgb = _names([ROOT / "twostream/clipstore/rgb.py"])
    assert not [file for file in rgb if file.startswith("twostream/flow")]
    dis = _names([ROOT / "twostream/clipstore/flow.py", *method_files("dis", "cpu")])
    assert not {"twostream/flow/methods/farneback.py", "twostream/flow/methods/tvl1/cpu.py"} & dis


def test_an_import_for_type_checking_does_not_count():
    raft = _names(method_files("raft", "cpu"))
    names = ("flow/__init__", "flow/batch", "flow/methods/raft", "networks/weight_files")
    assert raft == {f"twostream/{name}.py" for name in names}
