"""Run every (K, M, step) of the model through the real Lua on a real server, and compare the answers with the model's.

The model knows only 'ahead' and 'past'; here real times take their place: a deadline is 100 s ahead or 1 s past, a
lease that has run out ended a second ago, and so on. Each case is also tried with every time that must make no
difference: a lease that has run out and was not taken over, an absent flag that has run out.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from cachekeeper.protocol import Store, Value, outcomes, scripts
from cachekeeper.values.keys import meta_key
from verification.protocol.cases import Case
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
    Outcome,
    Protocol,
    ReadUntil,
    Release,
    Step,
)

if TYPE_CHECKING:
    from redis import Redis
    from redis.client import Pipeline

# Milliseconds.
LEASE = 50_000
DEADLINE = 100_000
MARKER = 300_000
VALUE = 600_000
KEPT = 200_000
NEGATIVE = 30_000
LONGEST = 1_000_000  # what was there before
SECOND = 1_000

_Field = bytes | bytearray | memoryview | str | int | float  # as redis-py has it

BATCH = 500

NAMES: dict[Enum, Outcome] = {
    outcomes.Acquired.GRANTED: Outcome.GRANTED,
    outcomes.Acquired.KNOWN_ABSENT: Outcome.ABSENT,
    outcomes.Changed.ENDED: Outcome.ENDED,
    outcomes.Changed.IGNORED: Outcome.IGNORED,
    outcomes.Changed.MARKED: Outcome.MARKED,
    outcomes.Changed.OVERWRITTEN: Outcome.OVERWRITTEN,
    outcomes.Expired.ENDED: Outcome.ENDED,
    outcomes.Expired.LIMITED: Outcome.LIMITED,
    outcomes.Filled.ENDED: Outcome.ENDED,
    outcomes.Filled.LEASE_LOST: Outcome.LOST,
    outcomes.Filled.STORED: Outcome.STORED,
    outcomes.Invalidated.INVALIDATED: Outcome.INVALIDATED,
    outcomes.Peeked.ENDED: Outcome.ENDED,
    outcomes.Peeked.MISSING: Outcome.MISSING,
    outcomes.Released.LOST: Outcome.LOST,
    outcomes.Released.RELEASED: Outcome.RELEASED,
}


@dataclass(frozen=True, slots=True)
class Trial:
    """One case, with the times that the model does not define."""

    case: Case
    key: str
    lapsed: bool  # the lease in M has run out
    old_flag: bool  # M has an absent flag that has run out

    def __str__(self) -> str:
        times = ", the lease run out" * self.lapsed + ", an old absent flag" * self.old_flag
        return f"{self.case.step} on {self.case.cell}{times}"


class State(NamedTuple):
    """K and M as they are on the server; TTLs in milliseconds, as PTTL returns them."""

    value: bytes | None
    ttl: int
    fields: dict[bytes, bytes]
    meta_ttl: int

    @classmethod
    def ask(cls, pipe: Pipeline, key: str) -> None:
        """Queue the commands whose answers `read` takes."""
        meta = meta_key(key)
        # M's TTL before K's: read in this order, an M that outlives K never seems to end before it.
        pipe.pttl(meta)
        pipe.hgetall(meta)
        pipe.pttl(key)
        pipe.get(key)

    @classmethod
    def read(cls, answers: Iterator[Any]) -> State:
        meta_ttl, fields, ttl, value = itertools.islice(answers, 4)
        return cls(value, ttl, fields, meta_ttl)


def answer_of(write: int) -> bytes:
    return b"the answer of write %d" % write


def nonce_of(number: int) -> str:
    return f"nonce {number}"


def trials(cases: Iterable[Case]) -> Iterator[Trial]:
    """Return the cases, each with every time that must make no difference to it."""
    number = 0
    for case in sorted(cases, key=repr):
        leased = case.cell.lease != NOBODY
        lapses = (case.step.lapsed,) if isinstance(case.step, Acquire) else (False, True) if leased else (False,)
        flags = (False, True) if case.cell.absent is None else (False,)
        for lapsed in lapses:
            for old_flag in flags:
                yield Trial(case, f"replay:{number}", lapsed, old_flag)
                number += 1


def replay(store: Store, cases: Iterable[Case]) -> list[str]:
    """Run all cases on an empty server. Return the differences from the model."""
    every = list(trials(cases))
    problems: list[str] = []
    for at in range(0, len(every), BATCH):
        batch = every[at : at + BATCH]
        now = clock(store.client)
        _set_up(store.client, batch, now)
        results = store.run_all([step_of(trial.key, trial.case.step, now) for trial in batch])
        states = _look(store.client, batch)
        for trial, result, state in zip(batch, results, states, strict=True):
            found = compare(trial.case.cell, trial.case.step, result, state, now)
            problems += [f"{trial}: {problem}" for problem in found]
    return problems


def clock(client: Redis) -> int:
    seconds, micros = client.time()
    return seconds * 1000 + micros // 1000


def _at(deadline: Deadline, now: int) -> int | None:
    return {Deadline.NONE: None, Deadline.AHEAD: now + DEADLINE, Deadline.PAST: now - SECOND}[deadline]


def _set_up(client: Redis, batch: Sequence[Trial], now: int) -> None:
    pipe = client.pipeline(transaction=False)
    for trial in batch:
        cell = trial.case.cell
        key, meta = trial.key, meta_key(trial.key)
        ttl = DEADLINE if cell.cut else LONGEST
        if cell.key is not None:
            pipe.set(key, answer_of(cell.key), pxat=now + ttl)
        fields: dict[_Field, _Field] = {}
        if cell.version is not None:
            fields["v"] = cell.version
        if cell.lease != NOBODY:
            fields |= {"l": nonce_of(cell.lease), "lx": now - SECOND if trial.lapsed else now + LEASE}
        if cell.absent is not None or trial.old_flag:
            fields["ax"] = now - SECOND if trial.old_flag else now + NEGATIVE
        if (deadline := _at(cell.deadline, now)) is not None:
            fields["d"] = deadline
        if fields:
            # As short as the protocol allows, so that a step that must lengthen M's TTL has to do it.
            least = ttl if cell.key is not None else NEGATIVE
            pipe.hset(meta, mapping=fields)
            pipe.pexpireat(meta, now + least)
    pipe.execute()


def step_of(key: str, step: Step, now: int) -> scripts.Step[Any]:  # noqa: PLR0911 - a table
    """Return the engine's step for a step of the model; deadlines become times around `now`."""
    match step:
        case Acquire():
            return scripts.acquire(key, nonce_of(step.nonce), lease_ms=LEASE, refresh=step.refresh)
        case Fill():
            value = Value(answer_of(step.write), step.version, _at(step.ends, now))
            return scripts.fill(key, nonce_of(step.nonce), value, ttl_ms=VALUE, marker_ms=MARKER, spare=step.spare)
        case FillAbsent():
            return scripts.fill_absent(key, nonce_of(step.nonce), ttl_ms=NEGATIVE, spare=step.spare)
        case Release():
            return scripts.release(key, nonce_of(step.nonce))
        case Change(version, write, ends) if write is not None:
            value = Value(answer_of(write), version, _at(ends, now))
            return scripts.change(key, value, ttl_ms=VALUE, marker_ms=MARKER)
        case Invalidate():
            return scripts.invalidate(key)
        case Expire(at):
            return scripts.expire(key, at_ms=_at(at, now) or 0, keep_ms=KEPT)
        case ReadUntil():
            return scripts.read_until(key)
    raise TypeError(f"{step}: no such step in the engine")


def _look(client: Redis, batch: Sequence[Trial]) -> list[State]:
    pipe = client.pipeline(transaction=False)
    for trial in batch:
        State.ask(pipe, trial.key)
    answers = iter(pipe.execute())
    client.delete(*(key for trial in batch for key in (trial.key, meta_key(trial.key))))
    return [State.read(answers) for _ in batch]


def compare(cell: Cell, step: Step, result: object, state: State, now: int) -> Iterator[str]:
    """Return how a step's answer, and the state after it, differ from the model."""
    outcome, after = Protocol().apply(cell, step)
    if _name(result, cell) is not outcome:
        yield f"the server answers {result}, the model {outcome.value}"
    if isinstance(result, outcomes.Stale) and result.known != cell.version:
        yield f"the server answers version {result.known}, the known version is {cell.version}"
    yield from compare_state(after, state, now)
    if outcome is Outcome.GRANTED and state.meta_ttl < LEASE - 5 * SECOND:
        yield f"M ends in {state.meta_ttl} ms, before the lease"
    if outcome is Outcome.GRANTED and int(state.fields.get(b"lx", 0)) < now + LEASE:
        yield "the lease ends too early"
    if outcome is Outcome.MARKED and state.meta_ttl < MARKER - 5 * SECOND:
        yield f"M ends in {state.meta_ttl} ms, before the marker"
    if isinstance(step, Expire) and state.meta_ttl < KEPT - 5 * SECOND:
        yield f"M ends in {state.meta_ttl} ms, before the time for which it must keep the deadline"


def compare_state(cell: Cell, state: State, now: int) -> Iterator[str]:
    """Return how K and M differ from the model."""
    yield from _compare_value(cell, state)
    yield from _compare_meta(cell, state, now)


def _name(result: object, cell: Cell) -> Outcome | None:
    """Return the model's name for an outcome; None if the outcome carries a wrong value."""
    if isinstance(result, outcomes.Found):
        return Outcome.FOUND if cell.key is not None and result.raw == answer_of(cell.key) else None
    if isinstance(result, outcomes.LeaseTaken):
        right = result.nonce == nonce_of(cell.lease) and 0 < result.milliseconds <= LEASE
        return Outcome.TAKEN if right else None
    if isinstance(result, outcomes.Stale):
        return Outcome.STALE
    return NAMES.get(cast("Enum", result))


def _compare_value(after: Cell, state: State) -> Iterator[str]:
    wanted = None if after.key is None else answer_of(after.key)
    if state.value != wanted:
        yield f"K holds {state.value!r}, not {wanted!r}"
    if wanted is None or state.value is None:
        return
    if state.ttl < 0:
        yield "K never ends"
    if after.cut != (state.ttl <= DEADLINE):
        yield f"K ends in {state.ttl} ms, {'past' if after.cut else 'for no reason before'} the deadline"
    # (If M was evicted and a lease was then taken early, M holds only that lease, and may end before K.)
    if {b"v", b"d"} & set(state.fields) and state.meta_ttl < state.ttl:
        yield f"M ends before K: {state.meta_ttl} ms, {state.ttl} ms"


def _compare_meta(after: Cell, state: State, now: int) -> Iterator[str]:
    fields = state.fields
    if unknown := set(fields) - {b"v", b"l", b"lx", b"ax", b"d"}:
        yield f"M has unknown fields {unknown}"
    if fields and state.meta_ttl < 0:
        yield "M never ends"
    version = None if after.version is None else b"%d" % after.version
    if fields.get(b"v") != version:
        yield f"M.version is {fields.get(b'v')!r}, not {version!r}"
    lease = None if after.lease == NOBODY else nonce_of(after.lease).encode()
    if fields.get(b"l") != lease or (b"lx" in fields) != (lease is not None):
        yield f"the lease is {fields.get(b'l')!r} until {fields.get(b'lx')!r}, not {lease!r}"
    absent = int(fields.get(b"ax", 0)) > now
    if absent != (after.absent is not None):
        yield f"'known absent' is {absent}"
    wanted = _at(after.deadline, now)
    found = int(fields[b"d"]) if b"d" in fields else None
    if found != wanted:
        yield f"the deadline is {found}, not {wanted}"
