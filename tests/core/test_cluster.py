"""Work spread over a Dask cluster of separate processes."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import ROOT
from random_models import make_models

from twostream.clipstore import write_clip
from twostream.core import cluster
from twostream.core.cache import FileCache
from twostream.core.parallel import unordered
from twostream.errors import UserError
from twostream.networks.registry import create_model
from twostream.params import Runtime, Score, Stream
from twostream.streams.features import FrozenStream
from twostream.streams.scoring import score_clips
from twostream.views.examples import Example

pytest.importorskip("distributed", reason="distributed is not installed: pip install 'distributed==2026.8.0'")
pytestmark = pytest.mark.slow


def slow_square(item: int) -> tuple[int, str, int]:
    """Also say where it ran, and leave a trace of every run."""
    time.sleep(0.05)
    with open(f"run-{item}", "a") as file:
        file.write(".")
    return item * item, os.getcwd(), os.getpid()


def die(item: int) -> None:
    os._exit(1)


@contextlib.contextmanager
def dask(*command: str, folder: Path, **environment: str):
    process = subprocess.Popen(
        [sys.executable, "-m", "distributed.cli." + command[0], *command[1:]],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}:{ROOT / 'tests/core'}", **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture
def scheduler(tmp_path, monkeypatch):
    file = tmp_path / "scheduler.json"
    arguments = ["--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(file)]
    with dask("dask_scheduler", *arguments, folder=tmp_path):
        while not file.exists():
            time.sleep(0.05)
        monkeypatch.setenv(cluster.VARIABLE, str(file))
        monkeypatch.chdir(tmp_path)
        yield file


def worker(scheduler: Path, folder: Path, **environment: str):
    arguments = ["--scheduler-file", str(scheduler), "--nthreads", "1", "--no-dashboard", "--no-nanny"]
    return dask("dask_worker", *arguments, folder=folder, **environment)


def test_every_item_is_done_once_on_several_workers_in_this_folder(scheduler, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    with worker(scheduler, tmp_path), worker(scheduler, elsewhere):
        time.sleep(3)  # until both are there
        results = list(unordered(slow_square, list(range(40)), workers=1, what="test"))
    assert sorted(result[0] for result in results) == [item * item for item in range(40)]
    assert {result[1] for result in results} == {str(tmp_path)}
    assert len({result[2] for result in results} - {os.getpid()}) == 2
    assert {Path(f"run-{item}").read_text() for item in range(40)} == {"."}


def test_the_items_of_a_killed_worker_are_done_by_others(scheduler, tmp_path):
    with worker(scheduler, tmp_path) as first, worker(scheduler, tmp_path):
        results = unordered(slow_square, list(range(60)), workers=1, what="test")
        done = [next(results)]
        first.kill()
        done += results
    assert sorted(result[0] for result in done) == [item * item for item in range(60)]
    again = sum(len(Path(f"run-{item}").read_text()) - 1 for item in range(60))
    assert again <= 2 * cluster._MOST_PER_TASK, "only what the killed worker had is repeated"


def test_items_that_kill_every_worker_are_one_line(scheduler, tmp_path, monkeypatch):
    with contextlib.ExitStack() as workers:
        for _ in range(5):
            workers.enter_context(worker(scheduler, tmp_path))
        with pytest.raises(UserError, match="workers of the cluster died again and again"):
            list(unordered(die, [1], workers=1, what="test"))


def test_a_worker_that_does_not_see_the_folder_is_named(scheduler, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster.secrets, "token_hex", lambda size: "mark")
    monkeypatch.setattr(Path, "touch", lambda self: None)  # as if the file were on this machine alone
    monkeypatch.setattr(Path, "unlink", lambda self: None)
    with worker(scheduler, tmp_path), pytest.raises(UserError, match=re.escape(f"does not see the folder {tmp_path}")):
        list(unordered(slow_square, [1], workers=1, what="test"))


@pytest.mark.parametrize("content", ["", "raise ImportError('old')"])
def test_a_worker_with_other_code_is_named(scheduler, tmp_path, content):
    (tmp_path / "twostream/core").mkdir(parents=True)
    for name in ("__init__", "core/__init__", "core/cluster", "errors"):
        (tmp_path / f"twostream/{name}.py").write_text(content)
    with (
        worker(scheduler, tmp_path, PYTHONPATH=str(tmp_path)),
        pytest.raises(UserError, match="does not have this ver"),
    ):
        list(unordered(slow_square, [1], workers=1, what="test"))


def test_a_scheduler_that_is_not_there_is_one_line(monkeypatch):
    monkeypatch.setattr(cluster, "_ANSWER_S", 2)
    monkeypatch.setenv(cluster.VARIABLE, "tcp://127.0.0.1:9")
    with pytest.raises(UserError, match=r"no scheduler answers at 'tcp://127\.0\.0\.1:9'"):
        list(unordered(slow_square, [1], workers=1, what="test"))


RUNTIME = Runtime(workers=1, accelerator="cpu", devices=1)
SAMPLING = {"mode": "segments", "segments": 2, "frames": 4, "stride": 1}


def test_scores_and_features_are_the_same_bytes_as_on_this_machine(scheduler, tmp_path, demo_values, monkeypatch):
    model = make_models(tmp_path / "models") / "spatial-1"
    torch.manual_seed(0)
    network = create_model("cnn3d_v2", modality="rgb", classes=5, frames=4, input_size=16)
    torch.save(network.network.state_dict(), tmp_path / "start.pt")
    stream = Stream.model_validate({**demo_values["streams"]["cnn3d_v2"], "size": 16, "sampling": SAMPLING})
    stream = stream.model_copy(update={"tune": "head", "weights": "start.pt"})
    examples = []
    for number in range(6):
        frames = np.random.default_rng(number).integers(0, 256, (9, 24, 32, 3), np.uint8)
        write_clip(tmp_path / f"{number}.zip", frames, 90, {"modality": "rgb"})
        examples.append(Example(f"a/{number}", Path(f"{number}.zip"), 0))

    def computed(cache: str):
        score = Score(segments=2, crops=1, flip=True)
        logits = score_clips(model.relative_to(tmp_path), examples, score, RUNTIME, Path(cache))[1]
        frozen = FrozenStream("v2", stream, "rgb", RUNTIME, FileCache(cache, None))
        return logits, frozen.features(examples)

    with worker(scheduler, tmp_path), worker(scheduler, tmp_path):
        remote = computed("on the cluster")
    monkeypatch.delenv(cluster.VARIABLE)
    for here, there in zip(computed("here"), remote, strict=True):
        assert here.tobytes() == there.tobytes()
        assert len(np.unique(here, axis=0)) == len(examples)
