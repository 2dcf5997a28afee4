"""Watches on MongoDB's collections: they make the events that `cachekeeper stream` stores in the outbox.

A service that only writes to MongoDB needs no code.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Literal

from cachekeeper.errors import InvalidEvent
from cachekeeper.model.changes import UNKNOWN, Change, Unknown, Watch
from cachekeeper.model.events import CollectionChanged, Event
from cachekeeper.model.sources import ABSENT
from cachekeeper.values.ids import IdType
from producers.events import ProductChanged, UserDeleted, UserLoggedOut, UserUpdated

if TYPE_CHECKING:
    from collections.abc import Iterator

_VERSION = "version"
_REPLACED = "\ufffd"  # the driver reads it where another program wrote text that is not UTF-8: the text is unknown


def user_events(change: Change) -> Iterator[Event]:
    """Make an event for the name of a user, if this change may have changed it."""
    if change.id is None or not change.touches("name"):
        return
    # For a user that is deleted, has no name, or has an unknown name: the cached name is dropped.
    unnamed = UserDeleted(user_id=change.id, time=change.time)
    name = _text(change.after("name"))
    if not isinstance(name, str):
        yield unnamed
        return
    try:
        yield UserUpdated(user_id=change.id, name=name, version=change.raised(_VERSION), time=change.time)
    except InvalidEvent:  # an event cannot hold such a name: readers load it
        yield unnamed


def product_events(change: Change) -> Iterator[Event]:
    """Make an event with the names by which searches found a product before and find it now.

    Any change of the product counts, since searches cache the whole document.
    """
    before, after = _text(change.before("name")), _text(change.after("name"))
    product, time = change.label, change.time
    if after is UNKNOWN:
        yield CollectionChanged(collection="products", time=time)
    elif after is None:
        # Deleted, or without a name: searches no longer find it.
        if before is UNKNOWN:
            yield ProductChanged(product_id=product, deleted=True, time=time)
        elif before is not None:
            yield ProductChanged(product_id=product, deleted=True, name=before, time=time)
    elif before is UNKNOWN:
        yield ProductChanged(product_id=product, name=after, version=change.raised(_VERSION), time=time)
    else:
        version = change.raised(_VERSION)
        yield ProductChanged(product_id=product, name=after, previous_name=before, version=version, time=time)


def session_events(change: Change) -> Iterator[Event]:
    """Make an event for the end of a session. The removal of its document is ignored: the TTL index does it."""
    if change.id is None or change.operation == "delete" or not change.touches("ended_at"):
        return
    if change.after("ended_at") not in (None, ABSENT):
        yield UserLoggedOut(session_id=change.id, time=change.time)


def token_events(change: Change) -> Iterator[Event]:
    """Make an event for a new or longer block. The removal of its document is ignored: the TTL index does it."""
    if change.id is None or change.operation == "delete" or not change.touches("expires_at"):
        return
    ends = change.after("expires_at")
    # An end that cannot be read counts as no end: the block stays.
    until = ends if isinstance(ends, datetime) else None
    yield UserLoggedOut(token_id=change.id, token_expires_at=until, time=change.time)


WATCHES = (
    Watch(collection="users", fields=("name", _VERSION), events=user_events, view="user_name"),
    Watch(collection="products", fields=("name", _VERSION), events=product_events),
    Watch(collection="sessions", fields=("ended_at",), events=session_events, view="session"),
    # The id of a block is the token's id, as text.
    Watch(collection="blocked_tokens", fields=("expires_at",), events=token_events, ids=IdType.STR),
)


def _text(name: object) -> str | Literal[Unknown.UNKNOWN] | None:
    """The name; None where there is no name; `UNKNOWN` where it is not known, or is not text."""
    if name is None or name is ABSENT:
        return None
    return name if isinstance(name, str) and _REPLACED not in name else UNKNOWN
