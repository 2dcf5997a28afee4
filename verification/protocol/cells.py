"""Redis' side of the model: the effect of one step on one key.

Written from the table in section 3 of the design, not from the Lua, so that `replay.py` can compare the two.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import NamedTuple

NOBODY = 0  # no lease
GONE = 3  # the lease of a reader that will never fill: it was killed, or gave up. 1 and 2 are the two readers'


class Deadline(IntEnum):
    """Where the time is relative to the deadline. The model has one such moment."""

    NONE = 0
    AHEAD = 1
    PAST = 2


class Cell(NamedTuple):
    """K and M of one key. A value is named by the number of the write that made it; 0 is the database's first value.

    Attributes:
        key: the write whose value K holds; None if K is absent.
        cut: whether K's TTL ends at the deadline or before.
        version: `M.version`.
        lease: the nonce in M.
        absent: if M says 'known absent', the write after which a load found nothing. The real M has no such number.
        deadline: the deadline for K in M.
        counter: the counter of leases, a key of its own; used only by the variant that numbers its leases.
    """

    key: int | None = None
    cut: bool = False
    version: int | None = None
    lease: int = NOBODY
    absent: int | None = None
    deadline: Deadline = Deadline.NONE
    counter: int = 0

    def without_key(self) -> Cell:
        return self._replace(key=None, cut=False)

    def without_meta(self) -> Cell:
        return Cell(self.key, self.cut, counter=self.counter)

    def has_meta(self) -> bool:
        return self.without_key().without_meta() != self.without_key()


# Dataclasses, not tuples: a Release(1) must not equal an Expire(1).


@dataclass(frozen=True)
class Acquire:
    """Ask for the lease. `lapsed`: a lease of another reader, if there is one, has run out."""

    nonce: int
    refresh: bool = False
    lapsed: bool = False


@dataclass(frozen=True)
class Fill:
    """Fill K with a loaded value.

    `write` is the loaded value, `version` its version, `ends` its own end. `spare`: do not overwrite an existing K,
    because others write it, too.
    """

    nonce: int
    write: int
    version: int | None
    ends: Deadline = Deadline.NONE
    spare: bool = False


@dataclass(frozen=True)
class FillAbsent:
    """Note that the load found nothing. `write`: the last write before that load. `spare`: as in `Fill`."""

    nonce: int
    write: int
    spare: bool = False


@dataclass(frozen=True)
class Release:
    nonce: int


@dataclass(frozen=True)
class Change:
    """Apply an event with a version. `write` None: the event has no payload (only a wrong variant publishes that)."""

    version: int
    write: int | None
    ends: Deadline = Deadline.NONE


@dataclass(frozen=True)
class Invalidate:
    """Apply an event without a version."""


@dataclass(frozen=True)
class Expire:
    at: Deadline


@dataclass(frozen=True)
class ReadUntil:
    """Read K together with its deadline."""


Step = Acquire | Fill | FillAbsent | Release | Change | Invalidate | Expire | ReadUntil


class Outcome(Enum):
    ABSENT = "known absent"
    ENDED = "ended"
    FOUND = "found"
    GRANTED = "granted"
    IGNORED = "ignored"
    INVALIDATED = "invalidated"
    LIMITED = "limited"
    LOST = "lease lost"
    MARKED = "marked"
    MISSING = "missing"
    OVERWRITTEN = "overwritten"
    RELEASED = "released"
    STALE = "stale"
    STORED = "stored"
    TAKEN = "taken"


Result = tuple[Outcome, Cell]


class Protocol:
    """The steps of the design's table. A wrong variant overrides one of them.

    Attributes:
        counts: whether leases are numbered by a counter.
    """

    counts = False

    def nonce(self, _cell: Cell, slot: int) -> int | None:
        """Return the nonce with which the reader in `slot` will ask; None if the model's nonces are used up.

        Nonces are unique, so the model can name each after the reader that holds it.
        """
        return slot

    def apply(self, cell: Cell, step: Step) -> Result:  # noqa: PLR0911 - a table
        match step:
            case Acquire():
                return self.acquire(cell, step)
            case Fill():
                return self.fill(cell, step)
            case FillAbsent():
                return self.fill_absent(cell, step)
            case Release():
                return self.release(cell, step)
            case Change():
                return self.change(cell, step)
            case Invalidate():
                return self.invalidate(cell)
            case Expire():
                return self.expire(cell, step)
            case ReadUntil():
                return self.read_until(cell)

    def acquire(self, cell: Cell, step: Acquire) -> Result:
        if not step.refresh:
            if cell.key is not None:
                return Outcome.FOUND, cell
            if cell.absent is not None:
                return Outcome.ABSENT, cell
        if cell.lease not in (NOBODY, step.nonce) and not step.lapsed:
            return Outcome.TAKEN, cell
        return Outcome.GRANTED, cell._replace(lease=step.nonce)

    def fill(self, cell: Cell, step: Fill) -> Result:
        if cell.lease != step.nonce:
            return Outcome.LOST, cell
        if step.spare and cell.key is not None:
            return Outcome.LOST, cell._replace(lease=NOBODY)
        cell = cell._replace(lease=NOBODY, absent=None)
        if step.version is not None and cell.version is not None and step.version < cell.version:
            return Outcome.STALE, cell
        if self.ended(cell, step):
            return Outcome.ENDED, cell.without_key()
        return Outcome.STORED, cell._replace(key=step.write, cut=self.cuts(cell, step), version=step.version)

    def fill_absent(self, cell: Cell, step: FillAbsent) -> Result:
        if cell.lease != step.nonce:
            return Outcome.LOST, cell
        if step.spare and cell.key is not None:
            return Outcome.LOST, cell._replace(lease=NOBODY)
        return Outcome.STORED, cell.without_key()._replace(lease=NOBODY, absent=step.write)

    def release(self, cell: Cell, step: Release) -> Result:
        if cell.lease != step.nonce:
            return Outcome.LOST, cell
        return Outcome.RELEASED, cell._replace(lease=NOBODY)

    def change(self, cell: Cell, step: Change) -> Result:
        if cell.version is not None and cell.version >= step.version:
            return Outcome.IGNORED, cell
        cell = cell._replace(lease=NOBODY, absent=None)
        ended = self.ended(cell, step)
        if self.may_overwrite(cell) and step.write is not None and not ended:
            cut = self.cuts(cell, step)
            return Outcome.OVERWRITTEN, cell._replace(key=step.write, cut=cut, version=step.version)
        return Outcome.ENDED if ended else Outcome.MARKED, cell.without_key()._replace(version=step.version)

    def may_overwrite(self, cell: Cell) -> bool:
        """Return whether an event that is newer than the known version may write its payload to K."""
        return cell.key is not None and cell.version is not None

    def invalidate(self, cell: Cell) -> Result:
        return Outcome.INVALIDATED, Cell(deadline=cell.deadline, counter=cell.counter)

    def expire(self, cell: Cell, step: Expire) -> Result:
        cell = cell._replace(deadline=self.earlier(cell.deadline, step.at), lease=NOBODY)
        if cell.deadline is Deadline.PAST:
            return Outcome.ENDED, cell.without_key()
        return Outcome.LIMITED, cell._replace(cut=cell.key is not None)

    def earlier(self, before: Deadline, now: Deadline) -> Deadline:
        """Return the earlier of two deadlines."""
        return max(before, now)

    def read_until(self, cell: Cell) -> Result:
        if cell.deadline is Deadline.PAST:
            return Outcome.ENDED, cell.without_key()
        return Outcome.MISSING if cell.key is None else Outcome.FOUND, cell

    def ended(self, cell: Cell, step: Fill | Change) -> bool:
        """Return whether a write of K comes after the deadline or after the value's own end."""
        return Deadline.PAST in (cell.deadline, step.ends)

    def cuts(self, cell: Cell, step: Fill | Change) -> bool:
        """Return whether the deadline or the value's own end limits the TTL of a write of K."""
        return Deadline.AHEAD in (cell.deadline, step.ends)

    def after_the_deadline(self, cell: Cell) -> Cell:
        """Return the cell after the deadline passed: K's TTL ends, and so does a lease taken under the deadline.

        (The fields of such a lease do not keep another reader from acquiring, and its fill finds the deadline past.)
        """
        ended = cell.without_key() if cell.cut else cell
        if cell.deadline is Deadline.AHEAD:
            return ended._replace(deadline=Deadline.PAST, lease=NOBODY)
        return ended
