"""The project that is tortured: its states, and what an undisturbed run gives."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch
import yaml
from forked import start_module
from miniature import ENVIRONMENT, processes_in, run
from small_project import prepare

from torture.ledger import Lost, Wrong
from twostream.networks.registry import create_model

MOST_SECONDS = 600  # of one run, also on a machine that is busy
SIZE_MB = 160  # of the file system that the project lies on
STATES = {  # by name, the stages that have run
    "new": (),
    "listed": ("split", "explore"),
    "extracted": ("extract_rgb", "extract_flow"),
    "evaluated": ("evaluate",),
    "built": (),
}
OUTPUTS = ("data", "models", "metrics")
CUT_SHORT = {  # what DVC says of a file that it wrote in place, and the file
    "Unable to read RWLock-file": ".dvc/tmp/rwlock",
    "dvc.lock' validation failed": "dvc.lock",
}


class Project:
    """A project in `top / "now"`, where possible a small file system in memory, and its states in `top / "states"`."""

    def __init__(self, top: Path, values: dict):
        self.top, self.name = top, "project"
        (top / "now").mkdir(parents=True)
        self.is_mounted = mount("-t", "tmpfs", "-o", f"size={SIZE_MB}m", "tmpfs", str(top / "now"))
        project = prepare(top, values)
        torch.manual_seed(0)
        network = create_model("cnn3d_v2", modality="rgb", classes=2, frames=4, input_size=16)
        torch.save(network.state_dict(), self.folder / "data/weights/start.pt")
        project.set({"streams": {name: {"epochs": 3, "patience": 3} for name in ("cnn3d_v2", "flow3d")}})
        project.set({"streams": {"cnn3d_v2": {"weights": "data/weights/start.pt"}}})
        for command in (["add", "data/weights/start.pt"], ["commit", "-qam", "torture"], ["gc", "-q"]):
            run(self.folder, "git", *command)
        (top / "states").mkdir()
        started = time.monotonic()
        for name, stages in STATES.items():
            if name != "new":
                self.finish(*stages)
            subprocess.run(["cp", "-a", top / "now", top / "states" / name], check=True)
        self.seconds = time.monotonic() - started  # of a full run
        self.undisturbed = self.outputs()

    @property
    def folder(self) -> Path:
        return self.top / "now" / self.name

    @property
    def clips(self) -> Path:
        return self.top / "now" / "clips"

    def close(self) -> None:
        if self.is_mounted:
            subprocess.run(["umount", "--lazy", self.top / "now"], check=False)

    def restore(self, state: str) -> None:
        """Set the project back to a state; everything in `now` goes."""
        for entry in (self.top / "now").iterdir():
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        subprocess.run(["cp", "-a", f"{self.top}/states/{state}/.", self.top / "now"], check=True)

    @contextlib.contextmanager
    def started(self, *command: str, **environment: str) -> Iterator[Run]:
        """Run `python -m command` in the project; when the block ends, the run has ended or is killed."""
        with tempfile.NamedTemporaryFile("r") as log:
            values = {**ENVIRONMENT, "DVC_SITE_CACHE_DIR": str(self.top / "site"), **environment}
            begun = Run(start_module(self.folder, values, log.name, *command), Path(log.name))
            try:
                yield begun
                begun.wait()
            finally:
                begun.signal(signal.SIGKILL, "group")
                begun.process.join()

    def run(self, *command: str, **environment: str) -> tuple[int, str]:
        """Return exit code and output of `python -m command` in the project."""
        with self.started(*command, **environment) as begun:
            pass
        return begun.process.exitcode or 0, begun.output

    def finish(self, *targets: str) -> str:
        """Run `dvc repro`, which has to succeed, and return its output.

        DVC writes two files in place. Where a kill or a full disk has cut one short, DVC says so, and the remedy of
        docs/reruns.md has to be enough: the lock file that git has (here none), and no list of running stages.
        """
        code, output = self.run("dvc", "repro", *targets)
        for message, file in CUT_SHORT.items():
            if code and message in output:
                (self.folder / file).unlink()
                code, output = self.run("dvc", "repro", *targets)
        if code:
            raise Lost(f"dvc repro failed: {output[-600:]!r}")
        return output

    def check_outputs(self) -> None:
        """Check that all outputs are those of an undisturbed run."""
        found = self.outputs()
        differ = sorted(name for name in {*found, *self.undisturbed} if found.get(name) != self.undisturbed.get(name))
        if differ:
            raise Wrong(f"{len(differ)} outputs differ from an undisturbed run's, such as {differ[:3]}")

    def outputs(self) -> dict[str, str]:
        """Return the MD5 of every output, and what dvc.lock holds of each stage."""
        files = [
            Path(folder, name) for top in OUTPUTS for folder, _, names in os.walk(self.folder / top) for name in names
        ]
        found = {str(file.relative_to(self.folder)): hashlib.md5(file.read_bytes()).hexdigest() for file in files}
        lock = yaml.load((self.folder / "dvc.lock").read_text(), yaml.CSafeLoader)
        return found | {
            f"dvc.lock, {name}": json.dumps(stage, sort_keys=True) for name, stage in lock["stages"].items()
        }

    def finished_work(self) -> Counter[str]:
        """Return what the file cache holds: one entry per recorded file, which gets another inode
        when it is recorded again, and per record."""
        cache = self.folder / ".dvc/cache/twostream"
        found: Counter[str] = Counter()
        for folder, _, names in os.walk(cache / "index"):
            for name in names:
                path = Path(folder, name)
                found[f"{path.relative_to(cache)} {os.stat(path).st_ino}"] += 1
        for file in (*cache.glob("*.jsonl"), *cache.glob("*/*.jsonl")):
            for line in file.read_text(errors="replace").splitlines():
                with contextlib.suppress(ValueError, TypeError):
                    found[f"{file.relative_to(cache)} {json.loads(line)[0]}"] += 1
        return found

    def wait_for_end(self) -> None:
        """Wait until no process of a killed run is left; one that goes on would write into the next run."""
        until = time.monotonic() + 20
        while processes_in(self.folder):
            if time.monotonic() > until:
                raise Lost(f"processes outlive their run: {processes_in(self.folder)}")
            time.sleep(0.02)


class Run:
    """A process of the project and its output."""

    def __init__(self, process: BaseProcess, log: Path):
        self.process, self._log = process, log
        self.output = ""

    def wait(self) -> None:
        self.process.join(MOST_SECONDS)
        self.output = self._log.read_text(errors="replace")
        if self.process.exitcode is None:
            raise Lost(f"no end within {MOST_SECONDS} s: {self.output[-300:]!r}")

    def signal(self, number: int, target: str) -> None:
        """Send a signal to the process, to its group, or to the newest process below it (`stage`)."""
        import psutil

        with contextlib.suppress(ProcessLookupError, psutil.NoSuchProcess, TypeError):
            if target == "group":
                os.killpg(self.process.pid, number)
                return
            below = psutil.Process(self.process.pid).children(recursive=True) if target == "stage" else []
            os.kill(below[-1].pid if below else self.process.pid, number)


def mount(*arguments: str) -> bool:
    """Mount something, and return whether this process may do so."""
    return subprocess.run(["mount", *arguments], capture_output=True).returncode == 0
