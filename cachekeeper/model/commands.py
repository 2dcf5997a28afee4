"""Commands: what a handler asks for. Plain values, so that handlers stay pure and a batch can be coalesced.

Their reprs leave out ids and values: an id may be a session's or a token's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from cachekeeper.model.views import AnyView, BlocklistView, TextView, View
from cachekeeper.values.times import up_to_ms


@dataclass(frozen=True, slots=True)
class Persist:
    """A majority write of the document behind a key, done before anything in Redis.

    It must be safe to repeat, and several of one document must come to the same in any order, the collection's
    validator included: none is promised.

    Attributes:
        view: whose collection it is, and how ids map to `_id` there.
        id: the id in the key.
        update: an aggregation pipeline; the document is made where there is none.
    """

    view: View[Any]
    id: str = field(repr=False)
    update: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True, slots=True)
class Write:
    """The value of one key changed to `value`, at `version`."""

    view: View[Any]
    id: str = field(repr=False)
    value: object = field(repr=False)
    version: int


@dataclass(frozen=True, slots=True)
class Expire:
    """One key lives no longer than `at`; None for now, by Redis's own clock."""

    view: View[Any]
    id: str = field(repr=False)
    at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Invalidate:
    """One key changed, nobody knows to what version."""

    view: View[Any]
    id: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class InvalidateWithin:
    """Whatever was found by a text that occurs in one of `names` changed."""

    view: TextView[Any]
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class InvalidateAll:
    """Anything of the view may have changed. Linear in the number of cached keys. Of a blocklist only *ready* goes."""

    view: AnyView
    reason: str


@dataclass(frozen=True, slots=True)
class Block:
    """An id is blocked until `until` (and the leeway), None for ever. `until` is rounded up to whole milliseconds."""

    view: BlocklistView
    id: str = field(repr=False)
    until: datetime | None

    def __post_init__(self) -> None:
        # MongoDB and Redis keep milliseconds; cut off there, the block would end before the token does.
        if self.until is not None:
            object.__setattr__(self, "until", up_to_ms(self.until))


Command = Persist | Write | Expire | Invalidate | InvalidateWithin | InvalidateAll | Block


def changed(view: View[Any], document_id: str, value: object, version: int | None) -> Write | Invalidate:
    """The command for a change of one document: a write where its version is known, else an invalidation."""
    return Invalidate(view, document_id) if version is None else Write(view, document_id, value, version)
