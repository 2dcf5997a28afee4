"""The drawing on top of `cachekeeper.errors` against the classes."""

import re
from types import ModuleType

import pytest

import lookups
import producers
from cachekeeper import errors
from cachekeeper.errors import CachekeeperError

DRAWING = errors.__doc__ or ""


def drawn_parents(drawing: str) -> dict[str, str | None]:
    """Each error of the drawing, with the one above it."""
    found: dict[str, str | None] = {}
    above: list[str] = []
    for branches, name in re.findall(r"^    ((?:[│ ] {3})*(?:[├└]── )?)([A-Z]\w+)", drawing, re.MULTILINE):
        depth = len(branches) // 4
        above[depth:] = [name]
        found[name] = above[depth - 1] if depth else None
    return found


def real_parents() -> dict[str, str | None]:
    """Each error that a user may meet by name, with its first base."""
    modules: tuple[ModuleType, ...] = (errors, lookups, producers)
    classes = [value for module in modules for value in vars(module).values() if isinstance(value, type)]
    return {
        kind.__name__: None if kind is CachekeeperError else kind.__bases__[0].__name__
        for kind in classes
        if issubclass(kind, CachekeeperError)
    }


def test_each_error_hangs_where_the_drawing_shows_it() -> None:
    assert drawn_parents(DRAWING) == real_parents()


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        ("└── SessionEnded (in lookups) ", ""),
        ("│       └── UnknownEvent", "│   └── UnknownEvent"),
        ("BufferFull", "Full"),
    ],
    ids=["not there", "elsewhere", "another name"],
)
def test_a_wrong_drawing_is_found(good: str, bad: str) -> None:
    assert good in DRAWING
    assert drawn_parents(DRAWING.replace(good, bad)) != real_parents()
