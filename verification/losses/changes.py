"""The numbered changes: the documents before them, each change, its event, and the key that it makes stale."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from lookups.products import SEARCH
from lookups.users import USER_NAME
from producers import ProductChanged, UserDeleted, UserUpdated

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from collections.abc import Set as AbstractSet

    from pymongo.client_session import ClientSession
    from pymongo.database import Database

    from cachekeeper.model.events import Event

DONE = "losses:done"
"""A set in the cache: the numbers of the changes whose event a worker has applied or stored as a dead letter."""

SLOWEST = "losses:slowest"
"""A sorted set in the cache with one member. Its score is the time that the slowest event took, in seconds."""

_EACH = 10  # one change in so many renames a product, and one deletes a user


def is_product(number: int) -> bool:
    """Whether this change renames a product."""
    return number % _EACH == _EACH - 1


def is_deletion(number: int) -> bool:
    """Whether this change deletes a user."""
    return number % _EACH == _EACH // 2


def text_of(number: int) -> str:
    """The search text that finds the product before its change, and finds nothing after it."""
    return f"p{number:06}"


def key_of(number: int) -> str:
    """The key that the change makes stale."""
    if is_product(number):
        return SEARCH.template.key(text_of(number))
    return USER_NAME.template.key(str(number))


def number_of(key: str) -> int:
    """The number of the change that makes this key stale."""
    (digits,) = re.findall(r"[0-9]+", key)
    return int(digits)


def number_in(body: object) -> int | None:
    """The number of the change that an event in a message reports; None for any other event."""
    number = (body.get("user_id") or body.get("product_id")) if isinstance(body, dict) else None
    return None if number is None else int(number)


def silent(values: Mapping[int, object | None], done: AbstractSet[int]) -> set[int]:
    """Find the changes whose key is gone for another reason than their event. A loss of these would not show.

    Only the events of deletions and of products remove the key. The event of a user's new name overwrites it.

    Args:
        values: for each change, the value at its key at the end; None if the key is gone.
        done: changes whose event a worker has applied or stored as a dead letter.
    """
    gone = {number for number, value in values.items() if value is None}
    return {number for number in gone if number not in done or not (is_product(number) or is_deletion(number))}


def stock(database: Database[Any], count: int) -> None:
    """Create the documents before the changes. Pre-images tell the change stream a product's former name."""
    for name in ("users", "products"):
        database.create_collection(name, changeStreamPreAndPostImages={"enabled": True})
    for name, documents in (
        ("users", [{"_id": n, "name": f"old {n}", "version": 1} for n in range(count) if not is_product(n)]),
        ("products", [{"_id": n, "name": text_of(n), "version": 1} for n in range(count) if is_product(n)]),
    ):
        if documents:
            database[name].insert_many(documents)


def change(database: Database[Any], session: ClientSession, number: int) -> None:
    """Change a document, in a transaction."""
    if is_product(number):
        fields = {"$set": {"name": f"q{number:06}", "version": 2}}
        database["products"].update_one({"_id": number}, fields, session=session)
    elif is_deletion(number):
        database["users"].delete_one({"_id": number}, session=session)
    else:
        fields = {"$set": {"name": f"new {number}", "version": 2}}
        database["users"].update_one({"_id": number}, fields, session=session)


def event_of(number: int) -> Event:
    """The event of this change, with the present time."""
    if is_product(number):
        name = f"q{number:06}"
        return ProductChanged(product_id=str(number), name=name, previous_name=text_of(number), version=2)
    if is_deletion(number):
        return UserDeleted(user_id=str(number))
    return UserUpdated(user_id=str(number), name=f"new {number}", version=2)


def slowest(bodies: Iterable[object]) -> float:
    """The age of the oldest of these events, in seconds; 0 if no event has a time."""
    now = datetime.now(UTC)
    times = [datetime.fromisoformat(body["time"]) for body in bodies if isinstance(body, dict) and body.get("time")]
    return max(((now - time).total_seconds() for time in times), default=0.0)
