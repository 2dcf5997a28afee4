"""The changes, by number: what is there before, what each does, what its event says, and which key it makes stale."""

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
"""A set in the cache: the numbers of the changes whose event a worker was done with."""

SLOWEST = "losses:slowest"
"""A sorted set in the cache; its only score is how long the slowest event took, in seconds."""

_EACH = 10  # of so many changes one renames a product, and one deletes a user


def is_product(number: int) -> bool:
    """Whether the change is one of a product."""
    return number % _EACH == _EACH - 1


def is_deletion(number: int) -> bool:
    """Whether it deletes a user."""
    return number % _EACH == _EACH // 2


def text_of(number: int) -> str:
    """The search that finds the product before its change, and nothing after it."""
    return f"p{number:06}"


def key_of(number: int) -> str:
    """The key that the change makes stale."""
    if is_product(number):
        return SEARCH.template.key(text_of(number))
    return USER_NAME.template.key(str(number))


def number_of(key: str) -> int:
    """Which change makes this key stale."""
    (digits,) = re.findall(r"[0-9]+", key)
    return int(digits)


def number_in(body: object) -> int | None:
    """Which change an event is of, as it lies in a message; None for any other event."""
    number = (body.get("user_id") or body.get("product_id")) if isinstance(body, dict) else None
    return None if number is None else int(number)


def silent(values: Mapping[int, object | None], done: AbstractSet[int]) -> set[int]:
    """Changes whose key is gone without a word: nothing shows any more whether they came through.

    Only the event of a deletion or of a product takes the key away; a user's name is overwritten.

    Args:
        values: what is at the key of each change in the end; None where it is gone.
        done: changes whose event a worker was done with.
    """
    gone = {number for number, value in values.items() if value is None}
    return {number for number in gone if number not in done or not (is_product(number) or is_deletion(number))}


def stock(database: Database[Any], count: int) -> None:
    """What is there before the changes. Images, so that the change stream knows a product's former name."""
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
    """What happened, and now."""
    if is_product(number):
        name = f"q{number:06}"
        return ProductChanged(product_id=str(number), name=name, previous_name=text_of(number), version=2)
    if is_deletion(number):
        return UserDeleted(user_id=str(number))
    return UserUpdated(user_id=str(number), name=f"new {number}", version=2)


def slowest(bodies: Iterable[object]) -> float:
    """How long ago the oldest of these events happened, in seconds; 0 where none tells."""
    now = datetime.now(UTC)
    times = [datetime.fromisoformat(body["time"]) for body in bodies if isinstance(body, dict) and body.get("time")]
    return max(((now - time).total_seconds() for time in times), default=0.0)
