"""dvc.yaml names every module that a stage's output follows from: an import that is not listed would go stale."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
import yaml
from helpers import ROOT

from twostream.core.imports import import_closure
from twostream.params import Dataset

DATASETS = get_args(Dataset.model_fields["name"].annotation)

SOURCES = {f"twostream/sources/{module}.py" for module in ("__init__", "archives", "huggingface", "walk")}
# Imported by a module that the stage needs, but not used in it.
FLOW = {f"twostream/{name}.py" for name in ("clipstore/flow", "flow/__init__", "flow/encoding", "flow/gpu_server")}
UNUSED = {
    "extract_rgb": FLOW,
    # `fetch` splits nothing; from the tables it takes the names of the subsets, and from videos when frames are shown.
    "download": {"twostream/datasets/splits.py", "twostream/datasets/tables.py", "twostream/video/__init__.py"},
    # `list_clips` reads what `fetch` made, and so does `list_splits`.
    "probe": {"twostream/datasets/splits.py", *SOURCES},
    "split": {*SOURCES, "twostream/video/__init__.py"},
    "evaluate": {"twostream/fusion/__init__.py"},  # a docstring
}


def _stages() -> dict[str, dict]:
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    return {name: stage.get("do", stage) for name, stage in stages.items()}


def _dependencies(name: str, dataset: str) -> list[str]:
    return [dep.replace("${dataset.name}", dataset) for dep in _stages()[name]["deps"]]


def _missing(name: str, script: Path, listed: list[str]) -> set[str]:
    """The modules that a script imports, also indirectly, and that `listed` holds neither by name nor by folder."""
    needed = {path.relative_to(ROOT).as_posix() for path in import_closure([script])}
    needed -= {"stages/common.py"} | UNUSED.get(name, set())
    return {path for path in needed if not any(path == dep or path.startswith(f"{dep}/") for dep in listed)}


@pytest.mark.parametrize("name", _stages())
def test_a_stage_depends_on_every_module_that_shapes_its_output(name):
    stage = _stages()[name]
    script = ROOT / f"stages/{stage['cmd'].split()[2].removeprefix('stages.')}.py"
    assert not _missing(name, script, stage["deps"])


@pytest.mark.parametrize("dataset", DATASETS)
@pytest.mark.parametrize("name", ["download", "probe", "split"])
def test_the_first_stages_depend_on_every_module_of_their_data_set(name, dataset):
    """A data set is imported by its name, which no import statement shows."""
    package = ROOT / "twostream/datasets" / dataset / "__init__.py"
    assert not _missing(name, package, _dependencies(name, dataset))


@pytest.mark.parametrize("name", ["download", "probe", "split"])
def test_the_first_stages_do_not_depend_on_other_data_sets(name):
    listed = _dependencies(name, "hmdb51")
    assert "twostream/datasets" not in listed
    assert not [
        dep for dep in listed if any(dep.startswith(f"twostream/datasets/{other}") for other in ("demo", "folder"))
    ]


@pytest.mark.parametrize("dataset", DATASETS)
@pytest.mark.parametrize("name", _stages())
def test_a_stages_code_dependencies_exist(name, dataset):
    for dep in _dependencies(name, dataset):
        if dep.startswith(("twostream/", "stages/")):
            assert (ROOT / dep).exists(), dep


def test_flow_depends_on_the_code_of_every_method():
    """A method is loaded by its name, which no import shows."""
    assert "twostream/flow" in _stages()["extract_flow"]["deps"]


def test_decoding_depends_on_one_module_alone():
    """The keys of probes and of extracted clips hold the code of no other."""
    assert not _missing("", ROOT / "twostream/video/__init__.py", ["twostream/video/__init__.py"])


def test_dvc_deletes_no_folder_before_a_stage_has_looked_into_it():
    for name, stage in _stages().items():
        for out in stage.get("outs", []):
            is_kept = isinstance(out, dict) and all(options.get("persist") for options in out.values())
            assert is_kept or Path(out).suffix, f"{name}: {out} needs `persist: true` and `replaced`"
