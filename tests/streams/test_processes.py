"""Two processes on a CPU train one stream together, as the GPUs of several machines do; they exchange by gloo."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from miniature import ENVIRONMENT

pytestmark = pytest.mark.slow

STREAM = {"epochs": 3, "patience": 3, "batch_size": 2, "dropout": 0.0, "freeze_bn": "all"}
MODEL = Path("models/cnn3d_v2-1")


def test_two_processes_train_what_one_does_and_go_on_after_one_was_killed(small_project):
    small_project.restore()
    small_project.set({"streams": {"cnn3d_v2": STREAM}})
    small_project.repro("extract_rgb")
    output = _finish(_start(small_project))
    assert output.count("epoch 3/3: ") == 1, "one process prints"
    config, history, weights = _results(small_project)
    assert small_project.repro("train_rgb").epochs == (0, 0), "dvc repro takes it from the cache"

    _forget(small_project)
    code, output = small_project.run("stages.train", "--stream", "cnn3d_v2", "--split", "1")
    assert code == 0 and "epoch 3/3: " in output, output
    config_of_one, history_of_one, weights_of_one = _results(small_project)
    assert config_of_one["key"] == config["key"]
    assert len(history) == len(history_of_one) == 3
    for row, row_of_one in zip(history, history_of_one, strict=True):
        assert row == pytest.approx(row_of_one, abs=1e-4)
    for name, value in torch.load(io.BytesIO(weights)).items():
        torch.testing.assert_close(value, torch.load(io.BytesIO(weights_of_one))[name], rtol=1e-3, atol=1e-4)

    _forget(small_project)
    process = _start(small_project)
    assert process.stdout
    for line in process.stdout:
        if line.startswith("epoch 1/3: "):
            break
    os.kill(_process_of("1", process.pid), signal.SIGKILL)
    process.communicate(timeout=300)
    assert process.returncode != 0, "torchrun ends the others"
    output = _finish(_start(small_project))
    assert "cnn3d_v2: going on after epoch " in output and "epoch 1/3: " not in output
    assert _results(small_project)[2] == weights


def _start(project) -> subprocess.Popen[str]:
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "stages.train"]
    return subprocess.Popen(
        [sys.executable, *command, "--stream", "cnn3d_v2", "--split", "1"],
        cwd=project.folder,
        env={**os.environ, **ENVIRONMENT, "DVC_SITE_CACHE_DIR": str(project.top / "site")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _finish(process: subprocess.Popen[str]) -> str:
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 0, output
    return output


def _results(project) -> tuple[dict, list[dict], bytes]:
    folder = project.folder / MODEL
    config, history = (json.loads((folder / name).read_text()) for name in ("config.json", "history.json"))
    return config, history, (folder / "model.pt").read_bytes()


def _forget(project) -> None:
    """Delete the model, and what the caches keep of it."""
    for folder in ("models", ".dvc/cache"):
        shutil.rmtree(project.folder / folder)


def _process_of(rank: str, parent: int) -> int:
    """Return the child of a process whose variable RANK has this value."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    for child in map(int, children):
        if f"RANK={rank}".encode() in Path(f"/proc/{child}/environ").read_bytes().split(b"\0"):
            return child
    raise AssertionError(f"no process of rank {rank} among {children}")
