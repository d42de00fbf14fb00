"""A miniature of the project for tests of DVC: few small clips, small networks, a git repository of its own."""

from __future__ import annotations

import copy
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import yaml
from forked import run_module
from helpers import ROOT

ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "DVC_ROOT", "DVC_STAGE")},
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    "GIT_AUTHOR_NAME": "test",
    "GIT_AUTHOR_EMAIL": "test@example.org",
    "GIT_COMMITTER_NAME": "test",
    "GIT_COMMITTER_EMAIL": "test@example.org",
    "DVC_NO_ANALYTICS": "1",
    "OMP_NUM_THREADS": "1",  # as `forked.py` has it: the number decides the order of sums, and so the bytes
}


def miniature(values: dict) -> dict:
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


def make_project(folder: Path, values: dict) -> Path:
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


def run(project: Path, *command: str, check: bool = True, stdout_only: bool = False) -> str:
    done = subprocess.run(command, cwd=project, env=ENVIRONMENT, capture_output=True, text=True)
    output = done.stdout if stdout_only else done.stdout + done.stderr
    assert not check or done.returncode == 0, output
    return output


def dvc(project: Path, *arguments: str, check: bool = True) -> str:
    """Run DVC as `forked.py` does, in a seventh of the time of `run`; no shell is involved."""
    code, output = run_module(project, ENVIRONMENT, "dvc", *arguments)
    assert not check or code == 0, output
    return output


def ran(output: str) -> list[str]:
    return re.findall(r"Running stage '([^']+)'", output)


def set_values(project: Path, section: str, **changes: object) -> None:
    values = yaml.safe_load((project / "params.yaml").read_text())
    values[section].update(changes)
    (project / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False))


# How DVC reports a stage that Ctrl-C stopped: bash returns the stage's own 130, dash (SHELL unset) dies of the signal.
STOPPED = re.compile(r"exited with (130|-2)\b")


def interrupted(project: Path, name: signal.Signals, command: list[str], moment: str) -> str:
    """Run a command, send a signal once its output matches a pattern, and return the output when all processes ended.

    SIGINT goes to all processes, as Ctrl-C in a terminal does; other signals go to the command alone.
    """
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            command,
            cwd=project,
            env=ENVIRONMENT,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=heed_ctrl_c,
        )

        def written() -> str:
            return os.pread(log.fileno(), 10**7, 0).decode()

        wait(lambda: re.search(moment, written()), seconds=300)
        if name == signal.SIGINT:
            os.killpg(process.pid, name)
        else:
            process.send_signal(name)
        process.wait()
        wait(lambda: not processes_in(project))
        return written()


def heed_ctrl_c() -> None:
    """In a new process: end at SIGINT even if the tests run in the background of a script, which ignores it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def wait(condition, seconds: float = 60):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if found := condition():
            return found
        time.sleep(0.05)
    pytest.fail(f"nothing happened within {seconds:g} s")


def processes_in(project: Path) -> list[str]:
    """Return the ids of the processes that still run in the project."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if os.path.samefile(f"/proc/{pid}/cwd", project):
                found.append(pid)
        except OSError:
            continue
    return found
