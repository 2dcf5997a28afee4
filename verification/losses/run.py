"""One run: processes are killed at every gap of one path on one broker, while the service commits changes."""

from __future__ import annotations

import random
import re
import shutil
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Any, Self

from cachekeeper.broker.names import DEAD_QUEUE, QUEUE
from cachekeeper.devservers import RedisServer
from cachekeeper.devservers.worker_process import WorkerProcess
from cachekeeper.upkeep.audit import audit
from cachekeeper.upkeep.warming import warm_keys
from lookups import search_products
from lookups.products import SEARCH
from lookups.users import USER_NAME
from testkit.delivering import RELAY_SAYS, Program, Site, remember_queues
from testkit.faults import MUTANT, VARIABLE
from testkit.full_brokers import full
from testkit.waiting import wait_until
from verification.losses.changes import DONE, SLOWEST, is_product, key_of, number_of, silent, stock, text_of
from verification.losses.service import PLAN, SAYS, Path

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from cachekeeper.devservers import Guardian, MongoServer, ServerProcess
    from testkit.servers import RabbitServer

COMMITTED = "service-committed"
STOPPED, RESTARTED = "worker stopped by SIGTERM", "broker killed and restarted"
FILLED = "broker without memory left"
_WORKER_GAPS = ("worker-received", "worker-persisted", "worker-applied", "worker-left", "worker-warmed")
_RELAY_GAPS = ("relay-claimed", "relay-published")
_GAPS = {
    Path.OUTBOX: (COMMITTED, *_RELAY_GAPS, *_WORKER_GAPS),
    Path.STREAM: (COMMITTED, "stream-read", "stream-stored", *_RELAY_GAPS, *_WORKER_GAPS),
    Path.PLAIN: (COMMITTED, "service-confirmed", *_WORKER_GAPS),
}
_WORKERS = 2
_SOON = 120.0
_AT_ONCE = 500
_PATIENCE_SECONDS = 10.0
SHORTEST_TTL = min(USER_NAME.ttl_seconds, SEARCH.ttl_seconds)
_DROPPED = re.compile(rb"view \S+ was dropped")


def gaps(path: Path, *, is_rabbit: bool) -> tuple[str, ...]:
    """Where a process is killed.

    On Redis alone, `worker-popped` is just after a message was taken off its list, where kombu's own transport has not
    recorded it yet. Only there a worker gathers acknowledgements: `worker-acknowledging` is before they are sent.
    """
    return _GAPS[path] if is_rabbit else (*_GAPS[path], "worker-popped", "worker-acknowledging")


@dataclass
class Outcome:
    """The result of a run.

    Attributes:
        changes: how many changes were committed.
        kills: how often a process was killed, by gap; also how often a worker was stopped, the broker was restarted,
            and the broker was full.
        lost: changes whose key was stale at the end.
        unsaid: the lost changes whose service was killed between commit and publication.
        silent: changes whose key is gone at the end for another reason than their event. A loss of these would not
            show.
        dropped: how often a view was dropped after its keys were cached. A drop hides earlier losses.
        left: how much was not applied: events in the outbox, dead letters, and messages that RabbitMQ gave up.
        slowest: the longest time from an event until a worker first applied it or stored it as a dead letter, in
            seconds.
        seconds: how long the run took.
    """

    changes: int
    kills: Counter[str] = field(default_factory=Counter)
    lost: set[int] = field(default_factory=set)
    unsaid: set[int] = field(default_factory=set)
    silent: set[int] = field(default_factory=set)
    dropped: int = 0
    left: int = 0
    slowest: float = 0.0
    seconds: float = 0.0


class Run:
    """The processes of a run, on servers that are already running.

    Args:
        guardian: ends the processes that the run starts.
        broker: killed and restarted by the run. Only the run may use its queue.
        cache: emptied by the run.
        mongo: the run has its own database there.
        path: how changes become events.
        mutant: a known-bad variant: `early` or `forgets`; `""` for the shipped code.
    """

    def __init__(
        self,
        guardian: Guardian,
        broker: RedisServer | RabbitServer,
        cache: RedisServer,
        mongo: MongoServer,
        path: Path,
        mutant: str = "",
    ) -> None:
        self.path = path
        self.faults = FilePath(tempfile.mkdtemp(prefix="cachekeeper-losses-"))
        self.site = Site(guardian, broker, cache, mongo, f"losses_{random.randrange(1 << 32):08x}")
        environment = {
            "CACHEKEEPER_MONGODB_URL": mongo.url_of(self.site.database),
            "CACHEKEEPER_BROKER_URL": broker.url,
            "CACHEKEEPER_OUTBOX_RETRY_SECONDS": "2",
            VARIABLE: str(self.faults),
            MUTANT: mutant,
        }
        program = partial(Program, guardian, environment=environment)
        self.service = program("verification.losses.service", path.value, says=SAYS)
        self.relays = [] if path is Path.PLAIN else [program("testkit.faults", "relay", says=RELAY_SAYS)]
        self.streams = [program("testkit.faults", "stream", says="watching ")] if path is Path.STREAM else []
        self.workers = [
            WorkerProcess(
                guardian,
                {**environment, "CACHEKEEPER_REDIS_URL": cache.url},
                app="verification.losses.worker",
                hostname=f"worker-{number}@losses",
                name=f"worker-{number}",
            )
            for number in range(_WORKERS)
        ]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with ExitStack() as stack:
            stack.callback(shutil.rmtree, self.faults, ignore_errors=True)
            stack.callback(self.site.close)
            stack.callback(self.site.mongo_client.drop_database, self.site.database)
            for process in self._processes():
                stack.callback(process.kill)

    def result(
        self, changes: int, kills: int, seed: int, *, restarts: int = 1, at: Sequence[str] | None = None
    ) -> Outcome:
        """Commit changes, and kill processes at each gap meanwhile.

        Args:
            changes: how many. One more follows at the end, when all processes are running.
            kills: how many at each gap.
            seed: decides the order of the kills, and after which changes they come.
            restarts: how often the broker is killed and restarted, how often a worker is stopped, and how often a Redis
                broker is full.
            at: the gaps; None for all gaps of the path.
        """
        rng, outcome, began = random.Random(seed), Outcome(changes + 1), time.monotonic()
        self._begin(changes + 1)
        drops = self._drops()
        at = gaps(self.path, is_rabbit=self.site.is_rabbit) if at is None else at
        others = [STOPPED, RESTARTED] if self.site.is_rabbit else [STOPPED, RESTARTED, FILLED]
        wanted = [*at] * kills + others * restarts
        rng.shuffle(wanted)
        for number, what in enumerate(wanted):
            start, stop = (changes * n // len(wanted) for n in (number, number + 1))
            self._commit(rng.randint(start, (start + stop) // 2))
            self._order(stop) if what in (STOPPED, RESTARTED) else None
            self._strike(what, stop, outcome)
        self._commit(changes)
        self._commit(changes + 1)
        self._wait_until_quiet(changes, outcome)
        self._judge(outcome)
        outcome.dropped = self._drops() - drops
        outcome.seconds = time.monotonic() - began
        return outcome

    def _begin(self, changes: int) -> None:
        site = self.site
        site.client.flushall()
        stock(site.db, changes)
        site.db[PLAN].insert_one({"_id": "service", "next": 0, "until": 0})
        if self.streams:  # the log reports a drop only if it removed a key
            warm_keys(site.keeper, USER_NAME, [next(str(n) for n in range(changes) if not is_product(n))])
        for process in self._processes():
            process.start()
        if self.streams:  # its first start drops what is cached
            wait_until(
                lambda: site.db["change_streams"].find_one({"token": {"$exists": True}}),
                "the first start of the change stream",
                _SOON,
            )
            wait_until(lambda: not site.db["outbox"].find_one(), "an empty outbox", _SOON)
            wait_until(self._idle, "an idle broker", _SOON)
            assert self._drops(), "no drop of a view in the workers' logs; has the log line changed?"
        # A worker that finds no mark of a view may drop its keys. So cache them when the marks are there.
        marks = [f"cachekeeper:{view.name}-incarnation" for view in (USER_NAME, SEARCH)]
        wait_until(lambda: site.client.exists(*marks) == len(marks), "the marks of the views", _SOON)
        users = [str(number) for number in range(changes) if not is_product(number)]
        for at in range(0, len(users), _AT_ONCE):
            warm_keys(site.keeper, USER_NAME, users[at : at + _AT_ONCE])
        for number in filter(is_product, range(changes)):
            search_products(text_of(number), keeper=site.keeper)
        assert site.client.exists(*map(key_of, range(changes))) == changes, (
            "some keys are not cached before their change"
        )

    def _drops(self) -> int:
        """How often the workers have dropped a view, according to their logs."""
        return sum(len(_DROPPED.findall(worker.log.read_bytes())) for worker in self.workers)

    def _processes(self) -> Iterator[ServerProcess]:
        yield from (*self.workers, *self.relays, *self.streams, self.service)

    # --- orders to the service

    def _done(self) -> int:
        plan: Any = self.site.db[PLAN].find_one({"_id": "service"})
        return int(plan["next"])

    def _order(self, until: int) -> None:
        self.site.db[PLAN].update_one({"_id": "service"}, {"$set": {"until": until}})

    def _commit(self, until: int) -> None:
        """Order the changes below `until`, and wait until they are committed."""
        self._order(until)
        wait_until(lambda: self._done() >= until, f"{until} committed changes", _SOON)

    # --- kills

    def _strike(self, what: str, stop: int, outcome: Outcome) -> None:
        """Kill or restart a process, or fill the broker, while the service commits further changes."""
        if what == STOPPED:
            self.workers[0].stop()
            assert self.workers[0].exit_text == "exited with status 0"
            self.workers[0].start()
        elif what == RESTARTED:
            remember_queues(self.site.broker, QUEUE, DEAD_QUEUE)
            self.site.broker.restart(keep_data=True)
        elif what == FILLED:
            self._fill(stop)
        else:
            self._kill_at(what, stop, outcome)
        outcome.kills[what] += 1

    def _fill(self, stop: int) -> None:
        """Pause the workers until messages wait. Then let them take the messages from a broker without free memory."""
        for worker in self.workers:
            worker.pause()
        self._order(stop)
        wait_until(self.site.waiting, "messages waiting in the queue", _SOON)
        with full(self.site.broker):
            for worker in self.workers:
                worker.resume()
            wait_until(lambda: not self.site.waiting(), "an empty queue", _SOON)

    def _kill_at(self, gap: str, stop: int, outcome: Outcome) -> None:
        (self.faults / gap).touch()
        self._order(stop)
        victims = wait_until(self._dead, f"the end of a process at {gap}", _SOON)
        for victim in victims:
            assert victim.exit_text == "was killed by SIGKILL", (
                f"{victim.name} {victim.exit_text}\n{victim.log_tail(60)}"
            )
            if gap == COMMITTED and self.path is Path.PLAIN:
                outcome.unsaid.add(self._done() - 1)
            victim.start()

    def _dead(self) -> list[ServerProcess]:
        return [process for process in self._processes() if not process.alive]

    # --- the end

    def _wait_until_quiet(self, last: int, outcome: Outcome) -> None:
        """Wait until no event is left in the outbox, in the queue or in flight."""
        site = self.site
        # All processes ran when the last change was committed, so its event arrives. The change stream stores events
        # in order: with the last event, it has stored all.
        wait_until(lambda: last in self._done_with(), "the last change", _SOON)
        if self.path is Path.PLAIN:
            wait_until(self._idle, "an idle broker", _SOON)
            self._wait_for_hands(set(range(outcome.changes)) - outcome.unsaid)
        else:
            wait_until(lambda: not site.db["outbox"].find_one(), "an empty outbox", _SOON)
            wait_until(lambda: not site.waiting(), "an empty queue", _SOON)
        assert self._dead() == [], "a process ended unexpectedly"

    def _idle(self) -> bool:
        """Whether no message waits in the queue, and on Redis none is in flight either.

        On Redis, a killed worker's messages stay in flight for up to a minute.
        """
        return not self.site.waiting() and (self.site.is_rabbit or not self.site.held())

    def _wait_for_hands(self, told: set[int]) -> None:
        """Wait until workers are done with these changes, as long as there is progress.

        No broker counts exactly how many messages workers hold, so this waits for each change. The servers are running
        and the queue is empty. So if no change is finished for `_PATIENCE_SECONDS`, the missing changes are lost.
        """
        missing, since = told - self._done_with(), time.monotonic()
        while missing and time.monotonic() - since < _PATIENCE_SECONDS:
            time.sleep(0.1)
            if (now := told - self._done_with()) != missing:
                missing, since = now, time.monotonic()

    def _done_with(self) -> set[int]:
        """The changes whose event a worker has applied or stored as a dead letter."""
        return {int(number) for number in self.site.client.smembers(DONE)}

    def _judge(self, outcome: Outcome) -> None:
        site, values = self.site, dict[int, object]()
        for at in range(0, outcome.changes, _AT_ONCE):
            numbers = range(at, min(at + _AT_ONCE, outcome.changes))
            values |= zip(numbers, site.client.mget(map(key_of, numbers)), strict=True)
        outcome.silent = silent(values, self._done_with())
        for view in (USER_NAME, SEARCH):
            found = audit(site.keeper, view, grace=1.0)
            outcome.lost |= {number_of(key) for key in (*found.wrong, *found.unsettled)}
        outcome.unsaid &= outcome.lost
        outcome.left = sum(site.db[name].count_documents({}) for name in ("outbox", "dead_letters")) + site.dead()
        outcome.slowest = site.client.zscore(SLOWEST, "seconds") or 0.0
