"""Profiles: `profiles/base.yaml` holds every parameter, and each profile only the values that differ from it."""

from __future__ import annotations

import contextlib
import copy
import io
import itertools
import json
import math
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML, RoundTripRepresenter, YAMLError
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.nodes import MappingNode, Node, SequenceNode

from twostream.core.files import atomic_path, expand_home
from twostream.errors import UserError, reason

FOLDER = Path(__file__).parents[1] / "profiles"
_COMMENT_COLUMN = 30
_MOST_VALUES = 100_000


def profiles() -> dict[str, str]:
    """Return the names of all profiles, each with the first line of its header."""
    names = sorted(path.stem for path in FOLDER.glob("*.yaml") if path.stem != "base")
    return {name: _header(name).splitlines()[0].removeprefix("# ") for name in names}


def load_profile(name: str) -> dict[str, Any]:
    """Return all parameters of a profile as plain values.

    Raises:
        UserError: there is no profile of this name.
    """
    return complete(read_yaml(_path(name)))


def profile_text(name: str, settings: list[str] | None = None) -> str:
    """Return a profile as a complete `params.yaml`, with the comments of base.yaml.

    Args:
        name: the profile.
        settings: changes of its values, each `key=value` with a dotted key and a value in YAML.

    Raises:
        UserError: there is no such profile, or a setting is not of this form.
    """
    values = _commented().load(_path(name).read_text(encoding="utf-8")) or {}
    for setting in settings or []:
        _set(values, setting)
    output = io.StringIO()
    _commented().dump(_merged(_commented().load((FOLDER / "base.yaml").read_text(encoding="utf-8")), values), output)
    text = output.getvalue()
    # ruamel.yaml keeps a blank line with the key before it, which may be gone. So all of them are set anew.
    body = re.sub(r"\n(?=\w+:)", "\n\n", re.sub(r"\n+", "\n", text[text.index("\nseed:") :]))
    return f"{_header(name)}# Written by `twostream profile {name}`; `twostream profile --diff` lists edits.{body}"


def write_params(name: str, settings: list[str], force: bool, path: Path = Path("params.yaml")) -> None:
    """Write a profile to a parameter file.

    Args:
        name, settings: as for :func:`profile_text`.
        force: whether to overwrite edits that can be found nowhere else: the file is neither the one that git holds
            nor what some profile writes.

    Raises:
        UserError: the values are not valid, or the file has such edits.
    """
    from twostream.params import parse_params

    text = profile_text(name, settings)
    parse_params(YAML(typ="safe", pure=True).load(text), f"profile {name}")
    if path.exists() and not force:
        old = path.read_bytes()
        if old != _committed(path) and all(old != profile_text(other).encode() for other in profiles()):
            raise UserError(
                f"{path} has edits that git does not hold; commit it, or overwrite it with --force. "
                "`twostream profile --diff` lists them"
            )
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _committed(path: Path) -> bytes | None:
    """Return the content of a file in git's HEAD; None if it has none, or if there is no git."""
    with contextlib.suppress(OSError):
        command = ["git", "show", f"HEAD:./{path.name}"]
        shown = subprocess.run(command, cwd=path.absolute().parent, capture_output=True)
        return shown.stdout if shown.returncode == 0 else None
    return None


def edits(name: str | None, path: Path = Path("params.yaml")) -> str:
    """Return a line per value in which a parameter file differs from a profile.

    Args:
        name: the profile; None takes the one that the file's header names or, without one, the closest.
        path: the parameter file.
    """
    values = read_yaml(path)
    if name is None:
        written = re.search(r"^# .*`twostream profile ([\w-]+)`", path.read_text(encoding="utf-8"), re.MULTILINE)
        known = [written[1]] if written and written[1] in profiles() else profiles()
        name = min(known, key=lambda name: len(list(differences(load_profile(name), values))))
    changes = list(differences(load_profile(name), values))
    width = max((len(key) for key, _, _ in changes), default=0)
    lines = [f"  {key:<{width}}  {_shown(old)} -> {_shown(new)}" for key, old, new in changes]
    return "\n".join([f"{path} {'differs from' if lines else 'is'} profile {name}", *lines])


def _shown(value: Any) -> str:
    return "(none)" if value is None else "(a section)" if isinstance(value, dict) else json.dumps(value)


def complete(values: dict[str, Any]) -> dict[str, Any]:
    """Return parameters in which every key that `values` lacks has the value of base.yaml."""
    return _merged(read_yaml(FOLDER / "base.yaml"), values)


def differences(old: Any, new: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield the dotted keys in which two sets of parameters differ, with both values (None: it has no such key)."""
    if isinstance(old, dict) and isinstance(new, dict):
        for part in dict.fromkeys([*old, *new]):
            yield from differences(old.get(part), new.get(part), f"{key}.{part}".lstrip("."))
    elif old != new:
        yield key, old, new


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read a YAML mapping by the rules of YAML 1.2, as DVC does: 1e-3 is a number.

    Raises:
        UserError: the file cannot be read, is not YAML or is not a mapping.
    """
    yaml = YAML(typ="safe", pure=True)
    try:
        text = Path(path).read_text(encoding="utf-8")
        values = yaml.load(text)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({reason(error)}); `twostream profile` writes one") from None
    except DuplicateKeyError:
        key, first, second = next(_repeated_keys(yaml.compose(text)))
        raise UserError(f"{path}: {key} is in line {first} and again in line {second}; remove one of them") from None
    except (YAMLError, ValueError) as error:  # ValueError: a number of more than 4,300 digits
        raise UserError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from None
    except RecursionError:
        raise UserError(f"{path}: not valid parameters (nested too deep); `twostream profile` writes one") from None
    if _size(values) > _MOST_VALUES:
        raise UserError(f"{path}: its aliases stand for more than {_MOST_VALUES:,} values; write them out")
    if not isinstance(values, dict):
        raise UserError(f"{path}: must be a mapping of sections; `twostream profile` writes one")
    return values


def _size(value: Any, sizes: dict[int, float] | None = None) -> float:
    """Return the number of values in nested YAML, those of an alias each time; infinite where it holds itself."""
    sizes = {} if sizes is None else sizes
    if not isinstance(value, dict | list):
        return 1
    if id(value) not in sizes:
        sizes[id(value)] = math.inf
        items = value.values() if isinstance(value, dict) else value
        sizes[id(value)] = 1 + sum(_size(item, sizes) for item in items)
    return sizes[id(value)]


def _repeated_keys(node: Node, section: str = "") -> Iterator[tuple[str, int, int]]:
    """Yield the dotted keys that some mapping below `node` holds twice, each with the numbers of both lines."""
    lines: dict[str, int] = {}
    if isinstance(node, SequenceNode):
        for item in node.value:
            yield from _repeated_keys(item, section)
    for key, value in node.value if isinstance(node, MappingNode) else ():
        name, line = f"{section}{key.value}", key.start_mark.line + 1
        if name in lines:
            yield name, lines[name], line
        lines[name] = line
        yield from _repeated_keys(value, f"{name}.")


def _path(name: str) -> Path:
    if name not in profiles():
        raise UserError(f"there is no profile '{name}'; choose from {', '.join(profiles())}")
    return FOLDER / f"{name}.yaml"


def _header(name: str) -> str:
    text = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
    return "".join(itertools.takewhile(lambda line: line.startswith("#"), text.splitlines(keepends=True)))


def _set(values: dict[str, Any], setting: str) -> None:
    key, equals, text = setting.partition("=")
    if not (equals and key and text):
        raise UserError(f"--set {setting}: must be key=value, such as flow.bound=8.0")
    try:
        value = _commented().load(text)
    except YAMLError:
        raise UserError(f"--set {setting}: the value is not valid YAML") from None
    *sections, last = key.split(".")
    for section in sections:
        if not isinstance(values.get(section), dict):
            values[section] = {}
        values = values[section]
    values[last] = expand_home(value) if isinstance(value, str) else value  # DVC itself expands no `~`


def _merged(base: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """Put `values` into a copy of base.yaml, of whose streams only the trained ones and those in `values` stay."""
    merged, own = copy.deepcopy(base), values.get("streams")
    streams, own = merged["streams"], own if isinstance(own, dict) else {}
    train = values.get("train")
    train = {**base["train"], **(train if isinstance(train, dict) else {})}
    trained = [name for names in train.values() if isinstance(names, list) for name in names]
    on_flow = train["flow"] if isinstance(train["flow"], list) else []
    for name in own:
        if name not in streams:
            streams[name] = copy.deepcopy(streams["temporal" if name in on_flow else "spatial"])
    for name in [name for name in streams if name not in trained and name not in own]:
        del streams[name]
    _merge(merged, values)
    return merged


def _merge(into: dict[str, Any], values: dict[str, Any]) -> None:
    """Replace what `values` holds, section by section; a comment in a profile replaces that of base.yaml."""
    for key, value in values.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = value
        if hasattr(into, "ca") and hasattr(values, "ca"):
            comment = values.ca.items.get(key)
            if comment and comment[2] and "#" in comment[2].value:
                into.ca.items[key] = comment
            comment = into.ca.items.get(key)
            if comment and comment[2]:
                comment[2].start_mark.column = _COMMENT_COLUMN


class _Representer(RoundTripRepresenter):
    """Write null as `null`, where ruamel.yaml would leave the value out."""


_Representer.add_representer(
    type(None), lambda representer, _: representer.represent_scalar("tag:yaml.org,2002:null", "null")
)


def _commented() -> YAML:
    """Return a reader and writer that keeps comments, quotes and the order of keys."""
    yaml = YAML()
    yaml.Representer = _Representer
    yaml.preserve_quotes = True
    yaml.width = 4096
    return yaml
