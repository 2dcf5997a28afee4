"""Commands, which a handler returns. They are plain values, so handlers stay pure and a batch can be coalesced.

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
    """A write of the document behind a key, by majority, before any write to Redis.

    The update must be safe to repeat. No order is promised: several updates of one document must give the same result
    in any order, and pass the collection's validator in any order.

    Attributes:
        view: the view of the key; it names the collection, and says how ids map to `_id`.
        id: the id in the key.
        update: an aggregation pipeline; a missing document is created.
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
    """One key must not live beyond `at`; None means now, by Redis's own clock."""

    view: View[Any]
    id: str = field(repr=False)
    at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Invalidate:
    """The value of one key changed, and its new version is not known."""

    view: View[Any]
    id: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class InvalidateWithin:
    """Each search text that occurs in one of `names` may find something else now."""

    view: TextView[Any]
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class InvalidateAll:
    """Any value of the view may have changed. The cost is linear in the number of cached keys.

    A blocklist loses only its *ready* key.
    """

    view: AnyView
    reason: str


@dataclass(frozen=True, slots=True)
class Block:
    """An id is blocked until `until` plus the leeway; None blocks it forever.

    `until` is rounded up to whole milliseconds.
    """

    view: BlocklistView
    id: str = field(repr=False)
    until: datetime | None

    def __post_init__(self) -> None:
        # MongoDB and Redis keep whole milliseconds. Rounded down, the block would end before the token does.
        if self.until is not None:
            object.__setattr__(self, "until", up_to_ms(self.until))


Command = Persist | Write | Expire | Invalidate | InvalidateWithin | InvalidateAll | Block


def changed(view: View[Any], document_id: str, value: object, version: int | None) -> Write | Invalidate:
    """The command for a change of one document: a write where its version is known, else an invalidation."""
    return Invalidate(view, document_id) if version is None else Write(view, document_id, value, version)
