"""The limit on nesting in an event: JSON that is nested more deeply can be read, but breaks later code."""

from __future__ import annotations

from typing import Final

DEEPEST: Final = 32
"""Levels of lists and objects in a message; its list of events is the first."""

DEEPEST_EVENT: Final = DEEPEST - 1
DEEPEST_FIELD: Final = DEEPEST - 2

TOO_DEEP: Final = f"is nested too deeply: use at most {DEEPEST_FIELD} levels of lists and objects in a field"


def deeper_than(levels: int, value: object) -> bool:
    """Whether JSON-ready lists and objects are nested more than `levels` deep. Works level by level, not by recursion.

    Args:
        levels: at least 1.
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
