"""What DVC reruns after an edit, and what the stages then compute: every row of docs/reruns.md."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable

import pytest
from helpers import ROOT
from small_project import SmallProject, make_clip

pytestmark = pytest.mark.slow

MODALITIES = ("rgb", "flow")


def test_every_row_is_tested_and_every_test_has_its_row():
    assert list(EDITS) == list(ROWS)


def _rows() -> dict[str, list[str]]:
    """Return the rows of the table by their first cell; a heading in the table comes before the rows that it names."""
    rows = {}
    heading = ""
    for line in (ROOT / "docs/reruns.md").read_text().splitlines():
        if not line.startswith("| ") or line.startswith("| edit "):
            continue
        name, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        if name.startswith("**"):
            heading = name.strip("*")
        else:
            rows[f"{heading}: {name}" if heading else name] = cells
    return rows


def _comment(*patterns: str) -> Callable[[SmallProject], None]:
    """Return an edit that adds a comment to files of the project."""

    def edit(project: SmallProject) -> None:
        files = [file for pattern in patterns for file in project.folder.glob(pattern)]
        assert files
        for file in files:
            file.write_text(file.read_text() + "\n# a comment\n")

    return edit


def _replace(file: str, old: str, new: str) -> Callable[[SmallProject], None]:
    def edit(project: SmallProject) -> None:
        path = project.folder / file
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new, 1))

    return edit


def _write(file: str, text: str) -> Callable[[SmallProject], None]:
    return lambda project: (project.folder / file).write_text(text)


def _set(**changes: object) -> Callable[[SmallProject], None]:
    return lambda project: project.set(changes)


def _set_and_back(project: SmallProject) -> None:
    project.set({"score": {"flip": True}})
    project.repro()
    project.set({"score": {"flip": False}})


def _new_network(project: SmallProject) -> None:
    shutil.copy(project.folder / "twostream/networks/flow3d.py", project.folder / "twostream/networks/new3d.py")
    _replace("twostream/networks/names.py", 'VOLUME = {"cnn3d_v1"', 'VOLUME = {"new3d": "new3d", "cnn3d_v1"')(project)


def _one_more(subset: str) -> Callable[[SmallProject], None]:
    """Return an edit that adds a clip of a person whose clips are in this subset."""

    def edit(project: SmallProject) -> None:
        clip = project.clips(subset)[0]
        make_clip(clip.with_name(clip.name.replace("_1.", "_2.")), step=3, seed=50)

    return edit


def _rename(project: SmallProject) -> None:
    clip = project.clips("train")[0]
    clip.rename(clip.with_name(clip.name.replace("_1.", "_3.")))


def _relabel(project: SmallProject) -> None:
    clip = project.clips("train")[0]
    other = "right" if clip.parent.name == "left" else "left"
    clip.rename(clip.parents[1] / other / clip.name.replace("_1.", "_4."))


def _replace_clip(project: SmallProject) -> None:
    make_clip(project.clips("train")[0], step=1, seed=60)


def _remove(project: SmallProject) -> None:
    project.clips("train")[0].unlink()


def _weights(name: str) -> Callable[[SmallProject], None]:
    return lambda project: shutil.copy(
        project.folder / "models/cnn3d_v2-1/model.pt", project.folder / "data/weights" / name
    )


CHANGED = "\nCHANGED = True\n"
EDITS = {
    "nothing": lambda project: None,
    **{
        f"comments, of every file in: `{folder}/`{more}": _comment(f"{folder}/*.py")
        for folder, more in {
            "stages": "",
            "twostream/core": "",
            "twostream/sources": "",
            "twostream/datasets": "",
            "twostream/datasets/folder": "",
            "twostream/datasets/demo": ", another data set",
            "twostream/video": "",
            "twostream/clipstore": "",
            "twostream/flow": "",
            "twostream/flow/methods/tvl1": "",
            "twostream/views": "",
            "twostream/networks": "",
            "twostream/streams": "",
            "twostream/fusion": "",
            "twostream/report": "",
            "twostream/inference": "",
            "twostream": ": `cli.py`, `params.py`, ...",
        }.items()
    },
    "code: a new network and its line in `names.py`": _new_network,
    "code: a network that no stream uses": _replace("twostream/networks/resnet.py", "\n\n\n", CHANGED + "\n\n"),
    "code: the network of the stream on flow": _replace("twostream/networks/flow3d.py", ".mean((2", ".amax((2"),
    "code: a new flow method": _write("twostream/flow/new.py", "def solver(settings):\n    return None\n"),
    "code: a flow method that is not used": _replace("twostream/flow/methods/dis.py", "\n\n\n", CHANGED + "\n\n"),
    "code: a text of the report": _replace("twostream/report/report.html.j2", "<h1>", "<h1>Report: "),
    "parameters: `seed`": _set(seed=1),
    "parameters: `dataset.val_fraction`": _set(dataset={"val_fraction": 0.5}),
    "parameters: `flow.bound`": _set(flow={"bound": 4.0}),
    "parameters: `streams.flow3d.lr`": _set(streams={"flow3d": {"lr": 0.01}}),
    "parameters: `score.flip`": _set(score={"flip": True}),
    "parameters: `score.flip`, and back": _set_and_back,
    "parameters: `fusion.method`": _set(fusion={"method": "weighted"}),
    "parameters: `runtime.workers`": _set(runtime={"workers": 2}),
    "parameters: `runtime.accelerator` from auto to cpu, without a GPU": _set(runtime={"accelerator": "cpu"}),
    "clips: one more in train": _one_more("train"),
    "clips: one more in test": _one_more("test"),
    "clips: one of train renamed, in the same place of the order": _rename,
    "clips: one of train relabelled": _relabel,
    "clips: one of train replaced by another video of the same length": _replace_clip,
    "clips: one of train removed": _remove,
    "files in `data/weights/`: one that no stream uses": _weights("other.pt"),
    "files in `data/weights/`: that of the stream on RGB": _weights("start.pt"),
}
ROWS = _rows()


@pytest.mark.parametrize("edit", EDITS)
def test_an_edit_reruns_what_its_row_lists(edit, small_project):
    stages, decoded, *counts = ROWS[edit]
    small_project.restore()
    EDITS[edit](small_project)
    done = small_project.repro()
    assert done.stages == _stages(stages)
    totals = {
        "extracted": len(list(small_project.clips_folder.glob("*/*"))),
        "epochs": 1,
        "scored": len(small_project.clips("val") + small_project.clips("test")),
    }
    assert done.decoded == int(decoded)
    for cell, (what, total) in zip(counts, totals.items(), strict=True):
        assert (what, getattr(done, what)) == (what, _pair(cell, total))


def _stages(cell: str) -> set[str]:
    """Return the stages of a cell: `train` stands for train_rgb and train_flow."""
    names = [] if cell == "none" else re.split(", ", cell)
    both = ("extract", "train", "score")
    return {full for name in names for full in ([f"{name}_{m}" for m in MODALITIES] if name in both else [name])}


def _pair(cell: str, total: int) -> tuple[int, ...]:
    """Return the counts of RGB and of flow that a cell stands for."""
    counts = [total if part == "all" else int(part) for part in cell.split(" + ")]
    return tuple(counts * 2 if len(counts) == 1 else counts)
