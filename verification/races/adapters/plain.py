"""The usual hand-written cache: `GET`, load, `SETEX`, and on a change `DEL`, or `SETEX` of the event's value."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import redis

from verification.races.adapters.base import (
    SESSION,
    SESSION_SECONDS,
    TTL_SECONDS,
    USER,
    Aside,
    Contender,
    persist_block,
)

if TYPE_CHECKING:
    from pymongo.database import Database

    from verification.races.points import Wire


class Plain(Aside):
    """Cache-aside by hand, with redis-py."""

    def __init__(self, wire: Wire, database: Database[Any]) -> None:
        super().__init__(wire, database)
        self._redis = redis.Redis.from_url(wire.url)

    def key(self, kind: str, part: object) -> str:
        """`kind:part`."""
        return f"{kind}:{part}"

    def lookup(self, kind: str, part: object) -> Any:
        """`GET`, load, `SETEX`. "Does not exist" is not cached."""
        raw: Any = self._redis.get(self.key(kind, part))
        if raw is not None:
            return json.loads(raw)
        value = self.load(kind, part)
        if value is not None:
            self.put(kind, part, value, SESSION_SECONDS if kind == "session" else TTL_SECONDS)
        return value

    def put(self, kind: str, part: object, value: object, seconds: float) -> None:
        """`PSETEX`, in milliseconds, so that no time is rounded."""
        self._redis.psetex(self.key(kind, part), round(seconds * 1000), json.dumps(value))

    def forget(self, kind: str, part: object) -> None:
        """`DEL`."""
        self._redis.delete(self.key(kind, part))

    def forget_all(self, kind: str) -> None:
        """`SCAN` and `DEL`."""
        for key in self._redis.scan_iter(match=self.key(kind, "*")):
            self._redis.delete(key)

    def session_saved(self, data: dict[str, Any]) -> None:
        """`SETEX`, as session stores do it."""
        self.put("session", SESSION, data, SESSION_SECONDS)

    def is_blocked(self, token: str) -> bool:
        """`EXISTS`."""
        return bool(self._redis.exists(self.key("blocked", token)))

    def block(self, token: str, until: datetime) -> None:
        """Write to MongoDB, and set a key that lives as long as the token."""
        persist_block(self.database, token, until)
        self._put_block(token, until)

    def warm_blocks(self, tokens: Iterable[str]) -> None:
        """Set a key for each block in MongoDB."""
        for token in tokens:
            found = self.database.blocked_tokens.find_one({"_id": token})
            if found is not None:
                self._put_block(token, found["expires_at"].replace(tzinfo=UTC))

    def close(self) -> None:
        """Close the client."""
        self._redis.close()

    def _put_block(self, token: str, until: datetime) -> None:
        self.put("blocked", token, True, (until - datetime.now(UTC)).total_seconds())  # noqa: FBT003  # it is the value


class WriteThrough(Plain):
    """The same, but a change that carries the new value sets it."""

    def user_changed(self, name: str, version: int | None) -> None:  # noqa: ARG002  # it knows no versions
        """`SETEX`."""
        self.put("user", USER, name, TTL_SECONDS)


PLAIN = Contender(
    "cache-aside",
    Plain,
    "by hand with redis-py: GET, load, SETEX, and DEL on a change; a session is set when it is saved, as by "
    "connect-redis; a block is a key with the token's life, asked for with EXISTS, as Flask-JWT-Extended's page "
    "“JWT Revoking / Blocklist” has it (which also asks for a Redis that persists; that helps against a restart, not "
    "against a flush); all of a kind is removed by SCAN and DEL",
    keeps=False,
)
WRITE_THROUGH = Contender(
    "write-through", WriteThrough, "the same, but SETEX of the new name on a change, instead of DEL", keeps=False
)
