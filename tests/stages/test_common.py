"""What all stages share: they end at a signal with one line and the documented exit code."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT
from miniature import heed_ctrl_c

from stages.common import run
from twostream.errors import UserError

STAGE = """
import time
from stages.common import run
{slow_import}
def work(params):
    try:
        print("started", flush=True)
        time.sleep(60)
    except Exception:
        print("taken for an error of the library", flush=True)
if __name__ == "__main__":
    run(work)
"""


def _stopped(folder: Path, name: signal.Signals, slow_import: str = "") -> tuple[int, str]:
    """Run a stage as `python -m stages.NAME`, send a signal once it works, and return its exit code and its words."""
    (folder / "stages").mkdir()
    for module in ("__init__", "common"):
        (folder / "stages" / f"{module}.py").write_bytes((ROOT / "stages" / f"{module}.py").read_bytes())
    (folder / "stages" / "slow.py").write_text(STAGE.format(slow_import=slow_import))
    (folder / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    stage = subprocess.Popen(
        [sys.executable, "-m", "stages.slow"],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=heed_ctrl_c,
    )
    assert stage.stdout.readline() == "started\n"
    stage.send_signal(name)
    output, _ = stage.communicate(timeout=30)
    return stage.returncode, output


@pytest.mark.parametrize("name, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_stage_says_in_one_line_how_to_go_on(tmp_path, name, code):
    stopped = "stopped; finished work is kept: run the same command again to go on\n"
    assert _stopped(tmp_path, name) == (code, stopped)


def test_a_stage_can_be_stopped_while_it_still_imports(tmp_path):
    code, output = _stopped(tmp_path, signal.SIGINT, slow_import='print("started", flush=True); time.sleep(60)')
    assert code == 130 and output.startswith("stopped;") and output.count("\n") == 1


def test_an_error_of_the_disk_is_one_line_and_another_keeps_its_traceback(capsys, monkeypatch):
    def fails(number):
        def work(params):
            raise OSError(number, os.strerror(number), "data/x")

        return work

    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["stage"])
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    with pytest.raises(SystemExit):
        run(fails(errno.ENOSPC))
    line = "ERROR: No space left on device ('data/x'); finished work is kept: run again when that is fixed\n"
    assert capsys.readouterr().err == line
    with pytest.raises(FileNotFoundError):
        run(fails(errno.ENOENT))


def test_an_error_in_a_process_of_a_loader_is_the_line_of_the_user():
    wrapped = (
        "Caught UserError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n  File ...\n"
    )
    assert str(UserError(f"{wrapped}twostream.errors.UserError: clip.zip: damaged\n")) == "clip.zip: damaged"
