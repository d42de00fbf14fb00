"""Names made fit to be shown: a class or clip name may hold anything that a file name can hold."""

from __future__ import annotations

import unicodedata

# Signs that reorder or hide the text around them, so that what is read is not what is there.
_DECEPTIVE = frozenset([*range(0x200B, 0x2010), *range(0x202A, 0x202F), *range(0x2060, 0x2070), 0xFEFF])


def visible(text: object) -> str:
    """The text with every control character as its picture (a newline as ␊), and what reorders, hides or cannot be
    written as UTF-8 as �. Not escaped: whoever puts it into markup does that."""
    return "".join(_visible(character) for character in str(text))


def _visible(character: str) -> str:
    code = ord(character)
    if code < 0x20:
        return chr(0x2400 + code)
    if code == 0x7F:
        return "\u2421"
    # 0x80 to 0x9f are controls too; surrogates stand for bytes that are no text; two codes a plane are no characters.
    if 0x80 <= code < 0xA0 or 0xD800 <= code < 0xE000 or code & 0xFFFE == 0xFFFE or code in _DECEPTIVE:
        return "\ufffd"
    return character


def width_em(text: str) -> float:
    """About how wide the text is in a common sans-serif face, in em. Errs on the wide side, so that labels fit."""
    return sum(_character_em(character) for character in text)


def shorten(text: str, em: float) -> str:
    """The text, cut with an ellipsis where it would be wider than `em`. The end goes: names differ at the front."""
    if width_em(text) <= em:
        return text
    kept, width = [], width_em("…")
    for character in text:
        width += _character_em(character)
        if width > em:
            break
        kept.append(character)
    return "".join(kept).rstrip() + "…"


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
