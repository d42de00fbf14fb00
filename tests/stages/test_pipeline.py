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
    """One spatial and one temporal stream, an epoch each, on 36 clips and two splits."""
    values = copy.deepcopy(values)
    values["dataset"]["splits"] = [1, 2]
    values["dataset"]["demo"].update(groups=4, takes=1, frames=10, width=64, height=48)
    values["dataset"]["val_fraction"] = 0.34
    values["train"].update(rgb=["spatial"], flow=["temporal"])
    for stream in values["streams"].values():
        stream.update(size=32, epochs=1, patience=1, batch_size=9)
        stream["sampling"].update(frames=min(4, stream["sampling"]["frames"]))
    values["score"].update(segments=2)
    values["evaluate"].update(bootstrap=100)
    values["report"].update(examples=2)
    values["runtime"].update(workers=2)
    return values


def _project(folder: Path, values: dict) -> Path:
    """A fresh clone of what git tracks, with the miniature's parameters committed and nothing built."""
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


def _run(project: Path, *command: str, check: bool = True) -> str:
    done = subprocess.run(command, cwd=project, env=ENVIRONMENT, capture_output=True, text=True)
    output = done.stdout + done.stderr
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


def test_a_change_of_fusion_reruns_only_what_follows_and_changing_back_runs_nothing(built):
    before = (built / "params.yaml").read_text()
    _set(built, "fusion", method="average")
    assert _ran(_run(built, "dvc", "repro")) == ["fuse@1", "fuse@2", "evaluate", "report"]
    (built / "params.yaml").write_text(before)
    assert _ran(_run(built, "dvc", "repro")) == []
    assert _run(built, "git", "status", "--porcelain") == ""


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


@pytest.mark.parametrize(
    "module, first, spared",
    [
        (
            "twostream/fusion/methods.py",
            "fuse@1",
            {"extract_rgb", "extract_flow", "train_rgb@spatial-1", "score_rgb@spatial-1"},
        ),
        ("twostream/flow/tvl1/cpu.py", "extract_flow", {"download", "probe", "extract_rgb", "train_rgb@spatial-1"}),
        (
            "twostream/streams/scoring.py",
            "score_rgb@spatial-1",
            {"extract_flow", "train_rgb@spatial-1", "train_flow@temporal-1"},
        ),
    ],
)
def test_editing_a_module_reruns_what_it_concerns(built, module, first, spared):
    before = (built / module).read_text()
    try:
        (built / module).write_text(before + "\nEDITED = True\n")
        planned = _ran(_run(built, "dvc", "repro", "--dry"))
    finally:
        (built / module).write_text(before)
    assert planned[0] == first
    assert not set(planned) & spared


def test_an_experiment_can_be_run_shown_and_compared(built):
    _run(built, "dvc", "exp", "run", "-S", "fusion.method=average", "--name", "averaged")
    assert "averaged" in _run(built, "dvc", "exp", "show", "--csv")
    assert "fusion" in _run(built, "dvc", "params", "diff")
    assert "fusion.top1" in _run(built, "dvc", "metrics", "diff", "--all", "--md")
    plots = _run(built, "dvc", "plots", "diff", "HEAD", "--json")
    assert "metrics/curves.csv" in plots and '"errors"' not in plots
    _run(built, "git", "checkout", "-q", ".")
    assert _ran(_run(built, "dvc", "repro")) == []


def test_a_fresh_clone_gives_the_same_lock_byte_for_byte(built, tmp_path, demo_values):
    other = _project(tmp_path / "other", _miniature(demo_values))
    _run(other, "dvc", "repro")
    assert (other / "dvc.lock").read_bytes() == (built / "dvc.lock").read_bytes()
    assert (other / "metrics" / "report.html").read_bytes() == (built / "metrics" / "report.html").read_bytes()


@pytest.mark.parametrize("shell", ["/bin/sh", shutil.which("bash") or "/bin/sh"])  # one execs the stage, one stays
def test_a_kill_in_extraction_loses_no_finished_clip_and_leaves_nobody_behind(tmp_path, demo_values, shell):
    values = _miniature(demo_values)
    values["dataset"]["demo"].update(frames=60, width=160, height=120)
    values["flow"]["tvl1"]["preset"] = "accurate"  # slow enough to be killed in the middle
    project = _project(tmp_path / "project", values)
    _run(project, "dvc", "repro", "probe")
    process = subprocess.Popen(
        ["dvc", "repro", "extract_flow"],
        cwd=project,
        env={**ENVIRONMENT, "SHELL": shell},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    index = project / ".dvc" / "cache" / "twostream" / "index"
    finished = _wait(lambda: _count(index) >= 4 and _count(index))
    process.send_signal(signal.SIGKILL)
    process.wait()
    _wait(lambda: not _stages_of(project))
    finished = _count(index)
    assert finished < 36, "killed too late to mean anything"
    output = _run(project, "dvc", "repro", "extract_flow")
    assert f"flow: 36 clips, {36 - finished} extracted, {finished} from the cache" in output
    assert len(list((project / "data" / "flow").rglob("*.zip"))) == 36


def test_a_kill_in_training_costs_no_finished_epoch_and_no_byte(tmp_path, demo_values):
    values = _miniature(demo_values)
    values["streams"]["spatial"].update(epochs=5, patience=5)
    stage = "train_rgb@spatial-1"
    whole = _project(tmp_path / "whole", values)
    _run(whole, "dvc", "repro", stage)
    cut = _project(tmp_path / "cut", values)
    with open(tmp_path / "log", "w") as log:
        process = subprocess.Popen(["dvc", "repro", stage], cwd=cut, env=ENVIRONMENT, stdout=log, stderr=log)
        _wait(lambda: "epoch 2/5" in (tmp_path / "log").read_text())
        process.send_signal(signal.SIGKILL)
        process.wait()
    _wait(lambda: not _stages_of(cut))
    done = len(re.findall(r"^epoch \d", (tmp_path / "log").read_text(), re.MULTILINE))
    assert done < 5, "killed too late to mean anything"
    output = _run(cut, "dvc", "repro", stage)
    assert f"spatial: going on after epoch {done}" in output
    assert len(re.findall(r"^epoch \d", output, re.MULTILINE)) == 5 - done
    assert (cut / "dvc.lock").read_bytes() == (whole / "dvc.lock").read_bytes()


def test_a_wrong_parameter_is_one_line_and_no_stage_starts_work(built):
    before = (built / "params.yaml").read_text()
    try:
        _set(built, "flow", bound=-1)
        output = _run(built, "dvc", "repro", "extract_flow", check=False)
    finally:
        (built / "params.yaml").write_text(before)
    assert "ERROR: params.yaml: flow.bound: -1" in output and "Traceback" not in output
    assert _ran(_run(built, "dvc", "repro")) == []


def _count(folder: Path) -> int:
    return sum(len(names) for _, _, names in os.walk(folder))


def _wait(condition, seconds: float = 60):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if found := condition():
            return found
        time.sleep(0.05)
    pytest.fail("waited in vain")


def _stages_of(project: Path) -> list[str]:
    """Processes that still work in the project."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if os.path.samefile(f"/proc/{pid}/cwd", project):
                found.append(pid)
        except OSError:
            continue
    return found
