"""Sweeps, comparison and the way back: the README's commands word for word, every kind of source, and interruptions."""

from __future__ import annotations

import re
import shutil
import signal
from pathlib import Path

import pytest
from helpers import ROOT, moving_texture, write_video
from miniature import STOPPED, interrupted, make_project, miniature, ran, run, set_values, wait

pytestmark = pytest.mark.slow

README = (ROOT / "README.md").read_text()
WAY_BACK = "git checkout HEAD . && dvc checkout"


def _commands(heading: str) -> list[str]:
    """Return the lines of the shell block in a section of the README, without their comments."""
    section = README.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    (block,) = re.findall(r"```bash\n(.*?)```", section, re.DOTALL)
    return [re.sub(r" +# .*", "", line) for line in block.splitlines()]


@pytest.fixture
def project(built, tmp_path) -> Path:
    """Return a copy of the built project, to be changed."""
    return shutil.copytree(built, tmp_path / "project", symlinks=True)


def _results(project: Path) -> dict[str, bytes]:
    names = ("params.yaml", "dvc.lock", "metrics/metrics.json", "models/fusion-1.json", "data/fused/split1.npz")
    return {name: (project / name).read_bytes() for name in names}


def _queue_is_done(project: Path) -> bool:
    status = run(project, "dvc", "queue", "status")
    assert "Failed" not in status, status
    return not re.search("Queued|Running", status)


def test_every_command_of_sweeps_works_and_the_way_back_leads_back(project):
    committed = _results(project)
    commands = _commands("Sweep and compare")
    assert commands.index(WAY_BACK) > 0
    for command in commands:
        output = run(project, "bash", "-c", command)
        if command.startswith("dvc exp run -S"):
            assert set(ran(output)) == {"fuse@1", "fuse@2", "events@1", "events@2", "evaluate", "report"}
            assert all(_results(project)[name] != committed[name] for name in ("params.yaml", "dvc.lock"))
        elif command.startswith("dvc metrics diff"):
            assert (project / "dvc_plots" / "index.html").is_file()
        elif command == WAY_BACK:
            assert _results(project) == committed
            assert run(project, "git", "status", "--porcelain") == ""
            assert "up to date" in run(project, "dvc", "status")
        elif command.endswith("dvc queue start"):
            wait(lambda: _queue_is_done(project), seconds=200)
        elif command.startswith("dvc exp show"):
            assert "| logreg" in output and "fusion.method" in output and not re.search(r"[0-9a-f]{32}", output)
    assert _results(project) == committed


def test_an_interrupted_experiment_leaves_a_branch_to_return_to_and_results_to_restore(project):
    committed, branch = _results(project), run(project, "git", "branch", "--show-current")
    experiment, moment = ["dvc", "exp", "run", "-S", "flow.tvl1.preset=accurate"], "flow: cached"

    output = interrupted(project, signal.SIGINT, experiment, moment)
    assert output.count("stopped; finished work is kept") == 1 and STOPPED.search(output)
    assert "Traceback" not in output
    assert run(project, "git", "branch", "--show-current") == branch
    run(project, "bash", "-c", WAY_BACK)
    assert _results(project) == committed and "up to date" in run(project, "dvc", "status")

    interrupted(project, signal.SIGKILL, experiment, moment)
    assert run(project, "git", "branch", "--show-current") == ""
    assert "`git checkout -`" in " ".join(README.split())
    run(project, "git", "checkout", "-")
    assert run(project, "git", "branch", "--show-current") == branch
    (project / "data" / "flow").mkdir(exist_ok=True)
    (project / "data" / "flow" / "unfinished").write_text("as of a stage that was stopped later")
    assert "--force" in run(project, "bash", "-c", WAY_BACK, check=False)
    output = run(project, "dvc", "repro")
    assert ran(output) == ["extract_flow"] and "flow: 36 clips, 0 extracted, 36 from the cache" in output
    assert _results(project) == committed and run(project, "git", "status", "--porcelain") == ""


def test_experiments_in_temporary_workspaces_find_a_source_that_is_absolute_or_tracked(tmp_path, demo_values):
    for label in ("wave", "run"):
        for number in range(3):
            write_video(tmp_path / "clips" / label / f"{number}.avi", moving_texture(8, seed=number), codec="mjpeg")
    values = miniature(demo_values)
    values["dataset"].update(name="folder", source="../clips")
    project = make_project(tmp_path / "project", values)
    output = run(project, "dvc", "repro", "download")
    assert f"`--queue` will not find ../clips, which neither git nor DVC tracks; write {tmp_path / 'clips'}" in output

    experiment = ["dvc", "exp", "run", "-S", "dataset.max_unreadable=1"]
    set_values(project, "dataset", source=str(tmp_path / "clips"))
    run(project, "git", "commit", "-qam", "an absolute path")
    assert "Ran experiment" in run(project, *experiment, "--temp", "probe")

    shutil.copytree(tmp_path / "clips", project / "mine")
    set_values(project, "dataset", source="mine")
    for command in ("dvc add mine", "git add mine.dvc .gitignore", "git commit -qam tracked"):
        run(project, *command.split())
    for command in ([*experiment, "--queue", "probe"], ["dvc", "queue", "start"]):
        run(project, *command)
    wait(lambda: _queue_is_done(project))
