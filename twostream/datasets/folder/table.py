"""Read a table of clips as people write it: the delimiters and encodings of Excel, any case, blanks around names."""

from __future__ import annotations

import codecs
import csv
import difflib
import io
import re
import unicodedata
from pathlib import Path
from typing import NamedTuple

from twostream.datasets import is_video
from twostream.errors import UserError, reason

COLUMNS = ("path", "class", "group", "split")
TIMES = ("start", "end")  # of a clip that is a span of its video
_KNOWN = (*COLUMNS, *TIMES)
DELIMITERS = ",;\t|"
_UNSEEN = "\ufeff\u200b\u200e\u200f\u2060"  # invisible characters that spreadsheets and web pages leave behind

# What people call the columns. A table that has one of these names in place of the column itself is refused.
_OTHER_NAMES = {
    "path": "file filename filepath clip clipname clippath video videoname videopath videofile name relpath",
    "class": "label labels classname classlabel action activity category target",
    "group": "groups groupname groupid grp",
    "split": "splits subset set partition fold phase",
    "start": "starts begin starttime startsec startseconds startframe tstart onset",
    "end": "ends stop endtime endsec endseconds endframe tend offset",
}
_SUBSETS = {
    "train": "train training",
    "val": "val valid validation dev",
    "test": "test testing",
    "unused": "unused",
}
SUBSET_OF_WORD = {word: subset for subset, words in _SUBSETS.items() for word in words.split()}


class Row(NamedTuple):
    """A row of a table by the names of its columns; `where` is the table and the number of the line."""

    cells: dict[str, str]
    line: int
    where: str

    def error(self, problem: str) -> UserError:
        return UserError(f"{self.where}: {problem}")


def read_table(table: Path, rename: bool = False) -> tuple[list[str], list[Row]]:
    """Return those columns of :data:`COLUMNS` and :data:`TIMES` that a table has, and its rows without blank ones.

    The first line names the columns, in any case and order. The delimiter is the comma, semicolon, tab or `|` that
    gives the most known columns. UTF-8, UTF-16 and UTF-32 are recognised; :func:`cell_text` decodes what is neither. A
    printed line names the columns that are not used.

    Args:
        table: the file.
        rename: take a column whose name is close to one that the table lacks for this one, instead of refusing it.

    Raises:
        UserError: one line with table, line, column and remedy: the table is not text; it has no `path`, a column
            twice, or a column whose name is close to one that it lacks; a row is longer or shorter than the first.
    """
    text = _decoded(table)
    skipped = 0
    if stated := re.match(r"sep=(.)\r?\n", text, re.IGNORECASE):  # Excel's first line
        text, skipped = text[stated.end() :], 1
    delimiter = stated[1] if stated else max(DELIMITERS, key=lambda one: _known_columns(text, one))
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True)
    rows: list[Row] = []
    columns: list[str] = []
    try:
        for cells in reader:
            line = reader.line_num + skipped
            where = f"{table}, line {line}"
            if not any(cell.strip() for cell in cells):
                continue
            if not columns:
                columns = _columns(cells, where, rename)
                continue
            if len(cells) < len(columns) or any(cell.strip() for cell in cells[len(columns) :]):
                raise UserError(
                    f"{where}: has {'more' if len(cells) > len(columns) else 'fewer'} fields than the first line has "
                    f"columns; put a name that contains {delimiter!r} in quotes"
                )
            rows.append(Row(dict(zip(columns, cells, strict=False)), line, where))
    except csv.Error as error:
        raise UserError(f"{table}, line {reader.line_num + skipped}: not valid CSV ({error})") from None
    if not columns:
        raise UserError(f"{table}: is empty; the first line must be the columns {','.join(COLUMNS)}")
    if others := [name for name in columns if name not in _KNOWN]:
        print(f"folder: {table}: the columns {', '.join(map(repr, others))} are not used")
    return [name for name in columns if name in _KNOWN], rows


def cell_text(cell: str) -> str:
    """Return a cell without surrounding blanks, in NFC; bytes that are not UTF-8 are read as Windows' Latin-1."""
    if not is_utf8(cell):
        encoded = cell.encode("utf-8", "surrogateescape")
        try:
            cell = encoded.decode("cp1252")
        except UnicodeDecodeError:
            cell = encoded.decode("latin-1")
    return re.sub(rf"^[\s{_UNSEEN}]+|[\s{_UNSEEN}]+$", "", unicodedata.normalize("NFC", cell))


def is_utf8(cell: str) -> bool:
    """Return whether a cell has no bytes that are not UTF-8."""
    return not any("\udc80" <= character <= "\udcff" for character in cell)


def subset_of(word: str) -> str | None:
    """Return the subset that a word stands for, in any case: `Training` is train, `valid` and `dev` are val."""
    return SUBSET_OF_WORD.get(word.strip().casefold())


def _decoded(table: Path) -> str:
    """Return the text of a table; bytes that are not UTF-8 are escaped as in the names of files."""
    try:
        data = table.read_bytes()
    except OSError as error:
        raise UserError(f"{table}: cannot be read ({reason(error)})") from None
    if data.startswith((b"PK\x03\x04", b"\xd0\xcf\x11\xe0")):
        raise UserError(f"{table}: is a spreadsheet, not text; save it as CSV (UTF-8)")
    if data.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        encoding = "utf-32"
    elif data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "utf-16"
    elif 4 * data[1::2].count(0) > len(data):
        encoding = "utf-16-le"
    elif 4 * data[::2].count(0) > len(data):
        encoding = "utf-16-be"
    else:
        return data.decode("utf-8-sig", "surrogateescape")
    try:
        return data.decode(encoding)
    except UnicodeDecodeError:
        raise UserError(f"{table}: is not valid {encoding.upper()}; save it as CSV (UTF-8)") from None


def _known_columns(text: str, delimiter: str) -> tuple[int, int]:
    """Return how many known columns the first line has with this delimiter, and how many in all."""
    try:
        cells = next(csv.reader(io.StringIO(text.lstrip(), newline=""), delimiter=delimiter, skipinitialspace=True), [])
    except csv.Error:
        return 0, 0
    return len({cell.strip().casefold() for cell in cells} & set(_KNOWN)), len(cells)


def _columns(cells: list[str], where: str, rename: bool) -> list[str]:
    """Return the names of the columns from the first line; a column without a name is known by its number."""
    while not cells[-1].strip():
        cells = cells[:-1]
    names = [cell_text(cell) or f"column {number}" for number, cell in enumerate(cells, 1)]
    columns = [name.casefold() if name.casefold() in _KNOWN else name for name in names]
    for column in _KNOWN:
        if columns.count(column) > 1:
            raise UserError(f"{where}: column {column} is there {columns.count(column)} times; remove all but one")
    close = {meant: name for name in reversed(columns) if name not in _KNOWN and (meant := _meant(name))}
    if rename:
        meant_by = {name: column for column, name in close.items() if column not in columns}
        columns = [meant_by.get(name, name) for name in columns]
        close = {}
    if "path" not in columns:
        first_line = f"{where}: the first line must be the columns {','.join(COLUMNS)}, and path is missing"
        if len(names) == 1 and len(set(re.findall(r"\w+", names[0].casefold())) & set(COLUMNS)) > 1:
            raise UserError(f"{where}: separate the columns with commas, semicolons or tabs")
        if "path" in close:
            raise UserError(f"{first_line}; rename the column {close['path']!r} to path")
        found = "this is a clip" if any(map(is_video, names)) else f"found {','.join(names)!r}"
        raise UserError(f"{first_line} ({found})")
    for column, name in close.items():
        if column not in columns:
            raise UserError(f"{where}: column {name!r} is not known; rename it to {column}, or remove it")
    return columns


def _meant(name: str) -> str | None:
    """Return the column that a name is close to, if there is one: `spilt`, `Labels` and `class_name` have one."""
    words = [word for word in re.split(r"[\W\d_]+", name.casefold()) if word]
    joined = "".join(words)
    for column, others in _OTHER_NAMES.items():
        if joined in others.split() or column in words:
            return column
    close = difflib.get_close_matches(joined, [*_KNOWN, "label"], n=1, cutoff=0.75)
    return ("class" if close[0] == "label" else close[0]) if close else None
