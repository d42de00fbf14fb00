"""What users put into the folders of the stages survives `dvc repro`, and no run is disturbed by what a stage made."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest
from helpers import moving_texture, write_video
from miniature import dvc, make_project, miniature, ran, run, set_values

pytestmark = pytest.mark.slow


def clips(folder: Path) -> Path:
    for label in ("wave", "run"):
        for number in range(4):
            write_video(folder / label / f"{number}.avi", moving_texture(8, seed=number), codec="mjpeg")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def project(tmp_path, demo_values) -> Path:
    clips(tmp_path / "clips")
    values = miniature(demo_values)
    values["dataset"].update(name="folder", source=str(tmp_path / "clips"), splits=[1])
    return make_project(tmp_path / "project", values)


def refused(project: Path, *words: str, stage: str = "split") -> None:
    output = dvc(project, "repro", stage, check=False)
    (error,) = [line for line in output.splitlines() if line.startswith("ERROR: ")][:1]
    assert "Traceback" not in output
    for word in words:
        assert word in error


def test_clips_in_the_folder_of_a_stage_are_never_deleted(project):
    mine = clips(project / "data" / "videos")
    before = contents(mine)
    refused(project, "'data/videos/run/0.avi' and 7 more: not made by a stage", "dataset.source names")
    set_values(project, "dataset", source="clips")
    assert dvc(project, "repro", check=False) and contents(mine) == before  # the source is missing
    os.symlink("data/videos", project / "clips")
    refused(project, "dataset.source: 'clips' lies in 'data/videos' through the link 'clips'", "move the clips")
    assert "lies in 'data/videos'" in run(project, sys.executable, "-m", "twostream.cli", "check", check=False)
    assert "lies in 'data/videos'" in run(project, sys.executable, "-m", "twostream.cli", "doctor", check=False)
    assert contents(mine) == before


def test_only_files_that_no_stage_made_stop_a_run(project, tmp_path):
    assert ran(dvc(project, "repro", "split")) == ["download", "probe", "split"]
    made = contents(project / "data")

    (project / "data/videos/wave/.DS_Store").write_bytes(b"of a file browser")
    write_video(tmp_path / "clips/wave/9.avi", moving_texture(8, seed=9), codec="mjpeg")
    assert ran(dvc(project, "repro", "split")) == ["download", "probe", "split"]

    (project / "dvc.lock").unlink()  # as if DVC had been killed before it recorded the outputs
    shutil.rmtree(project / ".dvc/cache/files")
    assert ran(dvc(project, "repro", "split")) == ["download", "probe", "split"]

    shutil.rmtree(project / ".dvc/cache")  # to save space: the outputs still are what dvc.lock records
    (tmp_path / "clips/wave/9.avi").unlink()
    assert ran(dvc(project, "repro", "split")) == ["download", "probe", "split"]
    assert contents(project / "data") == made

    (project / "data/splits/mine.csv").write_text("my own split")
    refused(project, "'data/splits/mine.csv': not made by a stage", "dataset.table")
    (project / "data/splits/mine.csv").unlink()
    (project / "data/splits/1.csv").write_text("my own split")
    refused(project, "'data/splits/1.csv': not made by a stage")
    assert (project / "data/splits/1.csv").read_text() == "my own split"
    (project / "data/splits/1.csv").unlink()
    assert ran(dvc(project, "repro", "split")) == ["split"]
    assert contents(project / "data") == made


def test_files_in_a_folder_that_dvc_would_delete_are_never_deleted(project):
    stages = {"data/rgb": "extract_rgb", "metrics/explore": "explore"}
    for folder in stages:
        (project / folder).mkdir(parents=True)
        (project / folder / "notes.txt").write_text("mine")
    run(project, "dvc", "repro", "split")
    for folder, stage in stages.items():
        refused(project, f"'{folder}/notes.txt': not made by a stage", stage=stage)
    checked = run(project, sys.executable, "-m", "twostream.cli", "check", check=False)
    assert "'data/rgb/notes.txt' and 1 more: not made by a stage" in checked
    assert all((project / folder / "notes.txt").read_text() == "mine" for folder in stages)

    (project / "data/rgb/notes.txt").unlink()
    assert ran(run(project, "dvc", "repro", "extract_rgb")) == ["extract_rgb"]
    (project / "data/rgb/later.txt").write_text("added to what the stage made")
    refused(project, "'data/rgb/later.txt': not made by a stage", stage="extract_rgb")
