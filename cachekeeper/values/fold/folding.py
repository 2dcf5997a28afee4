"""The fold and the MongoDB pattern, made from the same table, so that key and match agree on every server."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

# The characters that PCRE does not read literally outside a `[…]` class. No class of the fold contains a character
# that is special inside `[…]`.
_SPECIAL = frozenset("\\^$.[]|()?*+{}")


class _Table(NamedTuple):
    folds: dict[int, str]  # for str.translate: only characters that change
    patterns: dict[int, str]  # only characters whose pattern is not the character itself


@cache
def _table() -> _Table:
    """Read the table at first use, so that importing this module costs nothing."""
    classes: list[str] = json.loads(files(__package__).joinpath("classes.json").read_bytes())["classes"]
    return _Table(
        folds={ord(other): members[0] for members in classes for other in members[1:]},
        patterns={ord(character): f"\\{character}" for character in _SPECIAL}
        | {ord(members[0]): f"[{members}]" for members in classes},
    )


def fold(text: str) -> str:
    """Replace each character of a text by the character that stands for its class.

    One character gives one character. So a text occurs in a name if and only if the folded text occurs in the folded
    name at the same place. Folding twice changes nothing more. ASCII is folded as `toLowerCase()` does it. The size in
    UTF-8 may change. Nothing is normalised: a letter with a combining accent is not the accented letter.
    """
    if text.isascii():
        return text.lower()  # same result as the table, several times as fast
    return text.translate(_table().folds)


def pattern(text: str) -> str:
    """Make a regular expression for MongoDB that finds `text` literally, without regard to case.

    Use it without the option `i`. The classes of the fold are spelt out, as in `[kK\u212a]`, so that a name n
    matches `pattern(t)` if and only if `fold(t)` is a substring of `fold(n)`. The pattern has no repetition, so it
    never backtracks. It is at most seven times as long as the text in UTF-8; MongoDB's limit is 32,764 bytes.

    Args:
        text: folded or not; without NUL, which MongoDB does not accept in a pattern.
    """
    return fold(text).translate(_table().patterns)


def condition(text: str) -> dict[str, Any]:
    """Make the condition, for a MongoDB query, that a field is text and contains `text` without regard to case.

    `$regex` alone also matches an array with such an element. This condition does not: an event names one text, so a
    change of a document with an array could not be invalidated exactly.
    """
    return {"$regex": pattern(text), "$type": "string", "$not": {"$type": "array"}}


def vectors() -> dict[str, Any]:
    """Read the test vectors: texts with their folded form, key and pattern; names with the key of each text in them."""
    answer: dict[str, Any] = json.loads(files(__package__).joinpath("vectors.json").read_bytes())
    return answer
