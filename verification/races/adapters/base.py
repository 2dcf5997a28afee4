"""The interface that a case uses of a contender, and the code that services write around a caching library."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pymongo.database import Database

    from testkit.taps import Words
    from verification.races.points import Wire

USER = 1
SESSION = "s1"
TTL_SECONDS = 3600
SESSION_SECONDS = 1800


@dataclass(frozen=True)
class Contender:
    """A way to cache.

    Attributes:
        name: the column in the table.
        make: makes a client, which stands for one process, from its wire to Redis and the database.
        practice: the documentation that it follows, and how concepts that the library lacks are played.
        keeps: whether it keeps data in Redis beside the values (locks, versions), which may be evicted alone.
    """

    name: str
    make: Callable[[Wire, Database[Any]], Client]
    practice: str
    keeps: bool = True


class Client(ABC):
    """One process, which reads and applies events. An event is acknowledged when the call returns."""

    def __init__(self, wire: Wire, database: Database[Any]) -> None:
        self.wire = wire
        self.database = database

    @abstractmethod
    def key(self, kind: str, part: object) -> str:
        """Return the key of the value of a `user`, `session`, `blocked` or `search`."""

    @abstractmethod
    def read_user(self) -> str | None:
        """Return the name of the one user."""

    @abstractmethod
    def user_changed(self, name: str, version: int | None) -> None:
        """Apply the event of a change that MongoDB holds already."""

    @abstractmethod
    def user_deleted(self) -> None:
        """Apply the event of a deletion that MongoDB holds already."""

    @abstractmethod
    def users_dropped(self) -> None:
        """Apply the event that any user may have changed."""

    @abstractmethod
    def read_session(self) -> dict[str, Any] | None:
        """Return the data of the one session."""

    @abstractmethod
    def save_session(self, data: dict[str, Any]) -> None:
        """Save it in MongoDB and in the cache. One that has ended stays ended in MongoDB."""

    @abstractmethod
    def log_out(self) -> None:
        """End it in MongoDB and in the cache."""

    @abstractmethod
    def is_blocked(self, token: str) -> bool:
        """Return whether a token is blocked."""

    @abstractmethod
    def block(self, token: str, until: datetime) -> None:
        """Block it in MongoDB, where the longer of two blocks counts, and in the cache."""

    @abstractmethod
    def warm_blocks(self, tokens: Iterable[str]) -> None:
        """Write all blocks of MongoDB to the cache; `tokens` are the existing ones."""

    @abstractmethod
    def search(self, text: str) -> list[str]:
        """Return the names of the products whose name contains the text."""

    @abstractmethod
    def product_renamed(self, old: str, new: str) -> None:
        """Apply the event of a new name that MongoDB holds already."""

    def ends_warming(self, words: Words, last: str) -> bool:
        """Return whether a command is the one with which warming ends. `last` is the last token."""
        return words[0].upper() not in {b"GET", b"EXISTS"} and any(
            self.key("blocked", last).encode() in word for word in words[1:]
        )

    @abstractmethod
    def close(self) -> None:
        """Close all connections."""


class Aside(Client):
    """Cache-aside around a library: its cached lookup over MongoDB, and its removal of the key on a change.

    It writes and reads MongoDB as carefully as this project does: majority writes, the primary, an ended session stays
    ended, the longer block counts. Only the cache differs.
    """

    @abstractmethod
    def lookup(self, kind: str, part: object) -> Any:
        """Call `load` through the library's cache."""

    @abstractmethod
    def forget(self, kind: str, part: object) -> None:
        """Remove one cached result, as the library does it."""

    @abstractmethod
    def forget_all(self, kind: str) -> None:
        """Remove all results of a kind, as the library does it. No library can tell which searches a name affects."""

    def load(self, kind: str, part: Any) -> Any:
        """Read the true value from MongoDB."""
        return LOADERS[kind](self.database, part)

    def read_user(self) -> str | None:
        """Return the cached name."""
        found: str | None = self.lookup("user", USER)
        return found

    def user_changed(self, name: str, version: int | None) -> None:  # noqa: ARG002  # a removal needs neither
        """Remove it."""
        self.forget("user", USER)

    def user_deleted(self) -> None:
        """Remove it."""
        self.forget("user", USER)

    def users_dropped(self) -> None:
        """Remove all users."""
        self.forget_all("user")

    def read_session(self) -> dict[str, Any] | None:
        """Return the cached session."""
        found: dict[str, Any] | None = self.lookup("session", SESSION)
        return found

    def save_session(self, data: dict[str, Any]) -> None:
        """Write to MongoDB, unless the session has ended there; then to the cache."""
        if persist_session(self.database, data):
            self.session_saved(data)

    def session_saved(self, data: dict[str, Any]) -> None:  # noqa: ARG002  # a removal does not need it
        """Remove it."""
        self.forget("session", SESSION)

    def log_out(self) -> None:
        """Write to MongoDB, then to the cache."""
        end_session(self.database)
        self.forget("session", SESSION)

    def is_blocked(self, token: str) -> bool:
        """Return the cached answer of MongoDB."""
        return bool(self.lookup("blocked", token))

    def block(self, token: str, until: datetime) -> None:
        """Write to MongoDB, then to the cache."""
        persist_block(self.database, token, until)
        self.forget("blocked", token)

    def warm_blocks(self, tokens: Iterable[str]) -> None:
        """Look up each token once."""
        for token in tokens:
            self.is_blocked(token)

    def search(self, text: str) -> list[str]:
        """Return the cached result."""
        found: list[str] = self.lookup("search", text)
        return found

    def product_renamed(self, old: str, new: str) -> None:  # noqa: ARG002  # all are removed
        """Remove all searches."""
        self.forget_all("search")


def persist_session(database: Database[Any], data: dict[str, Any]) -> bool:
    """Save the session. Return False if it has ended."""
    now = datetime.now(UTC)
    update = {"$set": {"data": data, "expires_at": now + timedelta(seconds=SESSION_SECONDS)}}
    if database.sessions.update_one({"_id": SESSION, "ended_at": None}, update).matched_count:
        return True
    if database.sessions.find_one({"_id": SESSION}) is not None:
        return False
    database.sessions.insert_one({"_id": SESSION, **update["$set"]})
    return True


def end_session(database: Database[Any]) -> None:
    """End it for good."""
    update = {"$set": {"ended_at": datetime.now(UTC)}, "$unset": {"data": 1}}
    database.sessions.update_one({"_id": SESSION}, update, upsert=True)


def persist_block(database: Database[Any], token: str, until: datetime) -> None:
    """Record a block. The longer of two counts."""
    database.blocked_tokens.update_one({"_id": token}, {"$max": {"expires_at": until}}, upsert=True)


def _user(database: Database[Any], part: object) -> Any:
    found = database.users.find_one({"_id": part})
    return None if found is None else found["name"]


def _session(database: Database[Any], part: object) -> Any:
    found = database.sessions.find_one({"_id": part})
    return None if found is None or found.get("ended_at") is not None else found.get("data")


def _blocked(database: Database[Any], part: object) -> bool:
    found = database.blocked_tokens.find_one({"_id": part})
    return found is not None and bool(found["expires_at"].replace(tzinfo=UTC) > datetime.now(UTC))


def _search(database: Database[Any], part: str) -> list[str]:
    return [each["name"] for each in database.products.find().sort("_id", 1) if part in each["name"].lower()]


LOADERS: dict[str, Callable[[Database[Any], Any], Any]] = {
    "user": _user,
    "session": _session,
    "blocked": _blocked,
    "search": _search,
}
