"""Content-addressed caches: map a key (inputs, parameters, code) to what is computed from them.

DVC removes a stage's outputs before it runs the stage, so a killed run, one more clip or an edited comment would
recompute every file. `FileCache` lies next to DVC's own cache and records the MD5 of the file made for each key. The
file itself comes from DVC's object store once DVC has committed it. Until then it waits in `pending/`; `sweep` removes
it there afterwards, so that no file is stored twice. `RecordCache` holds values that need no file of their own.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import hashlib
import json
import os
import re
import secrets
import shutil
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from twostream.core.files import atomic_path, md5_of, reflink

KEPT_DAYS = 60  # for which records that no run reads stay

_REST_S = 24 * 3600
_ATTEMPTS = 3
_DIGEST = re.compile("[0-9a-f]{32}")


class FileCache:
    """Files by key, shared by all processes and workspaces that use the same `root`.

    Args:
        root: folder of the index and of the files that DVC has not committed yet.
        objects: DVC's object folder (`<cache>/files/md5`), or None outside a DVC project.
    """

    def __init__(self, root: str | Path, objects: str | Path | None):
        self.root = Path(root)
        self.objects = Path(objects) if objects else None

    def make(self, key: str, target: Path, build: Callable[[Path], None]) -> bool:
        """Put the file for `key` at `target`, building it only on a cache miss.

        `build` writes the file to the path that it gets; it is called again if somebody deletes the cache meanwhile.
        Return True when it was built, False when it was served.
        """
        if self.serve(key, target):
            return False
        for _ in range(_ATTEMPTS - 1):
            with contextlib.suppress(FileNotFoundError):
                self._build(key, target, build)
                return True
        self._build(key, target, build)
        return True

    def _build(self, key: str, target: Path, build: Callable[[Path], None]) -> None:
        with self._unfinished(key) as unfinished:
            build(unfinished)
            digest = md5_of(unfinished)
            pending = self._pending(digest)
            pending.parent.mkdir(parents=True, exist_ok=True)
            os.chmod(unfinished, 0o444)  # it may become a hard link of DVC's object
            stored = self._object(digest)
            if stored is not None and stored.is_file() and md5_of(stored) != digest:
                stored.unlink()  # damaged: DVC would put it in place of this file
            # First the target, then `pending/`. From there, a sweep of another process (two experiments that share
            # this cache) removes the file as soon as DVC holds one of the same content, and this one would find
            # nothing to copy. A copy, no hard link: damage to a file of the cache must not reach an output before DVC
            # has read it.
            share(unfinished, target, may_link=False)
            os.replace(unfinished, pending)
        self._write_entry(key, digest)

    def serve(self, key: str, target: Path, md5: Callable[[Path], str] = md5_of) -> bool:
        """Put the recorded file for `key` at `target`; return False where there is none or its content has changed.

        A target that has this content is left alone, or DVC would read it again.

        Args:
            md5: gives the digest of a file, such as :meth:`digests.Digests.md5`.
        """
        digest, copies = self._copies(key)
        for stored in copies:
            with contextlib.suppress(FileNotFoundError):  # another process has just swept it
                # A file that was edited in place or cut short by a power failure must not spread.
                if md5(stored) == digest or md5_of(stored) == digest:  # nothing is deleted that was not read now
                    if not (target.is_file() and not target.is_symlink() and md5(target) == digest):
                        share(stored, target, may_link=stored == self._object(digest))
                    with contextlib.suppress(OSError):
                        os.utime(self._entry(key))  # its age counts from here, see `prune`
                    return True
                # DVC would take it for what its name says, and put it in place of the file that is built now.
                stored.unlink()
        return False

    def has(self, key: str) -> bool:
        """Return whether there is a recorded file for `key`; only `serve` also compares its content."""
        return any(self._copies(key)[1])

    def recorded(self, output: Path) -> dict[str, Path]:
        """Return the files of an output folder as dvc.lock records them: path in the folder, and DVC's object.

        Objects that are not on this machine are left out. Empty where there is no record.
        """
        if self.objects is None:
            return {}
        try:
            digest = recorded_outputs()[output.as_posix()]["md5"]
            listing = json.loads(_stored(self.objects, digest).read_bytes())
            files = {file["relpath"]: _stored(self.objects, file["md5"]) for file in listing}
        except (OSError, ValueError, KeyError):
            return {}
        return {name: stored for name, stored in files.items() if stored.is_file()}

    def holds(self, digest: str) -> bool:
        """Return whether a file with this MD5 is in DVC's cache or waits for it."""
        stored = (self._object(digest), self._pending(digest))
        return any(path is not None and path.is_file() for path in stored)

    def record(self, key: str, stored: Path) -> None:
        """Record that the file for `key` is a DVC object, one of :meth:`recorded`."""
        self._write_entry(key, stored.parent.name + stored.name)

    def sweep(self) -> None:
        """Remove pending files that DVC has committed by now, and what killed builds left behind."""
        for pending in _files(self.root / "pending"):
            stored = self._object(pending.parent.name + pending.name)
            if stored is not None and stored.is_file():
                pending.unlink(missing_ok=True)
        for unfinished in _files(self.root / "building"):
            if _is_abandoned(unfinished):
                unfinished.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _unfinished(self, key: str) -> Iterator[Path]:
        """Yield the path at which this process builds the file for `key`; no other process, on any host, has it."""
        folder = self.root / "building"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{key}.{process_space()}.{os.getpid()}.{secrets.token_hex(4)}"
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)

    def _copies(self, key: str) -> tuple[str, Iterator[Path]]:
        """Return the recorded digest of the file for `key`, and the files that should have this content."""
        entry = read_json(self._entry(key))
        digest = entry.get("md5") if isinstance(entry, dict) else None
        if not (isinstance(digest, str) and _DIGEST.fullmatch(digest)):
            return "", iter(())
        stored = (place(digest) for place in (self._object, self._pending))
        return digest, (path for path in stored if path is not None and path.is_file())

    def _write_entry(self, key: str, digest: str) -> None:
        with atomic_path(self._entry(key)) as entry:
            entry.write_text(json.dumps({"md5": digest}))

    def _entry(self, key: str) -> Path:
        return _stored(self.root / "index", key)

    def _pending(self, digest: str) -> Path:
        return _stored(self.root / "pending", digest)

    def _object(self, digest: str) -> Path | None:
        return _stored(self.objects, digest) if self.objects else None


class RecordCache:
    """Small JSON values by key, in one file of which every line is a record: key, value and a checksum of both.

    A record is written when it is added, so a killed run keeps what it had. Several processes may add to one file.
    """

    def __init__(self, path: Path):
        self.path = path
        self._records: dict[str, Any] = {}
        if path.exists():
            for line in path.read_text(encoding="ascii", errors="replace").splitlines():
                # A line that a full disk or a power failure cut short, or whose bytes have changed, is not used.
                with contextlib.suppress(ValueError, TypeError, RecursionError):
                    key, value, *checksum = json.loads(line)
                    if checksum in ([], [_checksum(key, value)]):  # earlier versions wrote none
                        self._records[key] = value

    def __contains__(self, key: str) -> bool:
        return key in self._records

    def __getitem__(self, key: str) -> Any:
        return self._records[key]

    def add(self, key: str, value: Any) -> None:
        self._records[key] = value
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "a", encoding="ascii") as file:
            # One write, which no other process splits. The line before may have been cut short, without its end.
            file.write(f"\n{json.dumps([key, value, _checksum(key, value)])}\n")

    def remove_unused(self) -> None:
        """Remove the files of this folder that no run has used for :data:`KEPT_DAYS`; this one counts as used."""
        if self.path.exists():
            self.path.touch()
        for file in self.path.parent.glob("*.jsonl"):
            if time.time() - file.stat().st_mtime > 86400 * KEPT_DAYS:
                file.unlink(missing_ok=True)


def read_json(path: Path | None) -> Any:
    """Return the content of a JSON file, None if there is no such file or it is damaged."""
    with contextlib.suppress(OSError, ValueError, RecursionError):
        return json.loads(path.read_bytes()) if path else None
    return None


def recorded_outputs() -> dict[str, dict[str, Any]]:
    """Return what dvc.lock records of every output, by its path; empty where there is no such file."""
    try:
        # The C library parses it 30 times as fast.
        lock = yaml.load(Path("dvc.lock").read_bytes(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        return {out["path"]: out for stage in lock["stages"].values() for out in stage.get("outs", [])}
    except (OSError, ValueError, LookupError, AttributeError, TypeError, yaml.YAMLError):
        return {}


def _checksum(key: str, value: Any) -> int:
    return zlib.crc32(json.dumps([key, value]).encode())


def _stored(folder: Path, digest: str) -> Path:
    return Path(f"{folder}/{digest[:2]}/{digest[2:]}")


def share(source: Path, target: Path, may_link: bool = True) -> None:
    """Give `target` the content of `source` atomically and at the least cost: reflink, else hard link, else copy."""
    with atomic_path(target) as temporary:
        if reflink(source, temporary):
            return
        if may_link:
            with contextlib.suppress(OSError):
                os.link(source, temporary)
                return
        shutil.copyfile(source, temporary)


def key_of(**parts: object) -> str:
    """Return the SHA-256 of what a file is made of, as canonical JSON."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def code_digest(*files: str | Path) -> str:
    """Return a digest of what Python files compute.

    Comments, docstrings, layout, imports, annotations and the messages of errors are left out: an edit to them changes
    no output, and a module that moves to another package changes nothing but imports.
    """
    digest = hashlib.sha256()
    for file in files:
        digest.update(without_words(Path(file).read_text(encoding="utf-8")).encode())
    return digest.hexdigest()


def without_words(source: str) -> str:
    """Return what Python source computes, as text to compare; see :func:`code_digest`."""
    return ast.dump(_WithoutWords().visit(ast.parse(source)))


class _WithoutWords(ast.NodeTransformer):
    """Remove from a syntax tree what changes no output."""

    def visit_Import(self, node: ast.Import | ast.ImportFrom) -> None:
        return None

    visit_ImportFrom = visit_Import

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        # A docstring, or another constant that stands alone.
        return None if isinstance(node.value, ast.Constant) else self.generic_visit(node)

    def visit_arg(self, node: ast.arg) -> ast.AST:
        return ast.arg(node.arg)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.returns = None
        return self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        node.annotation = ast.Constant(None)
        return self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        if isinstance(node.exc, ast.Call):
            node.exc = node.exc.func
        return node


def _files(folder: Path) -> list[Path]:
    return [Path(path, name) for path, _, names in os.walk(folder) for name in names]


@functools.cache
def process_space() -> str:
    """Return a name of the set of processes that this one sees: of one boot of one machine, and of one container.

    Only there does a process ID mean the same process.
    """
    boot = Path("/proc/sys/kernel/random/boot_id").read_text()
    return hashlib.sha256(f"{boot} {os.readlink('/proc/self/ns/pid')}".encode()).hexdigest()[:12]


def _is_abandoned(unfinished: Path) -> bool:
    """Return whether the process that builds this file has ended; an unseen one, if the file is a day old."""
    _, _, builder = unfinished.name.partition(".")
    space, _, rest = builder.partition(".")
    if space == process_space():
        return not Path("/proc", rest.partition(".")[0]).exists()
    with contextlib.suppress(FileNotFoundError):
        return time.time() - unfinished.stat().st_mtime > _REST_S
    return False
