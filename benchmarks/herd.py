"""A Redis that loses everything under load: the load that falls on MongoDB, and how soon the hit rate is back.

Four processes look users up at a fixed rate, even if earlier lookups are slow or fail. A worker invalidates some of the
users all the time. After a while comes a FLUSHALL.
"""

from __future__ import annotations

import multiprocessing
import random
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import pymongo

from cachekeeper import Keeper, Settings
from cachekeeper.applying.batch import apply
from cachekeeper.devservers import Guardian, MongoServer, RedisServer, find_mongod, find_redis
from cachekeeper.errors import CachekeeperError
from cachekeeper.model.commands import Invalidate
from cachekeeper.reading.sync import SyncReader
from lookups import USER_NAME, read_user
from testkit.herd_process import SlowReads
from testkit.report import at_most, plain, store

if TYPE_CHECKING:
    from collections.abc import Sequence
    from multiprocessing.connection import Connection

    from testkit.report import Figure

SEED = 7
PROCESSES = 4
THREADS = 24
RATE = 125  # lookups a second and process
# Numbers of users. The n-th is looked up 1/n as often as the first. A key comes back when it is looked up. Some of the
# many users are not looked up within a minute, so no cache could have them back; the target is for the few.
FEW, MANY = 2_000, 10_000
CHANGES = 10  # a second
CAP = 4
READ_SECONDS = 0.08  # each read of MongoDB takes at least so long
BEFORE, AFTER = 15, 60  # seconds
WINDOW = 3  # seconds over which a hit rate is taken
DATABASE = "herd"


@dataclass
class Done:
    """The work of one process, by second since the start. A lookup counts for the second in which it was due."""

    lookups: Counter[int] = field(default_factory=Counter)
    hits: Counter[int] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    reads: int = 0
    most_at_once: int = 0
    slowest: float = 0.0
    asked: list[tuple[float, int]] = field(default_factory=list)  # when a lookup was due, and its user

    def __add__(self, other: Done) -> Done:
        return Done(
            self.lookups + other.lookups,
            self.hits + other.hits,
            self.failed + other.failed,
            self.reads + other.reads,
            max(self.most_at_once, other.most_at_once),
            max(self.slowest, other.slowest),
            self.asked + other.asked,
        )


class Offer:
    """The lookups of one process. They start at `began`, on the monotonic clock that all processes share."""

    def __init__(self, number: int, users: int, settings: Settings, began: float) -> None:
        self.done = Done()
        self._reads = SlowReads(READ_SECONDS)
        mongo: pymongo.MongoClient[Any] = pymongo.MongoClient(settings.mongodb_url, event_listeners=[self._reads])
        self._keeper = Keeper(settings, database=mongo[DATABASE])
        self._number, self._users, self._began = number, users, began
        self._lock = threading.Lock()
        self._hit = threading.local()
        get = SyncReader.get

        def telling(reader: SyncReader, key: str) -> Any:
            found = get(reader, key)
            self._hit.now = isinstance(found, bytes)
            return found

        SyncReader.get = telling  # type: ignore[assignment, method-assign]  # only in this measuring process

    def run(self) -> Done:
        """Make all lookups, and return the result."""
        threads = [threading.Thread(target=self._offer, args=(each,)) for each in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.done.reads = self._reads.count
        self.done.most_at_once = self._reads.most_at_once
        return self.done

    def _offer(self, thread: int) -> None:
        rng = random.Random(f"{SEED} {self._number} {thread}")
        weights = list(accumulate(1 / (each + 1) for each in range(self._users)))
        every = THREADS / RATE
        due = self._began + every * thread / THREADS
        while (second := int(due - self._began)) < BEFORE + AFTER:
            time.sleep(max(due - time.monotonic(), 0))
            (user,) = rng.choices(range(self._users), cum_weights=weights)
            failed = None
            try:
                read_user(user, keeper=self._keeper)
            except CachekeeperError as error:
                failed = type(error).__name__
            with self._lock:
                self.done.lookups[second] += 1
                self.done.asked.append((due - self._began, user))
                self.done.hits[second] += self._hit.now
                self.done.slowest = max(self.done.slowest, time.monotonic() - due)
                if failed is not None:
                    self.done.failed[failed] += 1
            due += every


def offer(pipe: Connection, number: int, users: int, settings: Settings, began: float) -> None:
    """Run one of the processes, and send its result."""
    pipe.send(Offer(number, users, settings, began).run())


def main() -> bool:
    """Measure, and return whether all targets were met."""
    with Guardian() as guardian:
        redis, mongo = RedisServer(guardian, find_redis()), MongoServer(guardian, find_mongod())
        redis.start()
        mongo.start()
        try:
            figures = [*_figures(FEW, _measure(redis, mongo, FEW)), *_figures(MANY, _measure(redis, mongo, MANY))]
        finally:
            redis.stop()
            mongo.stop()
    return store("herd", figures, [redis.found, mongo.found], SEED)


def _measure(redis: RedisServer, mongo: MongoServer, users: int) -> Done:
    settings = Settings(redis_url=redis.url, mongodb_url=mongo.url_of(DATABASE), load_concurrency=CAP)
    with mongo.client() as client, redis.client() as plain_redis:
        plain_redis.flushall()
        client.drop_database(DATABASE)
        client[DATABASE].users.insert_many(
            [{"_id": each, "name": f"user {each}", "version": 1} for each in range(users)]
        )
        with_all = Keeper(settings, database=client[DATABASE])
        for user in range(users):
            read_user(user, keeper=with_all)
        fork = multiprocessing.get_context("forkserver")
        fork.set_forkserver_preload([__name__])
        began = time.monotonic() + 5
        pipes = []
        for number in range(PROCESSES):
            mine, its = fork.Pipe()
            fork.Process(target=offer, args=(its, number, users, settings, began), daemon=True).start()
            its.close()
            pipes.append(mine)
        _change_users(with_all, users, began, until=began + BEFORE)
        plain_redis.flushall()
        _change_users(with_all, users, began, until=began + BEFORE + AFTER)
        done = [pipe.recv() for pipe in pipes]
        with_all.close()
    return sum(done, start=Done())


def _change_users(keeper: Keeper, users: int, began: float, until: float) -> None:
    """Invalidate users that are looked up often, until the time `until`."""
    rng = random.Random(f"{SEED} changes {until - began}")
    time.sleep(max(began - time.monotonic(), 0))
    while time.monotonic() < until:
        user = str(int(users ** rng.random()) - 1)
        assert [result.error for result in apply(keeper, [[Invalidate(USER_NAME, user)]])] == [None]
        time.sleep(1 / CHANGES)


def _figures(users: int, done: Done) -> Sequence[Figure]:
    former = _rate(done, range(5, BEFORE))
    # The second of the flush belongs neither to 'before' nor to 'after'.
    windows = range(BEFORE + 1, BEFORE + AFTER - WINDOW + 1)
    back = next((at for at in windows if _rate(done, range(at, at + WINDOW)) >= 0.95 * former), None)
    first = _rate(done, range(BEFORE + 1, BEFORE + 1 + WINDOW))
    at_last = range(BEFORE + AFTER - WINDOW, BEFORE + AFTER)
    said = f"{users:,} users"
    figures = [at_most(f"{said}: reads of MongoDB at once in one process, the most", done.most_at_once, CAP)]
    if users == FEW:
        said_back = f"{said}: from FLUSHALL until 95 % of the earlier hit rate is back (over {WINDOW} seconds)"
        seconds = AFTER + 1 if back is None else back + WINDOW - BEFORE
        figures.append(at_most(said_back, seconds, AFTER, "seconds"))
    return [
        *figures,
        plain(f"{said}: hit rate before", 100 * former, "%"),
        plain(f"{said}: hit rate in the first {WINDOW} seconds after FLUSHALL", 100 * first, "%"),
        plain(f"{said}: hit rate in the last {WINDOW} seconds of the minute", 100 * _rate(done, at_last), "%"),
        plain(
            f"{said}: the same, had each name come back the moment it was asked for", 100 * _best(done, at_last), "%"
        ),
        plain(f"{said}: lookups in all", done.lookups.total()),
        plain(f"{said}: lookups that ended in an error", done.failed.total()),
        plain(f"{said}: reads of MongoDB in all", done.reads),
        plain(f"{said}: slowest lookup, from when it was due", 1000 * done.slowest, "milliseconds"),
    ]


def _best(done: Done, seconds: range) -> float:
    """Return the best possible hit rate for these lookups: every fill is instant, and nothing is ever invalidated."""
    seen: set[int] = set()
    hits = lookups = 0
    for due, user in sorted(done.asked):
        if due < BEFORE:
            continue
        if int(due) in seconds:
            lookups += 1
            hits += user in seen
        seen.add(user)
    return hits / lookups


def _rate(done: Done, seconds: range) -> float:
    return sum(done.hits[each] for each in seconds) / sum(done.lookups[each] for each in seconds)
