"""Find the files that a Python file is made of: what it imports from this library, directly or not."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterable
from pathlib import Path

import twostream

ROOT = Path(twostream.__file__).parent.parent

# They shape how the work is done, not what comes out.
NOT_IN_OUTPUTS = (
    *("twostream/core", "twostream/params.py", "twostream/profiles.py", "twostream/errors.py"),
    "twostream/networks/names.py",
)


def import_closure(files: Iterable[Path]) -> list[Path]:
    """Return the files and all that they import from this library, sorted, without what shapes no output.

    Modules that are loaded by name (`importlib`) are not found: the caller must have them in `files`.
    """
    seen: set[Path] = set()
    todo = [Path(file) for file in files]
    while todo:
        file = todo.pop()
        if file not in seen and not _is_left_out(file):
            seen.add(file)
            todo += _imports(file)
    return sorted(seen)


def _is_left_out(file: Path) -> bool:
    path = file.relative_to(ROOT).as_posix()
    return any(path == name or path.startswith(f"{name}/") for name in NOT_IN_OUTPUTS)


@functools.cache
def _imports(path: Path) -> list[Path]:
    """Return the files of this library that one file imports, those for type checking excepted."""
    found = []
    todo: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            todo += node.orelse
            continue
        todo += ast.iter_child_nodes(node)
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        found += [file for name in names if name.startswith("twostream.") and (file := _file_of(name))]
    return found


def _file_of(module: str) -> Path | None:
    path = ROOT / Path(*module.split("."))
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)
