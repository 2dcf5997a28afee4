"""The stage of a case: real servers, the database that upstream services write, and the clients of one contender."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from pymongo import WriteConcern
from pymongo.read_concern import ReadConcern

from testkit.watching import Reads
from verification.races.adapters.base import USER, Client, Contender
from verification.races.points import Call, News, Point, Wire

if TYPE_CHECKING:
    from pymongo.database import Database

    from cachekeeper.devservers import MongoServer, RedisServer


class NotApplicableError(Exception):
    """The case cannot be expressed with this contender; the text says why."""


@dataclass(frozen=True)
class Servers:
    """The servers that all plays share.

    Attributes:
        redis: emptied before each play, and restarted by some plays.
        database: emptied before each play. Contenders and upstream services read and write through it. It uses the
            primary and majority for all of them (this project's keeper does so by itself).
        reads: the reads of the database, which can be held.
    """

    redis: RedisServer
    database: Database[Any]
    reads: Reads


@contextmanager
def watching(redis: RedisServer, mongo: MongoServer) -> Iterator[Servers]:
    """Yield servers that run already, with a watched client and a database of its own."""
    reads, name = Reads(), f"races_{secrets.token_hex(6)}"
    with mongo.client(event_listeners=[reads], uuidRepresentation="standard") as client:
        database = client.get_database(
            name, read_concern=ReadConcern("majority"), write_concern=WriteConcern("majority")
        )
        try:
            yield Servers(redis, database, reads)
        finally:
            client.drop_database(name)


@dataclass
class Stage:
    """One play of one case by one contender.

    Attributes:
        servers: on which.
        contender: whose clients.
        judged: what was seen and what is true, pair by pair.
        errors: what calls raised.
    """

    servers: Servers
    contender: Contender
    judged: list[tuple[object, object]] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.news = News()
        self.servers.reads.reset()
        self.redis = self.servers.redis.client()
        self.redis.flushall()
        self.database = self.servers.database
        for collection in ("users", "sessions", "blocked_tokens", "products"):
            self.database[collection].delete_many({})
        self._wires: list[Wire] = []
        self._clients: list[Client] = []
        self._stack = ExitStack()
        self._pool = ThreadPoolExecutor(8)

    # --- who plays ----------------------------------------------------------------------------------------------------

    def client(self) -> Client:
        """Make a new client, which stands for another process."""
        wire = self._stack.enter_context(Wire(self.servers.redis, self.news))
        self._wires.append(wire)
        client = self.contender.make(wire, self.database)
        self._clients.append(client)
        self._stack.callback(client.close)
        return client

    def start(self, client: Client, call: Callable[..., Any], *args: object) -> Call:
        """Start a call of a client in a thread."""
        client.wire.look_away()
        return Call(self._pool.submit(call, *args), client.wire, self.news)

    def after_the_miss(self) -> Point:
        """Hold the next read of MongoDB before it is sent."""
        return Point(self.news).at(self.servers.reads.before)

    def after_the_database_read(self) -> Point:
        """Hold the next read of MongoDB when its answer has arrived."""
        return Point(self.news).at(self.servers.reads.after)

    # --- what happens -------------------------------------------------------------------------------------------------

    def user(self, name: str, version: int | None = None) -> None:
        """Write the one user upstream, without the event."""
        fields: dict[str, Any] = {"name": name} if version is None else {"name": name, "version": version}
        self.database.users.replace_one({"_id": USER}, fields, upsert=True)

    def no_user(self) -> None:
        """Delete the one user upstream."""
        self.database.users.delete_one({"_id": USER})

    def product(self, name: str) -> None:
        """Write the one product upstream."""
        self.database.products.replace_one({"_id": "1"}, {"name": name}, upsert=True)

    def evict_value(self, client: Client) -> None:
        """Evict the user's cached name and nothing else."""
        self.redis.delete(client.key("user", USER))

    def evict_metadata(self, client: Client, kind: str = "user", part: object = USER) -> None:
        """Evict everything except one cached value."""
        if not self.contender.keeps:
            raise NotApplicableError("it keeps nothing beside the value")
        value = client.key(kind, part).encode()
        others = [key for key in self.redis.scan_iter() if key != value]
        if others:
            self.redis.delete(*others)

    def evict_all(self) -> None:
        """Evict values and metadata."""
        self.redis.flushall()

    def restart_redis(self) -> None:
        """Kill Redis and start it again, empty. Every process then sends another query, and so connects again."""
        self.redis.close()
        self.servers.redis.restart()
        for wire in self._wires:
            wire.drop_connections()
        before = len(self.errors)
        for client in self._clients:
            with suppress(Exception):  # libraries raise what they like
                client.is_blocked("nobody")
        del self.errors[before:]  # these come from the restart, not from the interleaving
        self.redis = self.servers.redis.client()

    def taken(self, key: str) -> bytes:
        """Return the bytes at a key, as another service reads or writes them."""
        raw = self.redis.get(key)
        assert isinstance(raw, bytes), "the key is empty, so another service cannot have read it"
        return raw

    def let_pass(self, time: timedelta) -> None:
        """Delete the keys that Redis would have ended in that time. The clock does not move, and nothing waits."""
        for key in self.redis.scan_iter():
            if 0 <= self.redis.pttl(key) <= time / timedelta(milliseconds=1):
                self.redis.delete(key)

    def outcome(self, call: Call) -> object:
        """Return a call's result. If it failed, note the error and return it; the play goes on."""
        try:
            return call.result()
        except Exception as error:  # noqa: BLE001  # libraries raise what they like
            self.errors.append(type(error).__name__)
            return error

    # --- how it ends --------------------------------------------------------------------------------------------------

    def judge(self, seen: object, true: object) -> None:
        """Note the answer of a read after the acknowledgement, and the true one. An error is not an answer."""
        if not isinstance(seen, Exception):
            self.judged.append((seen, true))

    @property
    def stale(self) -> bool:
        """Whether any of these reads had a stale answer."""
        return any(seen != true for seen, true in self.judged)

    def close(self) -> None:
        """Close everything. First let go the clients that are held at a point."""
        self.news.open_all()
        self._pool.shutdown()
        self._stack.close()
        self.redis.close()
