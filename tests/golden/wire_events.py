"""The events of the golden files in `wire/`, as today's code makes them.

A file `wire/EVENT.json` holds what they are on the wire: `written`, in the order of this table, and `read`: other
spellings that are read as the event beside them, by its place in `written`. **Such a file changes only by additions**:
messages that were published before an upgrade are read after it, and services in other languages write what the files
say.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from cachekeeper.model.events import CollectionChanged, Event
from producers import ProductChanged, UserDeleted, UserLoggedOut, UserUpdated

WIRE = Path(__file__).with_name("wire")
OWN = Path(__file__).with_name("own_event.json")
"""The same for one event of a package of one's own: how each type of field is spelt."""

_AT = datetime(2031, 3, 4, 5, 6, 7, 890123, UTC)
_WHOLE = datetime(2031, 3, 4, 5, 6, 7, tzinfo=UTC)

EVENTS: dict[str, list[Event]] = {
    "collection.changed": [CollectionChanged(id="e1", time=_AT, collection="products")],
    "product.changed": [
        ProductChanged(id="e1", time=_AT, version=7, product_id="p1", name="Desk Light", previous_name="Desk Lamp"),
        ProductChanged(id="e2", time=_WHOLE, product_id="p1", name="Desk Light"),  # called nobody knows what
        ProductChanged(id="e3", time=_WHOLE, product_id="p1", name="Desk Light", previous_name=None),  # new
        ProductChanged(id="e4", time=_WHOLE, product_id="p1", deleted=True),
        ProductChanged(id="e5", time=_WHOLE, product_id="p1", deleted=True, previous_name="Desk Lamp"),
    ],
    "user.deleted": [UserDeleted(id="e1", time=_AT, user_id="42"), UserDeleted(id="e2", time=_WHOLE, user_id="ada")],
    "user.logged_out": [
        UserLoggedOut(
            id="e1", time=_AT, version=7, session_id="s1", token_id="t1", token_expires_at=_WHOLE, user_id="42"
        ),
        UserLoggedOut(id="e2", time=_WHOLE, session_id="s1"),
        UserLoggedOut(id="e3", time=_WHOLE, token_id="t1"),
        UserLoggedOut(id="e4", time=_WHOLE, token_id="t1", token_expires_at=None),
    ],
    "user.updated": [
        UserUpdated(
            id="e1", time=_AT, version=9_007_199_254_740_991, user_id="42", name="Ada \u00c5ngstr\u00f6m \U0001f600"
        ),
        UserUpdated(id="e2", time=_WHOLE, version=0, user_id="507f1f77bcf86cd799439011", name=""),
        UserUpdated(id="e3", time=_WHOLE, user_id="tenant:42", name='"quoted" \\ \n'),
    ],
}
