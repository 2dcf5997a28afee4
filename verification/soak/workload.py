"""The numbered events, and the data in MongoDB and in the cache that they lead to.

Each number is one event. The event's id contains it, so that a worker can count which events it has applied. The user's
version is computed from it, so that versions rise.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from pymongo import UpdateOne

from producers import ProductChanged, UserLoggedOut, UserUpdated

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pymongo.database import Database

    from cachekeeper.model.events import Event

USERS = 499
PRODUCTS = 97
_KINDS = 20  # one event in so many is a logout, one changes a product; has no common factor with the two above
_LOGOUT, _PRODUCT = 7, 13
_TOKEN_SECONDS = 30
_ID = re.compile(r"soak-([0-9]+)")


def name_of(version: int) -> str:
    """A user's name at a version."""
    return f"name {version}"


def version_of(number: int) -> int:
    """The version that event `number` gives its user."""
    return number + 2


def product_name(number: int) -> str:
    """A product's name after event `number`. A number below zero gives the name before the first event."""
    return f"p{number % PRODUCTS:02} {max(number, -1)}"


def event_of(number: int) -> Event:
    """The event with this number."""
    name = f"soak-{number}"
    if number % _KINDS == _LOGOUT:
        return UserLoggedOut(
            id=name, token_id=name, token_expires_at=datetime.now(UTC) + timedelta(seconds=_TOKEN_SECONDS)
        )
    if number % _KINDS == _PRODUCT:
        product, before = number % PRODUCTS, product_name(number - _KINDS * PRODUCTS)
        return ProductChanged(id=name, product_id=str(product), name=product_name(number), previous_name=before)
    version = version_of(number)
    return UserUpdated(id=name, user_id=str(number % USERS), name=name_of(version), version=version)


def number_in(body: object) -> int | None:
    """The number of an event in a message; None for an event from elsewhere."""
    match = _ID.fullmatch(str(body.get("id"))) if isinstance(body, dict) else None
    return int(match[1]) if match else None


def stock(database: Database[Any]) -> None:
    """Create the documents before the first event."""
    database["users"].insert_many([{"_id": user, "name": name_of(1), "version": 1} for user in range(USERS)])
    products = [{"_id": product, "name": product_name(product - PRODUCTS)} for product in range(PRODUCTS)]
    database["products"].insert_many(products)


def commit(database: Database[Any], numbers: Iterable[int]) -> None:
    """Commit the changes that these events report. It can be repeated: no older change overwrites a newer one."""
    users, products = [], []
    for number in numbers:
        if number % _KINDS == _PRODUCT:
            products.append(UpdateOne({"_id": number % PRODUCTS}, {"$set": {"name": product_name(number)}}))
        elif number % _KINDS != _LOGOUT:
            version = version_of(number)
            older = {"_id": number % USERS, "version": {"$lt": version}}
            users.append(UpdateOne(older, {"$set": {"name": name_of(version), "version": version}}))
    for collection, updates in (("users", users), ("products", products)):
        if updates:
            database[collection].bulk_write(updates, ordered=False)
