"""Where a case plays: real servers, the database that upstream services write, and the clients of one contender."""

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
    """A case that cannot be expressed with this contender; the text says why."""


@dataclass(frozen=True)
class Servers:
    """What all plays share.

    Attributes:
        redis: emptied before each play, and restarted by some.
        database: the same, without the restarts. Contenders read and write through it, and so does upstream: the
            primary, majority, for all alike (this project's keeper sees to that by itself).
        reads: its reads, which can be held.
    """

    redis: RedisServer
    database: Database[Any]
    reads: Reads


@contextmanager
def watching(redis: RedisServer, mongo: MongoServer) -> Iterator[Servers]:
    """Servers that run already, with a watched client and a database of its own."""
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
        """A new client: another process."""
        wire = self._stack.enter_context(Wire(self.servers.redis, self.news))
        self._wires.append(wire)
        client = self.contender.make(wire, self.database)
        self._clients.append(client)
        self._stack.callback(client.close)
        return client

    def start(self, client: Client, call: Callable[..., Any], *args: object) -> Call:
        """Begin a call of a client, in a thread."""
        client.wire.look_away()
        return Call(self._pool.submit(call, *args), client.wire, self.news)

    def after_the_miss(self) -> Point:
        """Holds the next read of MongoDB before it is sent."""
        return Point(self.news).at(self.servers.reads.before)

    def after_the_database_read(self) -> Point:
        """Holds the next read of MongoDB when its answer is there."""
        return Point(self.news).at(self.servers.reads.after)

    # --- what happens -------------------------------------------------------------------------------------------------

    def user(self, name: str, version: int | None = None) -> None:
        """The upstream write of the one user; the event is another matter."""
        fields: dict[str, Any] = {"name": name} if version is None else {"name": name, "version": version}
        self.database.users.replace_one({"_id": USER}, fields, upsert=True)

    def no_user(self) -> None:
        """The upstream deletion."""
        self.database.users.delete_one({"_id": USER})

    def product(self, name: str) -> None:
        """The upstream write of the one product."""
        self.database.products.replace_one({"_id": "1"}, {"name": name}, upsert=True)

    def evict_value(self, client: Client) -> None:
        """The user's cached name goes, nothing else."""
        self.redis.delete(client.key("user", USER))

    def evict_metadata(self, client: Client, kind: str = "user", part: object = USER) -> None:
        """Everything goes but one cached value."""
        if not self.contender.keeps:
            raise NotApplicableError("it keeps nothing beside the value")
        value = client.key(kind, part).encode()
        others = [key for key in self.redis.scan_iter() if key != value]
        if others:
            self.redis.delete(*others)

    def evict_all(self) -> None:
        """Value and metadata go."""
        self.redis.flushall()

    def restart_redis(self) -> None:
        """Redis is killed and comes back empty; every process asks for something else, and so is connected again."""
        self.redis.close()
        self.servers.redis.restart()
        for wire in self._wires:
            wire.drop_connections()
        before = len(self.errors)
        for client in self._clients:
            with suppress(Exception):  # libraries raise what they like
                client.is_blocked("nobody")
        del self.errors[before:]  # the restart's own, and none of the interleaving's
        self.redis = self.servers.redis.client()

    def taken(self, key: str) -> bytes:
        """The bytes that lie at a key, as another service has read them, or would write them."""
        raw = self.redis.get(key)
        assert isinstance(raw, bytes), "there is nothing that it could have read"
        return raw

    def let_pass(self, time: timedelta) -> None:
        """What Redis would have let end in that time is gone. No clock moves, and nobody waits."""
        for key in self.redis.scan_iter():
            if 0 <= self.redis.pttl(key) <= time / timedelta(milliseconds=1):
                self.redis.delete(key)

    def outcome(self, call: Call) -> object:
        """What a call came to; where it failed, that is noted, and the play goes on."""
        try:
            return call.result()
        except Exception as error:  # noqa: BLE001  # libraries raise what they like
            self.errors.append(type(error).__name__)
            return error

    # --- how it ends --------------------------------------------------------------------------------------------------

    def judge(self, seen: object, true: object) -> None:
        """Note what a read that began after the acknowledgement was told, and what is so. An error is no answer."""
        if not isinstance(seen, Exception):
            self.judged.append((seen, true))

    @property
    def stale(self) -> bool:
        """Whether any of them was told what is no longer so."""
        return any(seen != true for seen, true in self.judged)

    def close(self) -> None:
        """Give back everything; nobody is left at a point."""
        self.news.open_all()
        self._pool.shutdown()
        self._stack.close()
        self.redis.close()
