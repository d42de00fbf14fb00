"""Class and clip names made safe to show: they can contain anything that a file name can contain."""

from __future__ import annotations

import itertools
import unicodedata
from collections.abc import Callable

_SYMBOLS = {**{code: 0x2400 + code for code in range(0x20)}, 0x7F: 0x2421}
_HIDDEN = ("Cc", "Cf", "Cs", "Cn")  # controls, signs that reorder or hide text, bytes that are no text, no characters


def visible(text: object) -> str:
    """Return the text with symbols for control characters (␊ for a newline), and � for other invisible characters.

    Those are characters that reorder or hide text, or cannot be written as UTF-8. The result is not escaped for markup.
    """
    shown = str(text).translate(_SYMBOLS)
    return "".join("\ufffd" if unicodedata.category(character) in _HIDDEN else character for character in shown)


def width_em(text: str) -> float:
    """Estimate the width of the text in a common sans-serif font, in em; rather too wide, so that labels fit."""
    return sum(_character_em(character) for character in text)


def shorten(text: str, room: float, width: Callable[[str], float] = width_em) -> str:
    """Return the text, cut with an ellipsis where it is wider than `room`. Names mostly differ at the front."""
    if width(text) <= room:
        return text
    fitting = [cut for cut in itertools.accumulate(text) if width(cut + "…") <= room]
    return (fitting[-1].rstrip() if fitting else "") + "…"


def _character_em(character: str) -> float:
    if unicodedata.combining(character):
        return 0.0
    if unicodedata.east_asian_width(character) in "WF":
        return 1.0
    if character in "mwMW@%":
        return 0.98
    if character in "iljtfI.,:;'|!()[] ":
        return 0.39
    return 0.72 if character.isupper() else 0.62
