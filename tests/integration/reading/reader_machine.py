"""The reader on every server, in sequences of everything that may happen to one user, in any order.

Readers of two processes take one step after the other, whenever it is their turn: the core's own generator, performed
by the shell's own effects, on a real Redis. Only MongoDB is a plain object here, so that the sequence decides when a
load reads what, and so are a reader's sleeps. Events go through handler and `apply`, alone or in batches, late, in any
order, as often as it pleases whoever delivers them.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pymongo
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cachekeeper.applying.batch import apply
from cachekeeper.connections.mongodb import DatabaseReads
from cachekeeper.model.commands import Expire
from cachekeeper.model.events import Event
from cachekeeper.model.registry import load_registry
from cachekeeper.model.sources import ABSENT, Absent, Find, StoredDocument
from cachekeeper.protocol import Store
from cachekeeper.reading import core, effects
from cachekeeper.reading.core import Limits, Start, Target
from cachekeeper.reading.keeper import Keeper
from cachekeeper.reading.sync import SyncReader, _Lookup
from cachekeeper.values.keys import meta_key
from lookups import USER_NAME
from producers import UserDeleted, UserUpdated
from testkit import machines
from testkit.limits import settings

if TYPE_CHECKING:
    from redis import Redis

    from cachekeeper.devservers import RedisServer
    from cachekeeper.reading.singleflight import Flight

REGISTRY = load_registry(["producers", "lookups", "worker"])
KEY = USER_NAME.template.key("1")
META = meta_key(KEY)
HOUR = 3_600_000
KINDS = st.sampled_from(["versioned", "versioned", "versioned", "unversioned", "deleted", "not raised"])
LIMITS = Limits(
    lookup=30, load=5, read=4, value_bytes=1000, lease_ms=HOUR, negative_ms=HOUR, marker_ms=HOUR
)  # nothing ends by itself


@dataclass(frozen=True)
class Version:
    """What one write left of the user, None for no such user; and the event that tells of it."""

    document: StoredDocument | None
    event: Event


class Users(DatabaseReads):
    """One user, as the last write left him."""

    def __init__(self) -> None:
        self.timeout = LIMITS.read
        self.document: StoredDocument | None = None
        self._lock = threading.Lock()

    @contextmanager
    def slot(self, patience: float) -> Iterator[None]:  # noqa: ARG002  # there are slots for all
        yield

    def find(self, find: Find) -> list[StoredDocument]:
        assert find.collection == "users"
        return [] if self.document is None else [self.document]


@dataclass
class Reading:
    """A reader on its way.

    Attributes:
        process: whose it is.
        lookup: the shell's effects.
        reading: the generator.
        effect: what it wants done next.
        since: the last write acknowledged when it began: it must not answer with less.
        flight: the load of another reader that it waits for.
        now: its clock.
    """

    process: SyncReader
    lookup: _Lookup
    since: int
    reading: core.Reading[str | Absent] = field(init=False)
    effect: effects.Effect = field(init=False)
    flight: Flight | None = None
    now: float = 0.0


class ReaderMachine(RuleBasedStateMachine):
    def __init__(self, client: Redis, keeper: Keeper) -> None:
        super().__init__()
        client.flushall()
        self.client = client
        self.keeper = keeper
        self.users = Users()
        self.processes = [self.a_process(), self.a_process()]
        self.readings: list[Reading] = []
        self.writes: list[Version] = []
        self.version = 0
        self.acknowledged = 0
        self.delivered: set[int] = set()
        self.may_end = False
        self.ended = False  # a deadline has passed, and its metadata has not been lost

    def a_process(self) -> SyncReader:
        return SyncReader(Store(self.client), self.users, LIMITS, pause=0)

    # --- writes and their events --------------------------------------------------------------------------------------

    @initialize(
        kind=st.sampled_from(["versioned", "unversioned", "deleted"]), may_end=st.sampled_from([False, False, True])
    )
    def at_first(self, kind: str, may_end: bool) -> None:  # noqa: FBT001  # Hypothesis draws it
        self.write(kind)
        self.delivered.add(0)
        self.may_end = may_end  # then not much more happens, so seldom

    @rule(kind=KINDS)
    def change(self, kind: str) -> None:
        """As it mostly goes: committed, delivered, acknowledged, whatever readers are in the middle of."""
        self.write(kind)
        self.acknowledged = len(self.writes) - 1
        self.apply([self.acknowledged])

    @rule(kind=KINDS)
    def write(self, kind: str) -> None:
        name = f"name {len(self.writes)}"
        known = None if self.users.document is None else self.users.document.get("version")
        if kind == "deleted":
            self.version += 1  # it goes on counting across a deletion
            self.committed(None, UserDeleted(user_id="1"))
        elif kind == "not raised" and known is not None:
            self.committed({"_id": 1, "name": name, "version": known}, UserUpdated(user_id="1", name=name))
        elif kind == "versioned":
            self.version += 1
            document = {"_id": 1, "name": name, "version": self.version}
            self.committed(document, UserUpdated(user_id="1", name=name, version=self.version))
        else:
            self.committed({"_id": 1, "name": name}, UserUpdated(user_id="1", name=name))

    def committed(self, document: StoredDocument | None, event: Event) -> None:
        self.users.document = document
        self.writes.append(Version(document, event))

    @rule(data=st.data(), dies=st.sampled_from([False, False, False, True]))
    def deliver(self, data: st.DataObject, dies: bool) -> None:  # noqa: FBT001  # Hypothesis draws it
        """A batch of any events that there were, mostly the latest; the worker may die before it acknowledges."""
        last = len(self.writes) - 1
        ago = st.sampled_from([0, 0, 0, 0, 1, 1, 2, 3])
        batch = [max(last - each, 0) for each in data.draw(st.lists(ago, min_size=1, max_size=4), "writes ago")]
        self.apply(batch)
        if not dies:
            self.acknowledged = max(self.acknowledged, *batch)

    def apply(self, batch: list[int]) -> None:
        results = apply(self.keeper, [REGISTRY.commands(self.writes[each].event) for each in batch])
        assert [result.error for result in results] == [None] * len(batch)
        self.delivered.update(batch)

    # --- readers ------------------------------------------------------------------------------------------------------

    @precondition(lambda self: len(self.readings) < 4)
    @rule(number=st.sampled_from([0, 1]))
    def begin(self, number: int) -> None:
        """The plain `GET`; who has no hit goes on, step by step."""
        self.read(self.processes[number])

    def read(self, process: SyncReader) -> Reading | None:
        raw = process.get(KEY)
        if isinstance(raw, bytes):
            self.judge(raw.decode(), self.acknowledged)
            return None
        assert raw is Start.MISS
        target = Target(
            USER_NAME.name,
            KEY,
            USER_NAME.query([1]),
            lambda documents: USER_NAME.interpret(documents[0] if documents else None),
            USER_NAME.codec,
        )
        reading = Reading(process, _Lookup(process, target, HOUR), self.acknowledged)
        reading.reading = core.read(target, LIMITS, raw, lambda: reading.now, 0)
        reading.effect = next(reading.reading)
        self.readings.append(reading)
        return reading

    @precondition(lambda self: self.readings)
    @rule(data=st.data(), steps=st.integers(1, 3))
    def go_on(self, data: st.DataObject, steps: int) -> None:
        reading = data.draw(st.sampled_from(self.readings))
        for _ in range(steps):
            if reading in self.readings:
                self.take_step(reading)

    @rule(
        kind=KINDS,
        lost=st.sampled_from(["nothing", "nothing", "everything", "lease"]),
        another=st.booleans(),
        number=st.sampled_from([0, 1]),
    )
    def is_overtaken(self, kind: str, lost: str, another: bool, number: int) -> None:  # noqa: FBT001  # as above
        """A load under a lease, and a change before its fill; rules by themselves seldom come to this."""
        self.client.delete(KEY)
        late = self.read(self.processes[number])
        if late is None:
            return
        for _ in ("acquire", "load"):
            if late in self.readings:
                self.take_step(late)
        self.goes_wrong(lost)
        self.change(kind)
        if another and late in self.readings and (reading := self.read(self.processes[0])) is not None:
            self.take_step(reading)
        if late in self.readings:
            self.take_step(late)

    def lose_patience(self, reading: Reading) -> None:
        """When only the time of one load is left, MongoDB is asked, and nothing is filled."""
        reading.now = LIMITS.lookup - LIMITS.load
        if reading.flight is not None:
            reading.flight = None
            self.send(reading, None)

    def take_step(self, reading: Reading) -> None:
        answer: object = None
        if isinstance(reading.effect, effects.Join):
            if reading.flight is None:
                reading.flight = reading.process.leased._flights.get(reading.effect.nonce)
            if reading.flight is not None:
                if not reading.flight.landed:
                    return
                answer, reading.flight = reading.flight.wait(0), None
        elif not isinstance(reading.effect, effects.Wait):
            answer = reading.lookup.perform(reading.effect)
        self.send(reading, answer)

    def send(self, reading: Reading, answer: object) -> None:
        try:
            reading.effect = reading.reading.send(answer)
        except StopIteration as stop:
            self.readings.remove(reading)
            reading.lookup.close()
            self.judge(stop.value, reading.since)

    # --- mishaps ------------------------------------------------------------------------------------------------------

    @rule(
        what=st.sampled_from(
            ["K", "M", "M", "everything", "lease", "absence", "patience", "process", "deadline", "deadline"]
        )
    )
    def goes_wrong(self, what: str) -> None:
        """K or M is evicted; Redis is flushed, or restarts empty; a lease, or what is known of absence, runs out.

        Or a process is killed: its readers are no more, their leases are. Or the key ends for good.
        """
        if what == "K":
            self.client.delete(KEY)
        elif what == "M":
            self.client.delete(META)
            self.ended = False
        elif what == "everything":
            self.client.flushall()
            self.ended = False
        elif what == "lease" and self.client.hexists(META, "l"):
            self.client.hset(META, "lx", 0)
        elif what == "absence" and self.client.hexists(META, "ax"):
            self.client.hset(META, "ax", 0)
        elif what == "patience" and self.readings:
            self.lose_patience(self.readings[0])
        elif what == "process":
            killed = self.processes.pop(0)
            self.readings = [reading for reading in self.readings if reading.process is not killed]
            self.processes.append(self.a_process())
        elif what == "deadline" and self.may_end:
            assert [result.error for result in apply(self.keeper, [[Expire(USER_NAME, "1")]])] == [None]
            self.ended = True

    # --- what must be true --------------------------------------------------------------------------------------------

    def judge(self, answer: str | Absent, since: int) -> None:
        """An answer is that of a write which is not older than the last one acknowledged when the read began."""
        possible: list[str | Absent] = [
            ABSENT if write.document is None else write.document["name"] for write in self.writes[since:]
        ]
        assert answer in possible, f"stale: {answer}, and write {since} was acknowledged"

    @invariant()
    def nothing_stale_lies_there(self) -> None:
        raw: Any = self.client.get(KEY)
        if raw is not None:
            assert not self.ended, "it lives beyond its end"
            self.judge(raw.decode(), self.acknowledged)

    @rule()
    def all_is_quiet(self) -> None:
        """Every event has been delivered, every reader has its answer: then what is cached is what MongoDB has."""
        for each in range(len(self.writes)):
            if each not in self.delivered:
                self.apply([each])
        self.acknowledged = len(self.writes) - 1
        if self.client.hexists(META, "l"):
            self.client.hset(META, "lx", 0)  # nobody waits for the dead
        self.drain()
        now = self.users.document
        if not self.ended:
            self.read(self.processes[0])
            self.drain()
        raw: Any = self.client.get(KEY)
        assert raw is None or (now is not None and raw.decode() == now["name"]), f"stuck: {raw}"
        assert now is None or self.ended or raw is not None, "what was read last is not cached"

    def drain(self) -> None:
        for _ in range(1000):
            if not self.readings:
                return
            for reading in tuple(self.readings):
                if reading in self.readings:
                    self.take_step(reading)
        raise AssertionError("they go round in circles")

    def teardown(self) -> None:
        if self.writes:
            self.all_is_quiet()


def holds(server: RedisServer) -> None:
    search(server, examples=120, steps=40)


def finds(server: RedisServer) -> None:
    """Look for a known-bad variant until it is found: short sequences, of which many go into the time of a long one."""
    search(server, examples=4000, steps=15, shrink=False)


def search(server: RedisServer, *, examples: int, steps: int, shrink: bool = True) -> None:
    with (
        server.client() as client,
        pymongo.MongoClient[dict[str, Any]](connect=False) as nowhere,
    ):
        keeper = Keeper(settings(redis_url=server.url), cache=client, database=nowhere["none"])
        machines.run(lambda: ReaderMachine(client, keeper), examples=examples, steps=steps, shrink=shrink)
