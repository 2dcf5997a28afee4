"""How deeply an event may be nested: one that is nested too deeply can be read, and break what walks over it later."""

from __future__ import annotations

from typing import Final

DEEPEST: Final = 32
"""Levels of lists and objects in a message, beginning with its list of events."""

DEEPEST_EVENT: Final = DEEPEST - 1
DEEPEST_FIELD: Final = DEEPEST - 2

TOO_DEEP: Final = f"is nested too deeply: lists and objects may be nested {DEEPEST_FIELD} levels in a field"


def deeper_than(levels: int, value: object) -> bool:
    """Whether JSON-ready lists and objects are nested in more levels than these. Level by level, so without recursion.

    Args:
        levels: a number from 1 on.
        value: the first level, if it is a list or an object.
    """
    level: list[object] = [value]
    for _ in range(levels):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer if isinstance(outer, list) else ())
            if isinstance(inner, dict | list)
        ]
        if not level:
            return False
    return True
