"""The pipeline through DVC on a miniature of the demo: what runs, what does not, and what survives a kill."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from miniature import (
    ENVIRONMENT,
    STOPPED,
    dvc,
    interrupted,
    make_project,
    miniature,
    processes_in,
    ran,
    run,
    set_values,
    wait,
)

pytestmark = pytest.mark.slow


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
    assert "Write data/clips.csv" in run(built, sys.executable, "stages/probe.py", "--help")
    assert "--stream" in run(built, sys.executable, "-m", "stages.train", "--help")


def test_a_second_run_runs_nothing_and_leaves_git_clean(built):
    assert ran(run(built, "dvc", "repro")) == []
    assert run(built, "git", "status", "--porcelain") == ""


def test_results_prints_every_stream_and_the_fusion(built):
    output = run(built, "twostream", "results")
    for name in ("spatial", "temporal", "fusion"):
        assert re.search(rf"^{name} +\d", output, re.MULTILINE)


def test_a_fresh_clone_stopped_and_killed_in_training_loses_no_finished_epoch_and_gives_the_same_bytes(
    built, tmp_path, demo_values
):
    clone = make_project(tmp_path / "clone", miniature(demo_values))
    output = interrupted(clone, signal.SIGINT, ["dvc", "repro"], "epoch 2/5")
    shown = len(re.findall(r"epoch \d/5:", output))
    assert shown < 5, "stopped too late to mean anything"
    # An epoch is shown after its state is saved, and the signal can come between the two.
    done = int(re.search(r"spatial: the next run starts with epoch (\d)\n", output)[1]) - 1
    assert done - shown in (0, 1)
    assert "\nstopped; finished work is kept: run the same command again to go on\n" in output
    assert STOPPED.search(output) and "Traceback" not in output

    output = interrupted(clone, signal.SIGKILL, ["dvc", "repro"], r"(?s)best epoch.*epoch 2/5")  # of the second split
    assert f"spatial: going on after epoch {done}\n" in output
    first, second = output.split("best epoch")
    assert len(re.findall(r"epoch \d/5:", first)) == 5 - done
    shown = len(re.findall(r"epoch \d/5:", second))
    assert shown < 5, "killed too late to mean anything"

    output = dvc(clone, "repro")
    done = int(re.search(r"spatial: going on after epoch (\d)\n", output)[1])
    assert done - shown in (0, 1)
    assert len(re.findall(r"epoch \d/5:", output)) == 5 - done
    first, second = (yaml.safe_load((project / "dvc.lock").read_text()) for project in (built, clone))
    assert first == second  # with the digest of every output
    assert (clone / "metrics" / "report.html").read_bytes() == (built / "metrics" / "report.html").read_bytes()


def test_a_kill_in_extraction_loses_no_finished_clip_and_leaves_no_process_behind(tmp_path, demo_values):
    values = miniature(demo_values)
    values["dataset"]["demo"].update(frames=25, width=160, height=120)
    values["flow"]["tvl1"]["preset"] = "accurate"  # slow enough to be killed in the middle
    project = make_project(tmp_path / "project", values)
    dvc(project, "repro", "probe")
    index = project / ".dvc" / "cache" / "twostream" / "index"
    # One of these shells replaces itself by the stage, the other waits for it.
    for bound, shell in enumerate(["/bin/sh", shutil.which("bash") or "/bin/sh"], start=8):
        set_values(project, "flow", bound=float(bound))  # so that the cache of the other shell serves nothing
        before = _count(index)
        environment = {**ENVIRONMENT, "SHELL": shell}
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        process = subprocess.Popen(["dvc", "repro", "extract_flow"], cwd=project, env=environment, **quiet)
        wait(lambda before=before: _count(index) >= before + 4)
        process.send_signal(signal.SIGKILL)
        process.wait()
        wait(lambda: not processes_in(project))
        finished = _count(index) - before
        assert finished < 36, "killed too late to mean anything"
        output = dvc(project, "repro", "extract_flow")
        assert f"flow: 36 clips, {36 - finished} extracted, {finished} from the cache" in output
        assert len(list((project / "data" / "flow").rglob("*.zip"))) == 36


def test_a_wrong_parameter_is_one_line_and_no_stage_starts_work(built):
    before = (built / "params.yaml").read_text()
    try:
        set_values(built, "flow", bound=-1)
        output = dvc(built, "repro", "extract_flow", check=False)
    finally:
        (built / "params.yaml").write_text(before)
    assert "ERROR: params.yaml: flow.bound: -1" in output and "Traceback" not in output


def _count(folder: Path) -> int:
    return sum(len(names) for _, _, names in os.walk(folder))
