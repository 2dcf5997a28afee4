"""The store in long sequences of steps, compared with the model after each step.

`replay.py` runs each distinct (K, M, step) on a server, from a state that it sets up. Here no state is set up: each
step finds what the last one left, field by field and TTL by TTL, and anything may vanish between two steps.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from cachekeeper.protocol import Store
from testkit import machines
from verification.protocol.cells import (
    NOBODY,
    Acquire,
    Cell,
    Change,
    Deadline,
    Expire,
    Fill,
    FillAbsent,
    Invalidate,
    Protocol,
    ReadUntil,
    Release,
    Step,
)
from verification.protocol.replay import SECOND, State, clock, compare, compare_state, step_of
from verification.protocol.store_lab import FOREIGN, K, M, StoreLab, put_foreign

if TYPE_CHECKING:
    from redis import Redis

VERSIONS = st.integers(0, 12)  # beyond 9, because texts and numbers are ordered differently there
# Once a deadline has passed, hardly anything can happen until M is lost. So past deadlines are rare.
ENDS = st.sampled_from([*[Deadline.NONE] * 4, Deadline.AHEAD, Deadline.PAST])
CHANGES = st.builds(Change, VERSIONS, st.just(0), ENDS)
EXPIRES = st.builds(Expire, st.sampled_from([*[Deadline.AHEAD] * 6, Deadline.PAST]))
EVENTS = CHANGES | CHANGES | st.just(Invalidate()) | EXPIRES
PERHAPS = st.booleans().flatmap(lambda happens: EVENTS if happens else st.none())

OTHER_TYPES = [kind for kind in FOREIGN if kind != "hash"]


class StoreMachine(RuleBasedStateMachine):
    """One key. Nonces and writes are numbered; each number is used once. A reader may be slow, and fill late."""

    def __init__(self, client: Redis) -> None:
        super().__init__()
        client.flushall()
        self.client = client
        self.lab = StoreLab(client)
        self.store = Store(client)
        self.began = clock(client)
        self.cell = Cell()
        self.nonces = 0
        self.writes = 0
        self.lapsed = False
        self.garbled = False

    def run(self, step: Step) -> None:
        """Run the step on the server and on the model. Both must give the same answer and the same state."""
        result = self.store.run(step_of(K, step, self.began))
        self.garbled = False
        problems = list(compare(self.cell, step, result, self.look(), self.began))
        assert not problems, (step, self.cell, problems)
        _, self.cell = Protocol().apply(self.cell, step)

    def look(self) -> State:
        pipe = self.client.pipeline(transaction=False)
        State.ask(pipe, K)
        return State.read(iter(pipe.execute()))

    def a_write(self) -> int:
        self.writes += 1
        return self.writes

    # --- the steps ----------------------------------------------------------------------------------------------------

    @rule(refresh=st.booleans())
    def acquire(self, refresh: bool) -> None:  # noqa: FBT001  # Hypothesis draws it
        self.nonces += 1
        before = self.cell.lease
        self.run(Acquire(self.nonces, refresh=refresh, lapsed=self.lapsed))
        self.lapsed = self.lapsed and self.cell.lease == before

    @precondition(lambda self: self.nonces)
    @rule(data=st.data())
    def fill(self, data: st.DataObject) -> None:
        self.run(self.a_fill(data, self.any_nonce(data)))

    @rule(data=st.data(), refresh=st.booleans(), before=PERHAPS, meanwhile=PERHAPS)
    def look_up(self, data: st.DataObject, refresh: bool, before: Step | None, meanwhile: Step | None) -> None:  # noqa: FBT001
        """Acquire and fill as a reader does, whatever the answers. Single rules seldom reach this sequence."""
        self.event(before)
        self.acquire(refresh)
        nonce = self.nonces
        self.event(meanwhile)
        self.run(self.a_fill(data, nonce))

    @precondition(lambda self: self.cell.key is not None)
    @rule(data=st.data())
    def refresh_early(self, data: st.DataObject) -> None:
        """Refresh K early, or repair a damaged K. No other fill finds K there."""
        self.look_up(data, refresh=True, before=None, meanwhile=None)

    def event(self, step: Step | None) -> None:
        if step is not None:
            self.run(replace(step, write=self.a_write()) if isinstance(step, Change) else step)

    @precondition(lambda self: self.nonces)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        self.run(Release(self.any_nonce(data)))

    @rule(step=EVENTS)
    def happens(self, step: Step) -> None:
        self.event(step)

    @rule()
    def read_until(self) -> None:
        self.run(ReadUntil())

    def a_fill(self, data: st.DataObject, nonce: int) -> Fill | FillAbsent:
        spare = data.draw(st.booleans(), "spare")
        if data.draw(st.sampled_from([False, False, True]), "found nothing"):
            return FillAbsent(nonce, self.a_write(), spare)
        version = data.draw(st.none() | VERSIONS, "version")
        return Fill(nonce, self.a_write(), version, data.draw(ENDS, "ends"), spare)

    def any_nonce(self, data: st.DataObject) -> int:
        """Draw mostly the nonce that holds the lease, and sometimes an old one, also from before a flush."""
        ago = data.draw(st.sampled_from([None, None, None, 0, 1, 2]), "nonces ago")
        return max(self.nonces - ago, 1) if ago is not None else self.cell.lease or self.nonces

    # --- what happens to keys -----------------------------------------------------------------------------------------

    @rule(what=st.sampled_from(["K", "K", "K", "M", "M", "M", "everything", *OTHER_TYPES]))
    def something_is_lost(self, what: str) -> None:
        """Evict K or M; or flush or restart Redis, which also forgets the scripts; or give M another type."""
        self.garbled = self.garbled and what == "K"
        if what == "K":
            self.client.delete(K)
            self.cell = self.cell.without_key()
            return
        self.client.delete(M)
        self.cell = self.cell.without_meta()
        if what == "everything":
            self.client.flushall()
            self.client.script_flush()
            self.cell = Cell()
        elif what in OTHER_TYPES:
            put_foreign(self.lab, M, what)
            self.garbled = True

    @precondition(lambda self: self.cell.lease != NOBODY)
    @rule()
    def lease_runs_out(self) -> None:
        self.client.hset(M, "lx", self.began - SECOND)
        self.lapsed = True

    @precondition(lambda self: self.cell.absent is not None)
    @rule()
    def absence_is_forgotten(self) -> None:
        self.client.hset(M, "ax", self.began - SECOND)
        self.cell = self.cell._replace(absent=None)

    @invariant()
    def is_as_the_model_has_it(self) -> None:
        if not self.garbled:
            problems = list(compare_state(self.cell, self.look(), self.began))
            assert not problems, (self.cell, problems)


def holds(client: Redis, *, examples: int, shrink: bool = True) -> None:
    """Run that many sequences of 40 steps. Raises AssertionError: a server does not do what the model does."""
    machines.run(lambda: StoreMachine(client), examples=examples, steps=40, shrink=shrink)
