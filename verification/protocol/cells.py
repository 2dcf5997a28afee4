"""Redis' side of the model: what one step does to one key.

Written from the table in section 3 of the design, not from the Lua, so that `replay.py` can hold one against the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import NamedTuple

NOBODY = 0  # no lease
GONE = 3  # the lease of a reader that will never fill: killed, or out of patience. 1 and 2 are the two readers'


class Deadline(IntEnum):
    """There is one moment at which things end; what matters is on which side of it we are."""

    NONE = 0
    AHEAD = 1
    PAST = 2


class Cell(NamedTuple):
    """K and M of one key. Numbers of writes stand for values: 0 is what the database held at first.

    Attributes:
        key: the write whose value K holds; None where K is absent.
        cut: whether K's TTL ends at the deadline, at the latest.
        version: `M.version`.
        lease: the nonce in M.
        absent: the write after which a load found nothing, where M says 'known absent'. M itself holds no such number.
        deadline: the deadline for K in M.
        counter: only for the variant that numbers its leases: the counter, a key of its own.
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
    """`lapsed`: a lease of somebody else that may lie there has run out."""

    nonce: int
    refresh: bool = False
    lapsed: bool = False


@dataclass(frozen=True)
class Fill:
    """`write` is the value loaded, `version` the one loaded with it, `ends` the value's own end.

    `spare`: not over a K that is there, since others write it, too.
    """

    nonce: int
    write: int
    version: int | None
    ends: Deadline = Deadline.NONE
    spare: bool = False


@dataclass(frozen=True)
class FillAbsent:
    """The load found nothing; `write` tells the model after which write that was. `spare` as for Fill."""

    nonce: int
    write: int
    spare: bool = False


@dataclass(frozen=True)
class Release:
    nonce: int


@dataclass(frozen=True)
class Change:
    """An event with a version. `write` None: it carries no payload (only a wrong variant publishes that)."""

    version: int
    write: int | None
    ends: Deadline = Deadline.NONE


@dataclass(frozen=True)
class Invalidate:
    """A change without a version."""


@dataclass(frozen=True)
class Expire:
    at: Deadline


@dataclass(frozen=True)
class ReadUntil:
    """A read of K together with its deadline."""


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
    """The steps of the design's table. Wrong variants override one of them.

    Attributes:
        counts: whether leases are numbered.
    """

    counts = False

    def nonce(self, _cell: Cell, slot: int) -> int | None:
        """The nonce under which the reader in `slot` will ask; None where the model ends.

        Nonces are unique, so it is enough to name them after who holds them.
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
        """Whether an event that is newer than anything known may put its payload at K."""
        return cell.key is not None and cell.version is not None

    def invalidate(self, cell: Cell) -> Result:
        return Outcome.INVALIDATED, Cell(deadline=cell.deadline, counter=cell.counter)

    def expire(self, cell: Cell, step: Expire) -> Result:
        cell = cell._replace(deadline=self.earlier(cell.deadline, step.at), lease=NOBODY)
        if cell.deadline is Deadline.PAST:
            return Outcome.ENDED, cell.without_key()
        return Outcome.LIMITED, cell._replace(cut=cell.key is not None)

    def earlier(self, before: Deadline, now: Deadline) -> Deadline:
        """Of two deadlines, the one that stands."""
        return max(before, now)

    def read_until(self, cell: Cell) -> Result:
        if cell.deadline is Deadline.PAST:
            return Outcome.ENDED, cell.without_key()
        return Outcome.MISSING if cell.key is None else Outcome.FOUND, cell

    def ended(self, cell: Cell, step: Fill | Change) -> bool:
        """Whether a write of K comes too late."""
        return Deadline.PAST in (cell.deadline, step.ends)

    def cuts(self, cell: Cell, step: Fill | Change) -> bool:
        """Whether a write of K ends at the deadline, at the latest."""
        return Deadline.AHEAD in (cell.deadline, step.ends)

    def after_the_deadline(self, cell: Cell) -> Cell:
        """What the clock alone does: K's TTL ends, and a lease taken under a deadline with it.

        (What is left of such a lease keeps nobody from acquiring, and its fill would find the deadline past.)
        """
        ended = cell.without_key() if cell.cut else cell
        if cell.deadline is Deadline.AHEAD:
            return ended._replace(deadline=Deadline.PAST, lease=NOBODY)
        return ended
