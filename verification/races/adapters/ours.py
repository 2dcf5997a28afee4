"""This project, through its public lookups and handlers; and a client of its protocol that numbers its leases."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any
from unittest import mock

from cachekeeper import InvalidateAll, Keeper, Settings
from cachekeeper.applying.batch import apply
from cachekeeper.protocol import scripts
from cachekeeper.reading import core
from cachekeeper.upkeep.blocklist_warming import write_blocks
from cachekeeper.values.fold import escape_braces, fold
from lookups import (
    BLOCKED,
    SEARCH,
    SessionEnded,
    is_blocked,
    read_session,
    read_user,
    save_session,
    search_products,
)
from lookups import SESSION as SESSIONS
from lookups import USER_NAME as USERS
from producers import ProductChanged, UserDeleted, UserLoggedOut, UserUpdated
from testkit.limits import PATIENT
from testkit.taps import is_script
from verification.races.adapters.base import SESSION, USER, Client, Contender
from worker import handlers

if TYPE_CHECKING:
    from pymongo.database import Database

    from cachekeeper.model.commands import Command
    from testkit.taps import Words
    from verification.races.points import Wire


_TEMPLATES = {
    "user": USERS.template,
    "session": SESSIONS.template,
    "blocked": BLOCKED.template,
    "search": SEARCH.template,
}


class Ours(Client):
    """One keeper. It shares only the servers with others."""

    def __init__(self, wire: Wire, database: Database[Any]) -> None:
        super().__init__(wire, database)
        # Long time limits, so that none ends a call by accident; no leeway, because 60 s would hide which block counts.
        settings = Settings(
            redis_url=wire.url, mongodb_url="mongodb://127.0.0.1:1/none", block_leeway_seconds=0, **PATIENT
        )
        self._keeper = Keeper(settings, database=database)

    def key(self, kind: str, part: object) -> str:
        """Return the key of the shipped view."""
        text = str(part)
        if kind == "search":
            text = escape_braces(fold(text))
        return _TEMPLATES[kind].key(text)

    def read_user(self) -> str | None:
        """`read_user`."""
        return read_user(USER, keeper=self._keeper)

    def user_changed(self, name: str, version: int | None) -> None:
        """`user.updated`."""
        self._apply(handlers.on_user_updated(UserUpdated(user_id=str(USER), name=name, version=version)))

    def user_deleted(self) -> None:
        """`user.deleted`."""
        self._apply(handlers.on_user_deleted(UserDeleted(user_id=str(USER))))

    def users_dropped(self) -> None:
        """The command of `collection.changed`."""
        self._apply([InvalidateAll(USERS, "the collection was dropped")])

    def read_session(self) -> dict[str, Any] | None:
        """`read_session`."""
        return read_session(SESSION, keeper=self._keeper)

    def save_session(self, data: dict[str, Any]) -> None:
        """`save_session`. `SessionEnded` is a valid answer."""
        with suppress(SessionEnded):
            save_session(SESSION, data, keeper=self._keeper)

    def log_out(self) -> None:
        """`user.logged_out`."""
        self._apply(handlers.on_user_logged_out(UserLoggedOut(session_id=SESSION)))

    def is_blocked(self, token: str) -> bool:
        """`is_blocked`."""
        return is_blocked(token, keeper=self._keeper)

    def block(self, token: str, until: datetime) -> None:
        """`user.logged_out` with a token."""
        self._apply(handlers.on_user_logged_out(UserLoggedOut(token_id=token, token_expires_at=until)))

    def warm_blocks(self, tokens: Iterable[str]) -> None:  # noqa: ARG002  # it reads them from MongoDB
        """Make one full pass, as a worker does."""
        write_blocks(self._keeper, BLOCKED)

    def ends_warming(self, words: Words, last: str) -> bool:  # noqa: ARG002  # *ready* is set once for all
        """Return whether the command sets *ready*."""
        return is_script(words, scripts.declare_ready("", "", "").script.sha)

    def search(self, text: str) -> list[str]:
        """`search_products`."""
        return [each["name"] for each in search_products(text, keeper=self._keeper)]

    def product_renamed(self, old: str, new: str) -> None:
        """`product.changed`."""
        self._apply(handlers.on_product_changed(ProductChanged(product_id="1", name=new, previous_name=old)))

    def close(self) -> None:
        """Close the keeper."""
        self._keeper.close()

    def _apply(self, commands: Iterable[Command]) -> None:
        for result in apply(self._keeper, [list(commands)]):
            if result.error is not None:
                raise result.error


class Numbered(Ours):
    """Ours, but each process numbers its leases from 1, so two processes, or two lives of one, use the same numbers."""

    def __init__(self, wire: Wire, database: Database[Any]) -> None:
        super().__init__(wire, database)
        self._numbers = itertools.count(1)

    def read_user(self) -> str | None:
        """With numbered leases."""
        with self._numbering():
            return super().read_user()

    def read_session(self) -> dict[str, Any] | None:
        """With numbered leases."""
        with self._numbering():
            return super().read_session()

    def save_session(self, data: dict[str, Any]) -> None:
        """With numbered leases."""
        with self._numbering():
            super().save_session(data)

    def search(self, text: str) -> list[str]:
        """With numbered leases."""
        with self._numbering():
            return super().search(text)

    @contextmanager
    def _numbering(self) -> Iterator[None]:
        """Number the leases that this thread asks for with this client's counter."""
        _counting.numbers = self._numbers
        try:
            with _patched:
                yield
        finally:
            del _counting.numbers


_counting = threading.local()
_random = scripts.new_nonce


class _Patched:
    """Replaces the engine's nonces while a numbered client is active. The nonces of other clients stay random."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._patch = mock.patch.object(core, "new_nonce", _number)

    def __enter__(self) -> None:
        with self._lock:
            if self._users == 0:
                self._patch.start()
            self._users += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0:
                self._patch.stop()


def _number() -> str:
    numbers = getattr(_counting, "numbers", None)
    return _random() if numbers is None else str(next(numbers))


_patched = _Patched()

OURS = Contender(
    "cachekeeper",
    Ours,
    "its public lookups, and its handlers through `cachekeeper.applying.batch.apply`, with the settings of the tests",
)
REUSED = Contender(
    "reused lease id",
    Numbered,
    "this project's protocol, but each process numbers its leases from 1 instead of drawing a random nonce",
)
