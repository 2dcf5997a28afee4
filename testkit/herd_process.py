"""One process of a herd: many threads, one keeper, and counted reads of MongoDB. A pipe gives it commands."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pymongo
import pytest
from redis.backoff import NoBackoff
from redis.retry import Retry

from cachekeeper.connections.mongodb import DatabaseReads
from cachekeeper.errors import CachekeeperError
from cachekeeper.metrics import COUNTERS
from cachekeeper.protocol import scripts
from cachekeeper.protocol.outcomes import Filled
from cachekeeper.reading import core, effects
from cachekeeper.reading.keeper import Keeper
from cachekeeper.settings import Settings
from lookups import read_user
from testkit.gates import Gate
from testkit.limits import LONG
from testkit.mutating import mutate
from testkit.shop import changed_user
from testkit.watching import Reads, WatchedRedis

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from multiprocessing.connection import Connection

    from pymongo.monitoring import CommandStartedEvent


@dataclass
class Seen:
    """The work of a process so far. Times are of the monotonic clock, which all processes of a machine share.

    Attributes:
        come: how many threads have competed for a lease.
        granted: when each granted lease was requested.
        read: when each of its reads of MongoDB was sent.
        most_at_once: the most of these reads at one time.
        uncached: how many loads its lookups made without a lease.
        answers: how often each answer, or type of error, was given.
        slowest: the slowest of its lookups, in seconds.
    """

    come: int = 0
    granted: list[float] = field(default_factory=list)
    read: list[float] = field(default_factory=list)
    most_at_once: int = 0
    uncached: int = 0
    answers: Counter[str | None] = field(default_factory=Counter)
    slowest: float = 0.0


class SlowReads(Reads):
    """Notes reads and slows them down. Before a read has its answer, `overtaken` is called: a change may overtake it.

    The first reads wait until `together` of them are there at once.
    """

    def __init__(self, seconds: float, together: int = 0, overtaken: Callable[[], object] = lambda: None) -> None:
        super().__init__()
        self._seconds = seconds
        self._together = together
        self._overtaken = overtaken
        self.times: list[float] = []

    def reset(self) -> None:
        super().reset()
        self._are_together = threading.Event()

    def started(self, event: CommandStartedEvent) -> None:
        if event.command_name == "find":
            self.times.append(time.monotonic())
        super().started(event)
        if event.command_name == "find":
            if self._now >= self._together:
                self._are_together.set()
            self._are_together.wait(LONG)
            time.sleep(self._seconds)
            self._overtaken()


class Competitors(WatchedRedis):
    """Notes the threads that compete for leases, and the leases granted."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.threads: set[int] = set()
        self.granted: list[float] = []

    def execute_command(self, *args: Any, **options: Any) -> Any:
        before, began = self.counted["acquire"], time.monotonic()
        answer = super().execute_command(*args, **options)
        if self.counted["acquire"] > before and isinstance(answer, list):
            self.threads.add(threading.get_ident())
            if answer[0] == b"granted":
                self.granted.append(began)
        return answer


class HerdProcess:
    """The keeper, and the threads that use it."""

    def __init__(self, settings: dict[str, Any], database: str, slow: float, together: int, *, overtaken: bool) -> None:
        self.settings = Settings(**settings)
        self.reads = SlowReads(slow, together, self._invalidate if overtaken else lambda: None)
        self._worker = Keeper(self.settings)
        mongo: pymongo.MongoClient[Any] = pymongo.MongoClient(self.settings.mongodb_url, event_listeners=[self.reads])
        mongo.admin.command("ping")
        host, port = self.settings.redis_url.removeprefix("redis://").split("/")[0].split(":")
        self.redis = Competitors(
            host=host,
            port=int(port),
            protocol=2,
            socket_timeout=self.settings.redis_timeout_seconds,
            retry=Retry(NoBackoff(), 0),
        )
        self.redis.script_load(scripts._ACQUIRE.source)  # else the first EVALSHA would fail, and not be counted
        self.keeper = Keeper(self.settings, cache=self.redis, database=mongo[database])
        self.gate = Gate()  # stops the first read until `let_it_go`
        self._threads: list[threading.Thread] = []
        self._answers: list[tuple[str | None, float]] = []

    def _invalidate(self) -> None:
        changed_user(self._worker, "Ann")

    def let_it_go(self) -> None:
        self.gate.open()

    def look_up(self, users: Sequence[int]) -> None:
        """Look up each user in a thread of its own, all at once."""
        self.reads.reset()
        self.reads.before.append(self.gate)
        barrier = threading.Barrier(len(users))
        self._threads = [threading.Thread(target=self._look_up, args=(user, barrier), daemon=True) for user in users]
        for thread in self._threads:
            thread.start()

    def _look_up(self, user: int, barrier: threading.Barrier) -> None:
        barrier.wait()
        began = time.monotonic()
        try:
            answer = read_user(user, keeper=self.keeper)
        except CachekeeperError as error:
            answer = type(error).__name__
        self._answers.append((answer, time.monotonic() - began))

    def is_done(self) -> bool:
        return not any(thread.is_alive() for thread in self._threads)

    def seen(self) -> Seen:
        return Seen(
            come=len(self.redis.threads),
            granted=list(self.redis.granted),
            read=list(self.reads.times),
            most_at_once=self.reads.most_at_once,
            uncached=COUNTERS["uncached_load"],
            answers=Counter(answer for answer, _ in self._answers),
            slowest=max((seconds for _, seconds in self._answers), default=0.0),
        )


def serve(pipe: Connection, options: dict[str, Any], mutant: str | None) -> None:
    """Run a herd process until the other end of the pipe is closed."""
    patch = pytest.MonkeyPatch()
    if mutant is not None:
        MUTANTS[mutant](patch)
    process = HerdProcess(**options)
    pipe.send("ready")
    try:
        while True:
            name, *arguments = pipe.recv()
            pipe.send(getattr(process, name)(*arguments))
    except EOFError:
        os._exit(0)  # ends threads that still wait, too


# --- known-bad variants ---------------------------------------------------------------------------------------------


def _no_leases(patch: pytest.MonkeyPatch) -> None:
    mutate(patch, "_ACQUIRE", "return {'taken', m[1], tonumber(m[2]) - now}", "")


def _not_renewed(patch: pytest.MonkeyPatch) -> None:
    """Take over an expired lease without renewing its end."""
    mutate(patch, "_ACQUIRE", "'lx', digits(ends)", "'lx', m[2] or digits(ends)")


def _no_cap(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(DatabaseReads, "slot", lambda *_: ExitStack())


def _until_it_lands(patch: pytest.MonkeyPatch) -> None:
    """Retry until a fill succeeds: no value is returned uncached, and no time limit ends a lookup."""

    def load(nonce: str, limits: core.Limits, _: core._State) -> core.Reading[effects.Loaded | None]:
        loaded: effects.Loaded = yield effects.Load(nonce, limits.lookup)
        filled = yield effects.Fill(nonce, loaded)
        return loaded if filled is Filled.STORED else None

    patch.setattr(core, "_load", load)
    patch.setattr(core._State, "left", lambda _: 1000.0)


MUTANTS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "no leases": _no_leases,
    "leases are not renewed": _not_renewed,
    "no cap": _no_cap,
    "until it lands": _until_it_lands,
}
