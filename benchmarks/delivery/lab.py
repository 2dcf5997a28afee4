"""A broker, the application's worker on a core of its own, and a queue that is filled first and then drained."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import psutil
from celery import Celery
from kombu import Connection
from pymongo import ReplaceOne

from benchmarks.delivery import cores
from benchmarks.delivery.empty import BODY as EMPTY_BODY
from benchmarks.delivery.empty import NAME as EMPTY
from benchmarks.delivery.workload import blocked_key, cached, document, key, logout_text, text, version_of
from cachekeeper.broker.names import CONTROL_EXCHANGE, QUEUE
from cachekeeper.protocol import Value, scripts
from cachekeeper.publishing.wire_format import task_body, task_headers
from cachekeeper.upkeep.warming import warm_view
from cachekeeper.values.keys import meta_key
from lookups.users import USER_NAME
from testkit.delivering import Site
from testkit.waiting import wait_until

if TYPE_CHECKING:
    from cachekeeper.devservers import Guardian, MongoServer, RedisServer
    from testkit.servers import RabbitServer

HELD = 16  # messages in flight in the worker: four for each of its four threads
WORKER = ("--include", "benchmarks.delivery.empty", "--", "worker.consumer=benchmarks.delivery.empty:Consumer")
LONGEST_SECONDS = 120.0
LOOK_SECONDS = 0.001


class Lab:
    """One broker, a cache, a database of users, and a worker.

    Args:
        guardian: ends the processes that are started here.
        broker: Redis or RabbitMQ.
        cache: another Redis.
        mongo: a MongoDB.
        users: how many users there are. Their ids are the integers from 0 on.

    Attributes:
        site: the servers.
        worker: the worker.
        users: as given.
        peak: the highest resident memory of the worker that was seen while it was timed, in bytes.
        spent: the CPU time that the worker used when it was last timed, in seconds.
    """

    def __init__(
        self, guardian: Guardian, broker: RedisServer | RabbitServer, cache: RedisServer, mongo: MongoServer, users: int
    ) -> None:
        self.site = Site(guardian, broker, cache, mongo, f"bench_{uuid.uuid4().hex[:8]}")
        self.worker = self.site.worker(*WORKER)
        self.users = users
        self.peak = 0
        self.spent = 0.0
        self._versions = [1] * users
        self._empty_tasks = 0
        self._cores = cores.of_the_worker(cores.available())

    @contextmanager
    def working(self) -> Iterator[None]:
        """Cache every name, and run the worker. At the end, check that all measured work was really done."""
        self.site.client.flushdb()
        self._store(range(self.users))
        warm_view(self.site.keeper, USER_NAME)
        self.worker.start()
        try:
            cores.keep_to(self.worker.pid, self._cores)
            yield
            self.check()
        finally:
            self.worker.stop()
            self.site.close()

    def check(self) -> None:
        """Compare the cache with the published events.

        Raises:
            AssertionError: an event was not applied, or an empty task not run.
        """
        wait_until(lambda: not self.site.waiting(), "an empty queue")
        pipe = self.site.client.pipeline(transaction=False)
        for user in range(self.users):
            pipe.get(key(user))
            pipe.hget(meta_key(key(user)), "v")
        found = pipe.execute()
        for user, version in enumerate(self._versions):
            assert found[2 * user : 2 * user + 2] == [cached(version), str(version).encode()], f"user {user} is stale"
        assert not self.site.letters, "an event became a dead letter"
        with Celery("bench", broker=self.site.broker.url, set_as_current=False) as asking:
            asking.conf.control_exchange = CONTROL_EXCHANGE
            answers = asking.control.inspect(timeout=10, limit=1).stats() or {}
        assert [answer["total"].get(EMPTY, 0) for answer in answers.values()] == [self._empty_tasks], "tasks were lost"

    @property
    def resident(self) -> int:
        """The worker's resident memory now, in bytes."""
        return int(psutil.Process(self.worker.pid).memory_info().rss)

    def changes(self, users: Sequence[int]) -> list[str]:
        """Return the next change event of each of these users, as JSON texts."""
        for user in users:
            self._versions[user] += 1
        return [text(user, self._versions[user]) for user in users]

    def time_events(self, count: int, size: int, *, cold: bool = False) -> float:
        """Return the seconds that the worker takes for `count` events, each of another user.

        Args:
            count: how many events.
            size: how many of them are in a message.
            cold: the keys are not cached, so each event leaves a marker, and the worker reads through.
        """
        users = range(count)
        texts = self.changes(users)
        if cold:
            self._store(users)
            self.site.client.delete(*(name for user in users for name in (key(user), meta_key(key(user)))))
        ends = _ends(count, size)
        return self._time(_messages(texts, size), lambda last: self._is_seen(ends[-last:]))

    def time_logouts(self, count: int, size: int) -> float:
        """Return the seconds that the worker takes for `count` logouts, each of a session and a token of its own."""
        series = uuid.uuid4().hex
        names = [f"{series}-{number}" for number in range(count)]
        blocks = [blocked_key(names[end]) for end in _ends(count, size)]
        seconds = self._time(
            _messages([logout_text(name) for name in names], size),
            lambda last: self.site.client.exists(*blocks[-last:]) == len(blocks[-last:]),
        )
        for collection in ("sessions", "blocked_tokens"):
            assert self.site.db[collection].count_documents({"_id": {"$regex": series}}) == count, "a logout was lost"
        return seconds

    def time_empty_tasks(self, count: int) -> float:
        """Return the seconds that the worker takes for `count` empty Celery tasks."""
        messages = [
            (EMPTY_BODY, {**task_headers(str(uuid.uuid4()), 0), "task": EMPTY, "argsrepr": "()"})
            for _ in range(count - 1)
        ]
        self._empty_tasks += len(messages)
        # An empty task leaves no trace when it has run, so the last message is an event.
        last = (task_body(self.changes([0])), task_headers(str(uuid.uuid4()), 1))
        return self._time([*messages, last], lambda _: self._is_seen([0]))

    def time_round_trips(self, count: int) -> float:
        """Return the seconds for `count` round trips: the `EVALSHA` of an event, by a client like the worker's."""
        keeper = self.site.keeper
        store, ttl_ms = keeper.store(USER_NAME.server), keeper.binding(USER_NAME).ttl_ms
        self.changes(range(count))
        values = [Value(cached(version), version) for version in self._versions[:count]]
        wanted = [
            scripts.change(key(user), value, ttl_ms=ttl_ms, marker_ms=keeper.settings.marker_ms)
            for user, value in enumerate(values)
        ]
        with cores.kept_to(self._cores):
            began = time.perf_counter()
            for step in wanted:
                store.run(step)
            return time.perf_counter() - began

    @property
    def next_version(self) -> int:
        """A version that is higher than that of any user."""
        return max(self._versions) + 1

    def published(self, versions: Mapping[int, int]) -> None:
        """Note events that another process has published, as users and their versions. Versions only rise."""
        for user, version in versions.items():
            self._versions[user] = version

    def seen(self, users: Sequence[int]) -> list[int]:
        """Return the cached versions of these users; 0 if nothing is cached."""
        found: Any = self.site.client.mget([key(user) for user in users])
        return [version_of(value) for value in found]

    def _cpu_seconds(self) -> float:
        spent = psutil.Process(self.worker.pid).cpu_times()
        return float(spent.user + spent.system)

    def _is_seen(self, users: Sequence[int]) -> bool:
        return self.seen(users) == [self._versions[user] for user in users]

    def _time(self, messages: Sequence[tuple[bytes, dict[str, Any]]], done: Callable[[int], bool]) -> float:
        """Put messages into the queue while the worker is paused; then time it.

        Args:
            messages: bodies and headers.
            done: returns whether that many of the last messages are done.
        """
        self.worker.pause()
        with Connection(self.site.broker.url) as connection:
            self._fill(connection, messages)
        spent, began = self._cpu_seconds(), time.perf_counter()
        self.worker.resume()
        # The broker delivers in order: when the last messages are done, only those in flight can still be missing. This
        # process shares a core with the broker and the cache, so it checks only the very last message first.
        while not (done(1) and done(4 * HELD)):
            self.peak = max(self.peak, self.resident)
            assert time.perf_counter() - began < LONGEST_SECONDS, f"not applied in {LONGEST_SECONDS:g} s"
            time.sleep(LOOK_SECONDS)
        seconds = time.perf_counter() - began
        self.spent = self._cpu_seconds() - spent
        assert done(len(messages)), "some messages were not done when the time was taken"
        return seconds

    def _fill(self, connection: Connection, messages: Sequence[tuple[bytes, dict[str, Any]]]) -> None:
        """Send messages as a publisher does, but without waiting for each confirmation."""
        producer = connection.Producer(auto_declare=False)
        for body, headers in messages:
            producer.publish(
                body,
                content_type="application/json",
                content_encoding="utf-8",
                headers=headers,
                exchange="",
                routing_key=QUEUE,
                delivery_mode=2,
                retry=False,
                correlation_id=headers["id"],
            )
        # Wait before the connection is closed: RabbitMQ then drops messages that it has not confirmed. Messages that
        # are in flight in the worker are not counted.
        wait_until(lambda: self.site.waiting() >= len(messages) - HELD, "a queue that is full")

    def _store(self, users: Sequence[int]) -> None:
        """Write the current names of these users to MongoDB."""
        found = [document(user, self._versions[user]) for user in users]
        self.site.db.users.bulk_write([ReplaceOne({"_id": one["_id"]}, one, upsert=True) for one in found])


def _messages(texts: Sequence[str], size: int) -> list[tuple[bytes, dict[str, Any]]]:
    """Return bodies and headers of messages with `size` events each."""
    batches = [texts[at : at + size] for at in range(0, len(texts), size)]
    return [(task_body(batch), task_headers(str(uuid.uuid4()), len(batch))) for batch in batches]


def _ends(count: int, size: int) -> list[int]:
    """Return the number of the last event of each message."""
    return [min(at + size, count) - 1 for at in range(0, count, size)]
