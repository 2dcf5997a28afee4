"""The shipped lookups over real servers, and hooks for a test that steps in between two steps of a lookup.

A gate stops whoever reaches it until the test opens it, so a race is brought about, not waited for: a read of MongoDB
can be held before it is sent (`reads.before`) and after its answer is there (`reads.after`), a command or script of
Redis likewise (`WatchedRedis`). A second `Keeper` stands for a second process: nothing but the servers is shared.
"""

from __future__ import annotations

import copy
import hashlib
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import pymongo
import pytest
import redis
from pymongo.monitoring import CommandListener
from redis.backoff import NoBackoff
from redis.retry import Retry

from cachekeeper import metrics
from cachekeeper.applying.batch import apply
from cachekeeper.connections.mongodb import DatabaseReads
from cachekeeper.model.commands import Invalidate, Write
from cachekeeper.protocol import Value, scripts
from cachekeeper.reading.keeper import Keeper
from cachekeeper.reading.singleflight import Flight
from cachekeeper.settings import Settings
from cachekeeper.values.keys import meta_key
from lookups import USER_NAME, read_session, read_user, search_products

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from pymongo.database import Database
    from pymongo.monitoring import CommandFailedEvent, CommandStartedEvent, CommandSucceededEvent

    from cachekeeper.devservers import MongoServer, RedisServer
    from cachekeeper.model.sources import Absent
    from cachekeeper.values.keys import Template

T = TypeVar("T")

LONG = 20.0
"""Seconds after which a test that waits for another thread has failed."""

PATIENT: dict[str, Any] = {
    "redis_timeout_seconds": 4,
    "load_timeout_seconds": 10,
    "lookup_timeout_seconds": 30,
    "lease_seconds": 25,
}
"""No time limit is met by accident."""

QUICK: dict[str, Any] = {
    "redis_timeout_seconds": 0.2,
    "load_timeout_seconds": 0.5,
    "lookup_timeout_seconds": 1.5,
    "lease_seconds": 1,
}
"""For tests of the time limits themselves."""

SLACK = 5.0
"""Seconds by which a busy machine may be late."""

NOWHERE = "redis://127.0.0.1:1/0"

NO_REDIS = {**QUICK, "load_timeout_seconds": 5, "lookup_timeout_seconds": 6, "lease_seconds": 6}
"""Where only Redis is in trouble, MongoDB may take its time: the test machine may be busy."""

NO_MONGO = {**QUICK, "redis_timeout_seconds": 2, "lookup_timeout_seconds": 6, "lease_seconds": 6}
"""The same for Redis, where only MongoDB is in trouble."""

ONE_SECOND: dict[str, Any] = {
    "redis_timeout_seconds": 1,
    "load_timeout_seconds": 5,
    "lookup_timeout_seconds": 8,
    "lease_seconds": 8,
}
"""A lookup waits for one second, after which one load may still take its time: for tests of that wait on servers that
are well."""

LOOKUPS: dict[str, tuple[Callable[[Keeper], object], object]] = {
    "name": (lambda keeper: read_user(1, keeper=keeper), "Ann"),
    "session": (lambda keeper: read_session("s1", keeper=keeper), {"cart": [1]}),
    "search": (lambda keeper: [each["name"] for each in search_products("lamp", keeper=keeper)], ["Lamp"]),
}
"""Every kind of lookup, and what it finds in a stocked shop."""

_SCRIPTS = {script.sha: script.name for script in vars(scripts).values() if isinstance(script, scripts.Script)}


class Gate:
    """Stops the first who comes until it is opened."""

    def __init__(self) -> None:
        self._reached = threading.Event()
        self._opened = threading.Event()

    def stop(self) -> None:
        self._reached.set()
        self._opened.wait(LONG)

    @property
    def reached(self) -> bool:
        return self._reached.is_set()

    def wait_for_arrival(self) -> None:
        assert self._reached.wait(LONG), "nobody came to the gate"

    def open(self) -> None:
        self._opened.set()


def opened() -> Gate:
    """For one who is not to be stopped."""
    gate = Gate()
    gate.open()
    return gate


class Reads(CommandListener):
    """Counts the queries of the keepers' MongoDB client, and stops them at gates, in the thread that reads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.reset()

    def reset(self) -> None:
        self.before: deque[Gate] = deque()
        self.after: deque[Gate] = deque()
        self.commands: list[dict[str, Any]] = []
        self.most_at_once = 0
        self._now = 0

    @property
    def count(self) -> int:
        """How many queries were sent."""
        with self._lock:
            return len(self.commands)

    def started(self, event: CommandStartedEvent) -> None:
        if event.command_name == "find":
            with self._lock:
                self.commands.append(dict(event.command))
                self._now += 1
                self.most_at_once = max(self.most_at_once, self._now)
                gate = self.before.popleft() if self.before else None
            if gate is not None:
                gate.stop()

    def succeeded(self, event: CommandSucceededEvent) -> None:
        self._ended(event)

    def failed(self, event: CommandFailedEvent) -> None:
        self._ended(event)

    def _ended(self, event: CommandSucceededEvent | CommandFailedEvent) -> None:
        if event.command_name == "find":
            with self._lock:
                self._now -= 1
                gate = self.after.popleft() if self.after else None
            if gate is not None:
                gate.stop()


class WatchedRedis(redis.Redis):
    """A client that counts its commands (a script by its name), and stops them at gates. Pipelines pass unwatched."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.counted: Counter[str] = Counter()
        self.before: defaultdict[str, deque[Gate]] = defaultdict(deque)
        self.after: defaultdict[str, deque[Gate]] = defaultdict(deque)

    def execute_command(self, *args: Any, **options: Any) -> Any:
        name = _SCRIPTS.get(args[1], "?") if args[0] == "EVALSHA" else str(args[0])
        self.counted[name] += 1
        if self.before[name]:
            self.before[name].popleft().stop()
        try:
            return super().execute_command(*args, **options)  # type: ignore[no-untyped-call]  # redis-py types it not
        finally:
            if self.after[name]:
                self.after[name].popleft().stop()


def settings(**changes: Any) -> Settings:
    """Settings whose URLs lead nowhere, changed as given."""
    return Settings(**{"redis_url": "redis://127.0.0.1:1/0", "mongodb_url": "mongodb://127.0.0.1:1/none", **changes})


class Shop:
    """One test's Redis and database, and keepers on them.

    Attributes:
        redis: a plain client of the Redis.
        db: the plain database, for what upstream services do to it.
        reads: the reads of all keepers that this shop makes.
    """

    def __init__(
        self, server: RedisServer, mongo: MongoServer, name: str, client: pymongo.MongoClient[Any], reads: Reads
    ) -> None:
        self.server = server
        self.mongo = mongo
        self.name = name
        self.reads = reads
        self.redis = server.client()
        self._plain = mongo.client(uuidRepresentation="standard", tz_aware=True)
        self.db: Database[dict[str, Any]] = self._plain[name]
        self._watched: Database[Any] = client[name]
        self._keepers: list[Keeper] = []
        self._clients: list[WatchedRedis] = []

    def settings(self, **changes: Any) -> Settings:
        """Settings that lead to these servers; patient unless changed."""
        urls = {"redis_url": self.server.url, "mongodb_url": self.mongo.url_of(self.name)}
        return Settings(**{**urls, **PATIENT, **changes})

    def keeper(self, *, cache: redis.Redis | None = None, watched: bool = True, **changes: Any) -> Keeper:
        """A keeper of its own, closed at the end of the test. Its reads are watched, unless it makes its own client."""
        made = Keeper(self.settings(**changes), cache=cache, database=self._watched if watched else None)
        self._keepers.append(made)
        return made

    def client(self) -> WatchedRedis:
        """A watched client for a keeper."""
        client = WatchedRedis(
            host="127.0.0.1", port=self.server.port, protocol=2, socket_timeout=LONG, retry=Retry(NoBackoff(), 0)
        )
        self._clients.append(client)
        return client

    def flush(self) -> None:
        """A Redis that has just lost everything."""
        self.redis.flushall()

    def dump(self) -> dict[bytes, bytes]:
        """Everything that Redis holds, by key."""
        return {key: self.redis.dump(key) or b"" for key in self.redis.scan_iter()}

    def close(self) -> None:
        for keeper in self._keepers:
            keeper.close()
        for client in (*self._clients, self.redis):
            client.close()
        self._plain.close()


def mutate(monkeypatch: pytest.MonkeyPatch, script: str, good: str, bad: str) -> None:
    """Run a known-bad variant of one of the protocol's scripts for the rest of the test."""
    original: scripts.Script = getattr(scripts, script)
    assert good in original.source
    mutant = copy.copy(original)
    mutant.source = original.source.replace(good, bad)
    mutant.sha = hashlib.sha1(mutant.source.encode(), usedforsecurity=False).hexdigest()
    monkeypatch.setattr(scripts, script, mutant)
    _SCRIPTS[mutant.sha] = mutant.name


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """What was counted inside; complete once the block has ended."""
    before, seen = metrics.COUNTERS.snapshot(), Counter[str]()
    yield seen
    seen.update({name: n - before.get(name, 0) for name, n in metrics.COUNTERS.snapshot().items()})


@contextmanager
def threads(most: int = 8) -> Iterator[Callable[..., Future[Any]]]:
    """Start calls in threads of their own: `go(function, …)`, then `.result(LONG)`."""
    with ThreadPoolExecutor(most) as pool:
        yield pool.submit


def meta(shop: Shop, template: Template, part: str) -> dict[bytes, bytes]:
    """The metadata beside a key."""
    found: Any = shop.redis.hgetall(meta_key(template.key(part)))
    return dict(found)


def answers_in_time(keeper: Keeper) -> None:
    """Every lookup has the right answer within the keeper's limit."""
    limit = keeper.settings.lookup_timeout_seconds + SLACK
    for name, (look_up, wanted) in LOOKUPS.items():
        started = time.monotonic()
        assert look_up(keeper) == wanted, name
        assert time.monotonic() - started < limit, name


def put_user(shop: Shop, name: str, version: int | None = None) -> None:
    """What an upstream service does to the document of user 1."""
    fields: dict[str, Any] = {"name": name} if version is None else {"name": name, "version": version}
    shop.db.users.replace_one({"_id": 1}, fields, upsert=True)


def changed_user(keeper: Keeper, name: str, version: int | None = None) -> None:
    """The event about it; acknowledged when this returns."""
    command = Invalidate(USER_NAME, "1") if version is None else Write(USER_NAME, "1", name, version)
    assert [result.error for result in apply(keeper, [[command]])] == [None]


@pytest.fixture(scope="session")
def watched_mongo(mongo_server: MongoServer) -> Iterator[tuple[pymongo.MongoClient[Any], Reads]]:
    """A client whose reads are watched; one for all tests, since a client costs a connection and threads."""
    reads = Reads()
    with mongo_server.client(event_listeners=[reads]) as client:
        yield client, reads


@pytest.fixture
def shop(
    redis_server: RedisServer,
    mongo_server: MongoServer,
    database: str,
    watched_mongo: tuple[pymongo.MongoClient[Any], Reads],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Shop]:
    """This process's servers, empty, with what the process has logged once forgotten."""
    monkeypatch.setattr(metrics, "_said", set())
    client, reads = watched_mongo
    reads.reset()
    made = Shop(redis_server, mongo_server, database, client, reads)
    yield made
    made.close()


@pytest.fixture
def arrivals(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Who has come where he waits for others: `flight` for somebody else's load, `slot` for a read of MongoDB."""
    seen: list[str] = []
    wait, slot = Flight.wait, DatabaseReads.slot

    def telling_wait(self: Flight, seconds: float) -> Value | Absent | None:
        seen.append("flight")
        return wait(self, seconds)

    def telling_slot(self: DatabaseReads, patience: float) -> Any:
        seen.append("slot")
        return slot(self, patience)

    monkeypatch.setattr(Flight, "wait", telling_wait)
    monkeypatch.setattr(DatabaseReads, "slot", telling_slot)
    return seen


@pytest.fixture
def stocked(shop: Shop) -> Shop:
    """A database with one of each."""
    ends = datetime.now(UTC) + timedelta(minutes=30)
    shop.db.users.insert_one({"_id": 1, "name": "Ann", "version": 1})
    shop.db.sessions.insert_one({"_id": "s1", "data": {"cart": [1]}, "version": 1, "expires_at": ends})
    shop.db.products.insert_one({"_id": 1, "name": "Lamp"})
    return shop
