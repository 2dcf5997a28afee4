"""The possible next moves: of the database and its events, of Redis, and of a reader."""

from __future__ import annotations

from typing import TYPE_CHECKING

from verification.protocol.cells import (
    GONE,
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
from verification.protocol.parts import IDLE, Database, Move, Phase, Reader, Rules

if TYPE_CHECKING:
    from collections.abc import Iterable

    from verification.protocol.writes import Event, History


class Moves:
    """The moves of one history.

    Attributes:
        steps: every step that was taken, with the cell it was taken on; `replay.py` runs these on real servers.
    """

    def __init__(self, history: History, protocol: Protocol, rules: Rules) -> None:
        self.history = history
        self.protocol = protocol
        self.rules = rules
        self.steps: set[tuple[Cell, Step]] = set()

    def do(self, cell: Cell, step: Step) -> tuple[Outcome, Cell]:
        self.steps.add((cell, step))
        return self.protocol.apply(cell, step)

    def too_old(self, write: int, acknowledged: int, now: int) -> bool:
        """Return whether the value of `write` is too old: no state since the write `acknowledged` has had it."""
        return not any(self.history.same(write, later) for later in range(acknowledged, now + 1))

    def promised(self, database: Database) -> int:
        """Return the oldest write that a read which begins now may see."""
        writes = self.history.writes
        told = (n for n in range(database.now, 0, -1) if database.acknowledged >> n & 1 and writes[n].promises)
        return next(told, 0)

    # --- the database, the worker and the faults ---------------------------------------------------------------------

    def outer(self, cell: Cell, database: Database) -> Iterable[Move]:
        yield from self.commit(cell, database)
        yield from self._deliver(cell, database)
        yield from self.faults(cell, database)

    def commit(self, cell: Cell, database: Database) -> Iterable[Move]:
        writes, now = self.history.writes, database.now + 1
        if now == len(writes):
            return
        write, acknowledged = writes[now], database.acknowledged
        if write.told_by is None or (write.told_by < now and acknowledged >> write.told_by & 1):
            acknowledged |= 1 << now
        if write.letter == "P":
            cell = self.protocol.after_the_deadline(cell)
        yield Move(f"write {now}: {write.text}", cell, Database(now, database.applied, acknowledged))

    def _deliver(self, cell: Cell, database: Database) -> Iterable[Move]:
        """Deliver events in any order, any number of times. In fine grain the acknowledgement is a separate move."""
        now, applied, acknowledged = database
        for number in range(1, now + 1):
            if self.history.writes[number].event is None:
                continue
            done = acknowledged | sum(1 << n for n in range(1, now + 1) if self.history.writes[n].told_by == number)
            step = self.history.event(number, now)
            outcome, after = self.do(cell, step)
            again = " again" if (acknowledged | applied) >> number & 1 else ""
            text = f"event {number}{again} ({describe(step)}): {outcome.value}"
            if not self.rules.fine:
                yield Move(text, after, Database(now, 0, done))
                continue
            open_still = 0 if acknowledged >> number & 1 else 1 << number
            yield Move(text, after, Database(now, applied | open_still, acknowledged))
            if applied >> number & 1:
                text = f"event {number} is acknowledged"
                yield Move(text, cell, Database(now, applied & ~(1 << number), done))

    def faults(self, cell: Cell, database: Database) -> Iterable[Move]:
        rules = self.rules
        if rules.evict_key and cell.key is not None:
            yield Move("K is evicted", cell.without_key(), database)
        if rules.evict_meta and cell.has_meta():
            yield Move("M is evicted", cell.without_meta(), database)
        if rules.restart:
            yield Move("Redis restarts, empty", Cell(), database)
        if cell.absent is not None:
            yield Move("the absent flag runs out", cell._replace(absent=None), database)
        if rules.foreign and database.now == len(self.history.writes) - 1:
            yield Move("a foreign SET arrives late", cell._replace(key=database.now - 1, cut=False), database)
        if rules.until:
            outcome, after = self.do(cell, ReadUntil())
            yield Move(f"another read of K and its deadline: {outcome.value}", after, database)

    # --- a reader ----------------------------------------------------------------------------------------------------

    def inner(self, cell: Cell, database: Database, reader: Reader, slot: int) -> Iterable[Move]:
        """Return the moves of the reader in `slot` (1 or 2)."""
        name = "reader A" if slot == 1 else "reader B"
        match reader.phase:
            case Phase.IDLE:
                yield from self._idle(cell, database, slot, name)
            case Phase.BEGUN:
                yield self._get(cell, database, reader, name)
            case Phase.MISSED:
                yield from self._acquire(cell, database, slot, name, reader.write)
                yield Move(f"{name} gives up, or reads past the cache", cell, database)
            case Phase.GRANTED:
                yield from self._load(cell, database, reader, name)
                yield from self._leave(cell, database, reader, name)
            case Phase.LOADED:
                yield self._fill(cell, database, reader, name)
                yield from self._leave(cell, database, reader, name)
            case Phase.WRONG:
                pass

    def _idle(self, cell: Cell, database: Database, slot: int, name: str) -> Iterable[Move]:
        if self.rules.until and cell.deadline is Deadline.PAST:
            # `read_until` ends the read: 'absent'. (Only in fine grain can a read begin before the deadline and acquire
            # after it.)
            return
        if self.rules.fine:
            yield Move(f"{name} begins", cell, database, Reader(Phase.BEGUN, write=self.promised(database)))
        else:
            yield from self._acquire(cell, database, slot, name, self.promised(database))
        if self.rules.refresh and cell.key is not None:
            yield from self._acquire(cell, database, slot, name, self.promised(database), refresh=True)

    def _get(self, cell: Cell, database: Database, reader: Reader, name: str) -> Move:
        if self.rules.until and cell.deadline is Deadline.PAST:
            return Move(f"{name} is told that the deadline has passed", cell.without_key(), database)
        if cell.key is None:
            return Move(f"{name} misses", cell, database, reader._replace(phase=Phase.MISSED))
        return self._return(f"{name} hits", cell, database, cell.key, reader.write)

    def _return(self, text: str, cell: Cell, database: Database, write: int, acknowledged: int) -> Move:
        wrong = self.too_old(write, acknowledged, database.now)
        text = f"{text}, and returns the answer of write {write}"
        return Move(text, cell, database, Reader(Phase.WRONG) if wrong else IDLE)

    def _acquire(
        self, cell: Cell, database: Database, slot: int, name: str, began: int, *, refresh: bool = False
    ) -> Iterable[Move]:
        nonce = self.protocol.nonce(cell, slot)
        if nonce is None:
            return
        asks = f"{name} acquires{' early' * refresh}"
        others = cell.lease not in (NOBODY, nonce)
        for lapsed in (False, True) if others and self.rules.lapse else (False,):
            outcome, after = self.do(cell, Acquire(nonce, refresh, lapsed))
            text = f"{asks}{', the lease there having run out' * lapsed}: {outcome.value}"
            if outcome is Outcome.GRANTED:
                yield Move(text, after, database, Reader(Phase.GRANTED, nonce, began))
            elif outcome is Outcome.FOUND and cell.key is not None:
                yield self._return(text, after, database, cell.key, began)
            elif outcome is Outcome.ABSENT and cell.absent is not None:
                yield self._return(text, after, database, cell.absent, began)

    def _load(self, cell: Cell, database: Database, reader: Reader, name: str) -> Iterable[Move]:
        for write in range(0 if self.rules.lagging else database.now, database.now + 1):
            too_old = self.too_old(write, reader.write, database.now)
            behind = "" if write == database.now else ", which is behind"
            text = f"{name} loads the answer of write {write}{behind}"
            yield Move(text, cell, database, Reader(Phase.LOADED, reader.nonce, write, too_old))

    def _fill(self, cell: Cell, database: Database, reader: Reader, name: str) -> Move:
        write = self.history.writes[reader.write]
        step: Step
        if write.present:
            ends = self.history.ends(reader.write, database.now)
            step = Fill(reader.nonce, reader.write, write.version, ends, spare=self.rules.until)
        else:
            step = FillAbsent(reader.nonce, reader.write, spare=self.rules.until)
        outcome, after = self.do(cell, step)
        text = f"{name} fills{'' if write.present else ' absent'}: {outcome.value}"
        if outcome is Outcome.STALE and not self.rules.return_stale:
            return Move(f"{text}, and must load again", after, database)
        text = f"{text}, and returns the answer of write {reader.write}"
        return Move(text, after, database, Reader(Phase.WRONG) if reader.too_old else IDLE)

    def _leave(self, cell: Cell, database: Database, reader: Reader, name: str) -> Iterable[Move]:
        outcome, after = self.do(cell, Release(reader.nonce))
        yield Move(f"{name} gives up, release: {outcome.value}", after, database)
        holds = cell.lease == reader.nonce and not self.protocol.counts
        yield Move(f"{name} vanishes", cell._replace(lease=GONE) if holds else cell, database)
        if self.rules.resend_acquire:
            outcome, after = self.do(cell, Acquire(reader.nonce))
            yield Move(f"{name}'s acquire, sent twice, arrives late: {outcome.value}", after, database, reader)


def describe(event: Event) -> str:
    """Describe an event for people."""
    match event:
        case Change():
            return f"version {event.version}" + ("" if event.write is not None else ", no payload")
        case Invalidate():
            return "invalidate"
        case Expire():
            return "expire now" if event.at is Deadline.PAST else "expire then"
