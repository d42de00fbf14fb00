"""What was computed once is not computed again: an index from what a file was made of to the file itself.

DVC removes a stage's outputs before it runs the stage, so a killed run, one more clip or an edited comment would
cost everything. This cache sits beside DVC's own and remembers, for a key, the MD5 of the file that was made. The
file itself is served from DVC's object store once DVC has committed it; until then it waits in `pending/`, and
`sweep` removes it from there afterwards, so that nothing is stored twice.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from twostream.core.files import atomic_path, md5_of, reflink


class FileCache:
    """Files by key, shared by every process and workspace that names the same `root`.

    Args:
        root: folder of the index and the files that DVC does not hold yet.
        objects: DVC's object folder (`<cache>/files/md5`), or None outside a DVC project.
    """

    def __init__(self, root: str | Path, objects: str | Path | None):
        self.root = Path(root)
        self.objects = Path(objects) if objects else None

    def make(self, key: str, target: Path, build: Callable[[Path], None]) -> bool:
        """Put the file for `key` at `target`, building it only when it is not to be had.

        `build` writes the file to the path it is given. Returns True when it was built, False when it was served.
        """
        if self.serve(key, target):
            return False
        beside = self.root / "building" / f"{key}.{os.getpid()}"
        beside.parent.mkdir(parents=True, exist_ok=True)
        try:
            build(beside)
            digest = md5_of(beside)
            pending = self._pending(digest)
            pending.parent.mkdir(parents=True, exist_ok=True)
            os.chmod(beside, 0o444)  # it may become a hard link of what DVC keeps
            share(beside, target)  # before it is pending, where another process may sweep it
            os.replace(beside, pending)
        finally:
            beside.unlink(missing_ok=True)
        with atomic_path(self._entry(key)) as entry:
            entry.write_text(json.dumps({"md5": digest}))
        return True

    def serve(self, key: str, target: Path) -> bool:
        """Put the remembered file for `key` at `target` if it is still to be had and unchanged."""
        try:
            digest = json.loads(self._entry(key).read_text())["md5"]
        except (FileNotFoundError, ValueError, KeyError):
            return False
        for held in self._places(digest):
            # A file that was edited in place or cut short by a power failure must not spread.
            if held.is_file() and md5_of(held) == digest:
                share(held, target)
                return True
        return False

    def sweep(self) -> None:
        """Drop waiting files that DVC holds by now, and what killed builds left behind."""
        if self.objects is not None:
            for held in _files(self.root / "pending"):
                digest = held.parent.name + held.name
                if (self.objects / digest[:2] / digest[2:]).is_file():
                    held.unlink(missing_ok=True)
        for part in _files(self.root / "building"):
            if not _alive(part.name.rpartition(".")[2]):
                part.unlink(missing_ok=True)

    def _entry(self, key: str) -> Path:
        return self.root / "index" / key[:2] / key[2:]

    def _pending(self, digest: str) -> Path:
        return self.root / "pending" / digest[:2] / digest[2:]

    def _places(self, digest: str) -> list[Path]:
        places = [self._pending(digest)]
        if self.objects is not None:
            places.insert(0, self.objects / digest[:2] / digest[2:])
        return places


def share(source: Path, target: Path) -> None:
    """Make `target` the same file as `source` at the least cost: reflink, else hard link, else copy. Appears whole."""
    with atomic_path(target) as temporary:
        if not reflink(source, temporary):
            try:
                os.link(source, temporary)
            except OSError:
                shutil.copyfile(source, temporary)


def key_of(**parts: object) -> str:
    """The SHA-256 of what a file is made of, as canonical JSON."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def code_digest(*files: str | Path) -> str:
    """Return a digest of what Python files compute.

    Comments, docstrings, layout, imports, annotations and the texts of errors are left out: an edit to them changes no
    output, and a module that moves to another package changes nothing but imports.
    """
    digest = hashlib.sha256()
    for file in files:
        tree = _WithoutWords().visit(ast.parse(Path(file).read_text(encoding="utf-8")))
        digest.update(ast.dump(tree).encode())
    return digest.hexdigest()


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
    return [Path(at, name) for at, _, names in os.walk(folder) for name in names]


def _alive(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:
        return True
    return True
