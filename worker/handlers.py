"""Handlers: pure functions from an event to the commands that change the views."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cachekeeper.model.commands import (
    Block,
    Command,
    Expire,
    Invalidate,
    InvalidateAll,
    InvalidateWithin,
    Persist,
    changed,
)
from lookups.products import SEARCH
from lookups.sessions import END_SESSION, SESSION
from lookups.tokens import BLOCKED
from lookups.users import USER_NAME

if TYPE_CHECKING:
    from collections.abc import Iterator

    from producers.events import ProductChanged, UserDeleted, UserLoggedOut, UserUpdated


def on_user_updated(event: UserUpdated) -> Iterator[Command]:
    """Write the name where its version is known, else invalidate it."""
    yield changed(USER_NAME, event.user_id, event.name, event.version)


def on_user_deleted(event: UserDeleted) -> Iterator[Command]:
    """Invalidate the name."""
    yield Invalidate(USER_NAME, event.user_id)


def on_user_logged_out(event: UserLoggedOut) -> Iterator[Command]:
    """End the session in MongoDB, then in Redis, and block the token."""
    if event.session_id is not None:
        yield Persist(SESSION, event.session_id, END_SESSION)
        yield Expire(SESSION, event.session_id)
    if event.token_id is not None:
        yield Block(BLOCKED, event.token_id, event.token_expires_at)


def on_product_changed(event: ProductChanged) -> Iterator[Command]:
    """Invalidate every search that found the product by its old name, or finds it by its new one."""
    names = tuple(name for name in (event.name, event.previous_name) if name is not None)
    if event.deleted and names:
        yield InvalidateWithin(SEARCH, names)
    elif event.deleted:
        yield InvalidateAll(SEARCH, "a product was deleted, and its name is not known")
    elif "previous_name" not in event.model_fields_set:
        yield InvalidateAll(SEARCH, "a product changed, and its previous name is not known")
    else:
        yield InvalidateWithin(SEARCH, names)
