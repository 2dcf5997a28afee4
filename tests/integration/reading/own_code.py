"""Views whose own code raises, at every place where a reader calls it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from cachekeeper import Document, View
from cachekeeper.errors import ViewFailed
from cachekeeper.model.sources import Query
from cachekeeper.model.views import Staleness, TextView
from cachekeeper.values.codecs import Text
from testkit.shop import Shop, meta

if TYPE_CHECKING:
    from collections.abc import Callable

SECRET = "correct-horse"
EXCEPTIONS: list[type[Exception]] = [
    AssertionError,
    KeyError,
    OSError,
    RecursionError,
    StopIteration,  # which a generator would take for its end
    TypeError,
    ValueError,
    ZeroDivisionError,
]
REFUSED: dict[str, dict[str, Any]] = {
    "operator": {"name": {"$bogus": SECRET}},
    "top": {"$bogus": SECRET},
    "regex": {"name": {"$regex": f"({SECRET}"}},
    "options": {"name": {"$regex": SECRET, "$options": "q"}},
    "in": {"name": {"$in": SECRET}},
    "or": {"$or": []},
    "mod": {"name": {"$mod": [0, 1]}},
    "type": {"name": {"$type": SECRET}},
    "text": {"$text": {"$search": SECRET}},  # no index
    "near": {"name": {"$near": [1, 2]}},  # no index
    "expression": {"$expr": {"$bogus": SECRET}},
    "conversion": {"$expr": {"$toInt": "$name"}},
    "division": {"$expr": {"$divide": [1, 0]}},
    "script": {"$where": f"{SECRET.partition('-')[0]}.horse"},
}
"""Filters that MongoDB refuses, by the text that they are for."""
ANY = pytest.mark.parametrize("kind", EXCEPTIONS)
QUICK = 5.0  # seconds; a lookup that waits for a lease nobody gives back takes longer


class Own(Text):
    """A codec that fails for texts that begin in certain ways."""

    def __init__(self, kind: type[BaseException]) -> None:
        self.kind = kind

    def encode(self, value: object) -> bytes:
        if str(value).startswith("unwritable"):
            raise self.kind(SECRET)
        return super().encode(value)

    def decode(self, raw: bytes) -> str:
        text = super().decode(raw)
        if text.startswith("unreadable"):
            raise self.kind(SECRET)
        return text


def view(kind: type[BaseException] = KeyError, *, staleness: Staleness = Staleness.OURS) -> View[str]:
    """A view that fails for a name beginning with `unloadable`, `unwritable` or `unreadable`."""

    def value(document: Any) -> object:
        if str(document["name"]).startswith("unloadable"):
            raise kind(SECRET)
        return document["name"]

    loader = Document("users", value, fields=("name",))
    return View(name="own", key="own:{id}", ttl_seconds=60, codec=Own(kind), loader=loader, staleness=staleness)


def search(kind: type[BaseException] = KeyError) -> TextView[Any]:
    """The same for what a text finds; and for a text that begins with `unaskable`."""

    def value(documents: Any) -> object:
        names = ",".join(str(document["name"]) for document in documents)
        if names.startswith("unloadable"):
            raise kind(SECRET)
        return names

    def condition(text: str) -> dict[str, Any]:
        if text.startswith("unaskable"):
            raise kind(SECRET)
        if text in REFUSED:
            return REFUSED[text]
        return {"name": {"$regex": f"^{text}"}} if text != "unsendable" else {"name": {SECRET}}

    query = Query("users", condition, value)
    return TextView(name="own", key="own:{text}", ttl_seconds=60, codec=Own(kind), loader=query)


def fails(look_up: Callable[[], object], kind: type[BaseException]) -> ViewFailed:
    """It says so, typed, at once, and without a value."""
    began = time.monotonic()
    with pytest.raises(ViewFailed, match=f"view own: .*{kind.__name__}") as caught:
        look_up()
    assert time.monotonic() - began < QUICK
    assert type(caught.value.__cause__) is kind
    assert SECRET not in str(caught.value)
    return caught.value


def no_lease(shop: Shop, part: str = "1") -> bool:
    return b"l" not in meta(shop, view().template, part)
