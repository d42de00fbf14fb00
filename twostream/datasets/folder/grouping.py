"""Guess from their names which clips were cut from the same source."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import PurePosixPath

from twostream.errors import UserError

# Words that programs and people put into any name; they say nothing about the source.
GENERIC = frozenset(
    """
    action cam camera channel clip cut dsc dscn example file fragment frame gopr img mov movie mvi part piece pt
    rec record recording rep sample scene seg segment seq sequence shot subclip take test train trial v ver
    version vid video
    """.split()  # noqa: SIM905 - a list of words reads as one
)
COUNTERS = frozenset(
    """
    c clip copy cut n no nr num number p part piece pt rep repetition s seg segment shot t take trial v ver
    version
    """.split()  # noqa: SIM905 - a list of words reads as one
)

_COPY_MARK = re.compile(r"(?:\s*\(\d+\)|[\s_-]+copy(?:[\s_-]*\d+)?)\s*$", re.IGNORECASE)

# In a class of at least five clips, a word that four in five of them share is a way of numbering, not a source.
SCHEME_CLIPS = 5
SCHEME_PART = 0.8


def groups_by_pattern(paths: Sequence[str], pattern: str) -> list[str]:
    """Return the group of each clip at `<class>/<file>`: the first group of `pattern` in the file name, or its match.

    Raises:
        UserError: the pattern finds nothing in some name.
    """
    found = [re.search(pattern, PurePosixPath(path).name) for path in paths]
    groups: list[str] = [(match[1 if match.re.groups else 0] or "") if match else "" for match in found]
    without = [path for path, group in zip(paths, groups, strict=True) if not group]
    if without:
        raise UserError(
            f"dataset.group_pattern: {pattern!r} finds no group in {without[0]!r}"
            f"{f' and {len(without) - 1} other names' if len(without) > 1 else ''}; it must find one in every file name"
        )
    return groups


def groups_by_name(paths: Sequence[str]) -> list[str]:
    """Return the group of each clip at `<class>/<file>`, from names that differ only in a counter at their end.

    A name is read as words and numbers, in any case and with any characters between them. Marks of a copy (`(1)`,
    `copy`) are removed from its end, then one counter: a number (`_12`, `game12`), a number with a counting word or
    letter (`part 2`, `c04`), or a pair of six-digit times. The name of the class is removed anywhere, so that
    `anna_run_1` and `anna_walk_2` have one source. The rest is the source:

    - a word of three letters that is not generic, or any word with a number (`anna`, `cam2`, `video_12`): a source
      across classes;
    - less than that, such as `s03` or a number beside the class (`Run_11_3` is take 3 of `Run_11`): a source within
      its class;
    - nothing, a single generic word or a letter (`clip_01`, `001`, `v1`, `run_3`): no source; the clip is its own
      group.

    If unrelated clips are grouped, validation and test sets are coarser than necessary; if related clips are not, they
    leak. So doubtful cases are grouped; `dataset.group_pattern` or a table gives certainty.

    One word that four in five clips of a class share, if the class has at least five clips and the name has no other
    word (`fi001`, `fi002`, ...), is a way of numbering, not a source. Group names are lower-case words joined by `_`,
    with `<class>/` before a source within a class; the group of a single clip is its path.
    """
    sources = [_source(path) for path in paths]
    sizes = Counter(map(_class, paths))
    sharing = Counter(zip(map(_class, paths), sources, strict=True))
    schemes = {
        source
        for (name, source), count in sharing.items()
        if sizes[name] >= SCHEME_CLIPS and count >= SCHEME_PART * sizes[name] and source.isalpha()
    }
    return [
        path if not source or source in schemes else source if _is_specific(source) else f"{_class(path)}/{source}"
        for path, source in zip(paths, sources, strict=True)
    ]


def _class(path: str) -> str:
    return PurePosixPath(path).parts[0]


def _source(path: str) -> str:
    """Return the source that the name suggests, as words joined by `_`; empty if there is none."""
    words = _words(_without_copy_mark(PurePosixPath(path).stem))
    own = "".join(_words(_class(path)))
    rest = _without_class(_without_counter(words), own)
    numbered = any(character.isdigit() for word in rest for character in word)
    named = any(len(_letters(word)) > 1 and _letters(word) not in GENERIC for word in rest)
    if not named and not numbered:
        return ""
    if named or rest != _without_class(words, own):
        return "_".join(rest)
    return ""  # a number or generic name from which nothing was taken off: 00123, img2040


def _words(name: str) -> list[str]:
    """Return the words (letters with the digits after them) and numbers, without differences of case and width."""
    folded = unicodedata.normalize("NFKC", name).casefold()
    return re.findall(r"[^\W\d_]+\d*|\d+", folded)


def _letters(word: str) -> str:
    return word.rstrip("0123456789")


def _without_copy_mark(name: str) -> str:
    while (shorter := _COPY_MARK.sub("", name)) != name and shorter:
        name = shorter
    return name


def _without_counter(words: list[str]) -> list[str]:
    if not words:
        return words
    *front, last = words
    if last.isdigit():
        if len(last) == 6 and len(front) > 1 and front[-1].isdigit() and len(front[-1]) == 6:
            return front[:-1]  # start and end in seconds or frames, as Kinetics names its clips
        return front[:-1] if front and front[-1] in COUNTERS else front
    letters = _letters(last)
    if letters == last:
        return words
    return front if letters in COUNTERS or len(letters) == 1 else [*front, letters]


def _without_class(words: list[str], own: str) -> list[str]:
    for start in range(len(words)):
        for end in range(start + 1, len(words) + 1):
            if own and "".join(words[start:end]) == own:
                return [*words[:start], *words[end:]]
    return words


def _is_specific(source: str) -> bool:
    words = [word for word in source.split("_") if len(_letters(word)) > 1]
    numbered = any(character.isdigit() for character in source)
    return any(len(_letters(word)) > 2 and _letters(word) not in GENERIC for word in words) or bool(words) and numbered
