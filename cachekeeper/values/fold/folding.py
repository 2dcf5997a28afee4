"""The fold and the MongoDB pattern, both from the one table, so that key and match agree on every server."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

# What PCRE reads as more than itself outside a class. No class holds a character that is special inside one.
_SPECIAL = frozenset("\\^$.[]|()?*+{}")


class _Table(NamedTuple):
    folds: dict[int, str]  # as str.translate wants it: only characters that change
    patterns: dict[int, str]  # only characters whose pattern is not the character itself


@cache
def _table() -> _Table:
    """Read at first use: importing this costs nothing."""
    classes: list[str] = json.loads(files(__package__).joinpath("classes.json").read_bytes())["classes"]
    return _Table(
        folds={ord(other): members[0] for members in classes for other in members[1:]},
        patterns={ord(character): f"\\{character}" for character in _SPECIAL}
        | {ord(members[0]): f"[{members}]" for members in classes},
    )


def fold(text: str) -> str:
    """`text` with each character replaced by the one that stands for its class.

    One character gives one character, so a text occurs in a name if and only if the folded text occurs in the folded
    name at the same place. Folding twice changes nothing. ASCII becomes what `toLowerCase()` makes of it. The size in
    UTF-8 may change. Nothing is normalised: a letter with a combining accent is not the accented letter.
    """
    if text.isascii():
        return text.lower()  # the same by the table, and several times as fast
    return text.translate(_table().folds)


def pattern(text: str) -> str:
    """A regular expression for MongoDB that finds `text` literally, without regard to case.

    To be used without the option `i`: the classes of the fold are spelt out, as in `[kK\u212a]`, so that a name n
    matches `pattern(t)` if and only if `fold(t)` is a substring of `fold(n)`. It has no repetition, so it never
    backtracks, and is at most seven times as long as the text in UTF-8; MongoDB takes 32,764 bytes.

    Args:
        text: folded or not; without NUL, which MongoDB takes in no pattern.
    """
    return fold(text).translate(_table().patterns)


def condition(text: str) -> dict[str, Any]:
    """The condition on a field, for a MongoDB query, that it is text and holds `text` without regard to case.

    `$regex` alone also matches an array with such an element. An event names one text, so a change of such a document
    could not be invalidated exactly; it is not found at all.
    """
    return {"$regex": pattern(text), "$type": "string", "$not": {"$type": "array"}}


def vectors() -> dict[str, Any]:
    """The test vectors: texts with their folded form, key and pattern; names with the key of every text in them."""
    answer: dict[str, Any] = json.loads(files(__package__).joinpath("vectors.json").read_bytes())
    return answer
