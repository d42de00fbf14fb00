"""A disk that is full, folders that are read-only, and a file cache that is deleted or damaged."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

from torture.ledger import Case, Lost, check_no_traceback
from torture.project import Project, mount

STATES = {"extraction": "listed", "training": "extracted", "the report": "evaluated", "the listing": "new"}
STAGES = {
    "extraction": ("extract_rgb", "extract_flow"),
    "training": ("train_rgb", "train_flow"),
    "the report": ("report",),
    "the listing": ("split", "explore"),
}
READ_ONLY = {
    "data": "listed",
    "data/videos": "listed",
    "data/splits": "listed",
    "data/rgb": "extracted",
    "models": "extracted",
    "metrics": "evaluated",
    ".dvc/cache": "listed",
    ".dvc/cache/twostream": "extracted",
    ".dvc/tmp": "listed",
}


def cases(project: Project, rng: random.Random, count: int) -> Iterator[Case]:
    """Yield `count` cases of each kind; those that need a file system of their own only where it can be mounted."""
    if project.is_mounted:
        for what in STATES:
            for index in range(count):
                left = 0 if index == 0 else int(10 ** rng.uniform(3, 6))
                yield Case(f"disk full in {what}", f"{left} bytes left", lambda w=what, n=left: full(project, w, n))
        for folder in list(READ_ONLY)[: max(2, count)]:
            yield Case("read-only folder", folder, lambda f=folder: read_only(project, f))
    for index in range(count * 4):
        kind = list(DAMAGE)[index % len(DAMAGE)]
        seed = rng.randrange(2**32)
        yield Case("cache damaged during a run", f"{kind}, seed {seed}", lambda k=kind, s=seed: during(project, k, s))
        yield Case("cache damaged between runs", f"{kind}, seed {seed}", lambda k=kind, s=seed: between(project, k, s))
    for index in range(count):
        yield Case("DVC's copy of a clip damaged", str(index), lambda s=index: damaged_object(project, s))


def full(project: Project, what: str, left: int) -> None:
    """Run stages with so many bytes left on the disk; with the disk free again they end as undisturbed."""
    project.restore(STATES[what])
    filler = project.top / "now" / "filler"
    status = os.statvfs(filler.parent)
    with open(filler, "wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(1, status.f_bavail * status.f_frsize - left))
    code, output = project.run("dvc", "repro", *STAGES[what])
    check_stopped(code, output)
    filler.unlink()
    project.wait_for_end()
    project.finish()
    project.check_outputs()


def read_only(project: Project, name: str) -> None:
    project.restore(READ_ONLY[name])
    folder = project.folder / name
    if not (mount("--bind", str(folder), str(folder)) and mount("-o", "remount,bind,ro", str(folder))):
        raise Lost("cannot be mounted read-only")
    try:
        check_stopped(*project.run("dvc", "repro", "--force", *(() if name == "metrics" else ("extract_rgb",))))
    finally:
        subprocess.run(["umount", folder], check=True)
    project.wait_for_end()
    project.finish()
    project.check_outputs()


def check_stopped(code: int, output: str) -> None:
    """Check that a run ended with a line that says why, or that it could do without what it did not get."""
    check_no_traceback(output)
    if code and "ERROR: " not in output:
        raise Lost(f"no line says why it stopped: {output[-300:]!r}")


def _delete(file: Path, rng: random.Random) -> None:
    file.unlink()


def _cut(file: Path, rng: random.Random) -> None:
    file.chmod(0o644)
    os.truncate(file, rng.randrange(file.stat().st_size + 1))


def _flip(file: Path, rng: random.Random) -> None:
    file.chmod(0o644)
    with open(file, "r+b") as handle:
        size = file.stat().st_size
        for _ in range(rng.choice([1, 3, 20])):
            at = rng.randrange(max(1, size))
            handle.seek(at)
            byte = handle.read(1) or b"\0"
            handle.seek(at)
            handle.write(bytes([byte[0] ^ 1 << rng.randrange(8)]))
    file.chmod(0o444)


def _delete_all(file: Path, rng: random.Random) -> None:
    shutil.rmtree(
        next(parent for parent in file.parents if parent.name == "twostream" and parent.parent.name == "cache")
    )


DAMAGE = {"delete a file": _delete, "cut a file short": _cut, "flip bits": _flip, "delete the folder": _delete_all}


def _damage(project: Project, kind: str, rng: random.Random, spare: tuple[str, ...] = ()) -> None:
    cache = project.folder / ".dvc/cache/twostream"
    files = [Path(folder, name) for folder, _, names in os.walk(cache) for name in sorted(names)]
    files = [file for file in files if not any(part in spare for part in file.parts)]
    if files:
        with contextlib.suppress(OSError):  # the run was faster
            DAMAGE[kind](rng.choice(files), rng)


def during(project: Project, kind: str, seed: int) -> None:
    """Damage the cache again and again while clips are extracted and streams are trained."""
    project.restore("listed")
    rng, over = random.Random(seed), threading.Event()

    def damage() -> None:
        while not over.wait(rng.uniform(0, 0.02)):
            # What is being built is not damaged: nothing could know what it should be.
            _damage(project, kind, rng, spare=("building",) if "folder" not in kind and kind != "delete a file" else ())

    thread = threading.Thread(target=damage)
    thread.start()
    try:
        code, output = project.run("dvc", "repro")
    finally:
        over.set()
        thread.join()
    check_stopped(code, output)
    project.wait_for_end()
    project.finish()
    project.check_outputs()


def between(project: Project, kind: str, seed: int) -> None:
    """Damage many files of the cache of a built project, and run all stages again."""
    project.restore("built")
    rng = random.Random(seed)
    for _ in range(30):
        _damage(project, kind, rng)
    project.finish("--force", "--no-run-cache")
    project.check_outputs()


def damaged_object(project: Project, seed: int) -> None:
    """Damage clips in DVC's own store, which stay write-protected, so that DVC takes them for sound."""
    project.restore("extracted")
    rng = random.Random(seed)
    for folder in ("rgb", "flow"):
        clip = rng.choice(sorted((project.folder / "data" / folder).rglob("*.zip")))
        digest = subprocess.run(["md5sum", clip], capture_output=True, text=True, check=True).stdout.split()[0]
        _flip(project.folder / ".dvc/cache/files/md5" / digest[:2] / digest[2:], rng)
    project.finish("--force", "--no-run-cache", "extract_rgb", "extract_flow")
    project.finish()
    project.check_outputs()
