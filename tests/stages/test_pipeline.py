"""The pipeline through DVC on a miniature of the demo: what runs, what does not, and what survives a kill."""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from helpers import ROOT

pytestmark = pytest.mark.slow

ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "DVC_ROOT", "DVC_STAGE")},
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    "GIT_AUTHOR_NAME": "test",
    "GIT_AUTHOR_EMAIL": "test@example.org",
    "GIT_COMMITTER_NAME": "test",
    "GIT_COMMITTER_EMAIL": "test@example.org",
    "DVC_NO_ANALYTICS": "1",
}


def _miniature(values: dict) -> dict:
    """Return parameters of two small streams on 36 clips and two splits; `spatial` trains long enough to be killed."""
    values = copy.deepcopy(values)
    values["dataset"]["splits"] = [1, 2]
    values["dataset"]["demo"].update(groups=4, takes=1, frames=10, width=64, height=48)
    values["dataset"]["val_fraction"] = 0.34
    values["train"].update(rgb=["spatial"], flow=["temporal"])
    for stream in values["streams"].values():
        stream.update(size=32, epochs=1, patience=1, batch_size=9)
        stream["sampling"].update(frames=min(4, stream["sampling"]["frames"]))
    values["streams"]["spatial"].update(epochs=5, patience=5)
    values["score"].update(segments=2)
    values["evaluate"].update(bootstrap=100)
    values["report"].update(examples=2)
    values["runtime"].update(workers=2)
    return values


def _project(folder: Path, values: dict) -> Path:
    """Make a fresh clone of what git tracks, with these parameters committed and no results."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        if name.startswith(("tests/", "metrics/", "models/")) and not name.endswith(".gitignore"):
            continue
        if name != "dvc.lock" and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    (folder / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    for command in (["git", "init", "-q"], ["git", "add", "-A"], ["git", "commit", "-qm", "miniature"]):
        subprocess.run(command, cwd=folder, check=True, env=ENVIRONMENT)
    return folder


def _run(project: Path, *command: str, check: bool = True, stdout_only: bool = False) -> str:
    done = subprocess.run(command, cwd=project, env=ENVIRONMENT, capture_output=True, text=True)
    output = done.stdout if stdout_only else done.stdout + done.stderr
    assert not check or done.returncode == 0, output
    return output


def _ran(output: str) -> list[str]:
    return re.findall(r"Running stage '([^']+)'", output)


def _set(project: Path, section: str, **changes: object) -> None:
    values = yaml.safe_load((project / "params.yaml").read_text())
    values[section].update(changes)
    (project / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False))


@pytest.fixture(scope="module")
def built(tmp_path_factory, demo_values) -> Path:
    project = _project(tmp_path_factory.mktemp("project"), _miniature(demo_values))
    output = _run(project, "dvc", "repro")
    assert len(_ran(output)) == 18
    _run(project, "git", "add", "-A")
    _run(project, "git", "commit", "-qm", "results")
    return project


def test_one_command_gives_streams_fusion_metrics_and_a_report(built):
    metrics = json.loads((built / "metrics" / "metrics.json").read_text())
    for name in ("spatial", "temporal", "fusion"):
        assert set(metrics[name]) >= {"top1", "top5", "mean_class_accuracy", "top1_low", "top1_high"}
        assert 0 <= metrics[name]["top1_low"] <= metrics[name]["top1"] <= metrics[name]["top1_high"] <= 1
        assert metrics[name]["top1"] == pytest.approx(_mean_over_splits(built, name), abs=1e-6)
    assert set(metrics["fusion_gain"]) == {"top1", "low", "high"}
    assert metrics["clips"] == {"total": 36, "unreadable": 0, "missing": 0}
    for name in ("models/spatial-1/model.pt", "models/temporal-1/config.json", "models/fusion-1.json"):
        assert (built / name).is_file()
    assert (built / "metrics" / "report.html").stat().st_size > 50_000


def _mean_over_splits(project: Path, name: str) -> float:
    """Top-1 on the test clips, counted from the scores themselves."""
    accuracies = []
    for n in (1, 2):
        path = f"data/fused/split{n}.npz" if name == "fusion" else f"data/scores/split{n}/{name}.npz"
        with np.load(project / path) as scores:
            tested = scores["subset"] == "test"
            accuracies.append((scores["logits"][tested].argmax(1) == scores["label"][tested]).mean())
    return float(np.mean(accuracies))


def test_a_stage_is_a_script_that_explains_itself(built):
    assert "Write data/clips.csv" in _run(built, sys.executable, "stages/probe.py", "--help")
    assert "--stream" in _run(built, sys.executable, "-m", "stages.train", "--help")


def test_a_second_run_runs_nothing_and_leaves_git_clean(built):
    assert _ran(_run(built, "dvc", "repro")) == []
    assert _run(built, "git", "status", "--porcelain") == ""


def test_results_prints_every_stream_and_the_fusion(built):
    output = _run(built, "twostream", "results")
    for name in ("spatial", "temporal", "fusion"):
        assert re.search(rf"^{name} +\d", output, re.MULTILINE)


@pytest.mark.parametrize("section, change", [("dataset", {"val_fraction": 0.4}), (None, {"seed": 1})])
def test_another_seed_or_part_of_validation_decodes_nothing(built, section, change):
    before = (built / "params.yaml").read_text()
    values = yaml.safe_load(before)
    (values[section] if section else values).update(change)
    try:
        (built / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
        planned = _ran(_run(built, "dvc", "repro", "--dry", "extract_rgb", "split"))
    finally:
        (built / "params.yaml").write_text(before)
    assert planned == ["split"]


def test_editing_a_module_reruns_the_stages_that_it_shapes_and_no_others(built):
    stages = {
        "twostream/fusion/methods.py": {"fuse@1", "fuse@2"},
        "twostream/flow/tvl1/cpu.py": {"extract_flow"},
        "twostream/streams/scoring.py": {
            *("score_rgb@spatial-1", "score_rgb@spatial-2", "score_flow@temporal-1", "score_flow@temporal-2"),
        },
    }
    before = {module: (built / module).read_text() for module in stages}
    try:
        for module, text in before.items():
            (built / module).write_text(text + "\nEDITED = True\n")
        status = json.loads(_run(built, "dvc", "status", "--json", stdout_only=True))
    finally:
        for module, text in before.items():
            (built / module).write_text(text)
    for module, expected in stages.items():
        folders = [module, *map(str, Path(module).parents)]
        changed = {
            name
            for name, changes in status.items()
            for change in changes
            if isinstance(change, dict) and set(change.get("changed deps", {})) & set(folders)
        }
        assert changed == expected


def test_an_experiment_runs_what_its_parameter_concerns_can_be_compared_and_set_back_for_nothing(built):
    output = _run(built, "dvc", "exp", "run", "-S", "fusion.method=average", "--name", "averaged")
    assert _ran(output) == ["fuse@1", "fuse@2", "evaluate", "report"]
    assert "averaged" in _run(built, "dvc", "exp", "show", "--csv")
    assert "fusion" in _run(built, "dvc", "params", "diff")
    assert "fusion.top1" in _run(built, "dvc", "metrics", "diff", "--all", "--md")
    plots = _run(built, "dvc", "plots", "diff", "HEAD", "--json")
    assert "metrics/curves.csv" in plots and '"errors"' not in plots
    _run(built, "git", "checkout", "-q", ".")
    assert _ran(_run(built, "dvc", "repro")) == []
    assert _run(built, "git", "status", "--porcelain") == ""


def test_a_fresh_clone_killed_in_training_loses_no_finished_epoch_and_gives_the_same_bytes(
    built, tmp_path, demo_values
):
    clone = _project(tmp_path / "clone", _miniature(demo_values))
    with open(tmp_path / "log", "w") as log:
        process = subprocess.Popen(["dvc", "repro"], cwd=clone, env=ENVIRONMENT, stdout=log, stderr=log)
        _wait(lambda: "epoch 2/5" in (tmp_path / "log").read_text(), seconds=300)
        process.send_signal(signal.SIGKILL)
        process.wait()
    _wait(lambda: not _stages_of(clone))
    done = len(re.findall(r"^epoch \d", (tmp_path / "log").read_text(), re.MULTILINE))
    assert done < 5, "killed too late to mean anything"
    output = _run(clone, "dvc", "repro")
    assert re.search(rf"spatial: .*after epoch {done}$", output, re.MULTILINE)
    assert len(re.findall(r"^epoch \d/5", output, re.MULTILINE)) == 5 - done + 5  # of the first and the second split
    assert (clone / "dvc.lock").read_bytes() == (built / "dvc.lock").read_bytes()
    assert (clone / "metrics" / "report.html").read_bytes() == (built / "metrics" / "report.html").read_bytes()


def test_a_kill_in_extraction_loses_no_finished_clip_and_leaves_no_process_behind(tmp_path, demo_values):
    values = _miniature(demo_values)
    values["dataset"]["demo"].update(frames=60, width=160, height=120)
    values["flow"]["tvl1"]["preset"] = "accurate"  # slow enough to be killed in the middle
    project = _project(tmp_path / "project", values)
    _run(project, "dvc", "repro", "probe")
    index = project / ".dvc" / "cache" / "twostream" / "index"
    # One of these shells replaces itself by the stage, the other waits for it.
    for bound, shell in enumerate(["/bin/sh", shutil.which("bash") or "/bin/sh"], start=8):
        _set(project, "flow", bound=float(bound))  # so that the cache of the other shell serves nothing
        before = _count(index)
        environment = {**ENVIRONMENT, "SHELL": shell}
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        process = subprocess.Popen(["dvc", "repro", "extract_flow"], cwd=project, env=environment, **quiet)
        _wait(lambda before=before: _count(index) >= before + 4)
        process.send_signal(signal.SIGKILL)
        process.wait()
        _wait(lambda: not _stages_of(project))
        finished = _count(index) - before
        assert finished < 36, "killed too late to mean anything"
        output = _run(project, "dvc", "repro", "extract_flow")
        assert f"flow: 36 clips, {36 - finished} extracted, {finished} from the cache" in output
        assert len(list((project / "data" / "flow").rglob("*.zip"))) == 36


def test_a_wrong_parameter_is_one_line_and_no_stage_starts_work(built):
    before = (built / "params.yaml").read_text()
    try:
        _set(built, "flow", bound=-1)
        output = _run(built, "dvc", "repro", "extract_flow", check=False)
    finally:
        (built / "params.yaml").write_text(before)
    assert "ERROR: params.yaml: flow.bound: -1" in output and "Traceback" not in output


def _count(folder: Path) -> int:
    return sum(len(names) for _, _, names in os.walk(folder))


def _wait(condition, seconds: float = 60):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if found := condition():
            return found
        time.sleep(0.05)
    pytest.fail(f"nothing happened within {seconds:g} s")


def _stages_of(project: Path) -> list[str]:
    """Return the ids of the processes that still run in the project."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if os.path.samefile(f"/proc/{pid}/cwd", project):
                found.append(pid)
        except OSError:
            continue
    return found
