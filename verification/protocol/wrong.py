"""The steps and the publishing of `mutants.py`, each wrong in one respect."""

from __future__ import annotations

from dataclasses import replace

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
    Release,
    Result,
)
from verification.protocol.writes import Event, Publishing


class PayloadUnlessNewer(Protocol):
    def may_overwrite(self, cell: Cell) -> bool:  # noqa: ARG002
        return True


class PayloadOverMarker(Protocol):
    def may_overwrite(self, cell: Cell) -> bool:
        return cell.version is not None


class PayloadOverUnknownAge(Protocol):
    def may_overwrite(self, cell: Cell) -> bool:
        return cell.key is not None


class UnversionedFillKeepsVersion(Protocol):
    def fill(self, cell: Cell, step: Fill) -> Result:
        outcome, after = super().fill(cell, step)
        if outcome is Outcome.STORED and step.version is None:
            after = after._replace(version=cell.version)
        return outcome, after


class ChangeKeepsLease(Protocol):
    def change(self, cell: Cell, step: Change) -> Result:
        outcome, after = super().change(cell, step)
        return outcome, after._replace(lease=cell.lease)


class ChangeKeepsAbsent(Protocol):
    def change(self, cell: Cell, step: Change) -> Result:
        outcome, after = super().change(cell, step)
        return outcome, after._replace(absent=cell.absent)


class InvalidateKeepsMeta(Protocol):
    def invalidate(self, cell: Cell) -> Result:
        return Outcome.INVALIDATED, cell.without_key()


class InvalidateKeepsLease(Protocol):
    def invalidate(self, cell: Cell) -> Result:
        return Outcome.INVALIDATED, super().invalidate(cell)[1]._replace(lease=cell.lease)


class InvalidateForgetsDeadline(Protocol):
    def invalidate(self, cell: Cell) -> Result:
        return Outcome.INVALIDATED, super().invalidate(cell)[1]._replace(deadline=Deadline.NONE)


class BlindFill(Protocol):
    """The usual hand-written cache: an event deletes the key, a reader that missed sets it."""

    def acquire(self, cell: Cell, step: Acquire) -> Result:
        return (Outcome.FOUND if cell.key is not None and not step.refresh else Outcome.GRANTED), cell

    def fill(self, cell: Cell, step: Fill) -> Result:
        return Outcome.STORED, cell._replace(key=step.write)

    def fill_absent(self, cell: Cell, step: FillAbsent) -> Result:  # noqa: ARG002
        return Outcome.STORED, cell

    def release(self, cell: Cell, step: Release) -> Result:  # noqa: ARG002
        return Outcome.RELEASED, cell

    def change(self, cell: Cell, step: Change) -> Result:  # noqa: ARG002
        return Outcome.MARKED, cell.without_key()


class CountedLeases(Protocol):
    """Numbered leases. The counter starts again with the server; two leases per life of the server show the error."""

    counts = True

    def nonce(self, cell: Cell, slot: int) -> int | None:  # noqa: ARG002
        return cell.counter + 1 if cell.counter < 2 else None

    def acquire(self, cell: Cell, step: Acquire) -> Result:
        outcome, after = super().acquire(cell, step)
        return outcome, after._replace(counter=step.nonce) if outcome is Outcome.GRANTED else after


class MarkerOnly(Protocol):
    """Versions alone: a fill succeeds unless M knows a newer version."""

    def acquire(self, cell: Cell, step: Acquire) -> Result:
        outcome, after = super().acquire(cell, replace(step, lapsed=True))
        return outcome, after._replace(lease=NOBODY)

    def fill(self, cell: Cell, step: Fill) -> Result:
        return super().fill(cell._replace(lease=step.nonce), step)

    def fill_absent(self, cell: Cell, step: FillAbsent) -> Result:
        return super().fill_absent(cell._replace(lease=step.nonce), step)


class AbsentFillWithoutLease(Protocol):
    def fill_absent(self, cell: Cell, step: FillAbsent) -> Result:
        return super().fill_absent(cell._replace(lease=step.nonce), step)


class FillIgnoresVersion(Protocol):
    def fill(self, cell: Cell, step: Fill) -> Result:
        outcome, after = super().fill(cell._replace(version=None), step)
        return outcome, after if outcome is Outcome.STORED else after._replace(version=cell.version)


class LeaseOutlivesExpire(Protocol):
    def expire(self, cell: Cell, step: Expire) -> Result:
        outcome, after = super().expire(cell, step)
        return outcome, after._replace(lease=cell.lease)


class LeaseOutlivesDeadline(Protocol):
    def after_the_deadline(self, cell: Cell) -> Cell:
        return super().after_the_deadline(cell)._replace(lease=cell.lease)


class DeadlineForgottenByWrites(Protocol):
    def ended(self, cell: Cell, step: Fill | Change) -> bool:  # noqa: ARG002
        return step.ends is Deadline.PAST

    def cuts(self, cell: Cell, step: Fill | Change) -> bool:  # noqa: ARG002
        return step.ends is Deadline.AHEAD


class OwnEndForgotten(Protocol):
    def ended(self, cell: Cell, step: Fill | Change) -> bool:  # noqa: ARG002
        return cell.deadline is Deadline.PAST

    def cuts(self, cell: Cell, step: Fill | Change) -> bool:  # noqa: ARG002
        return cell.deadline is Deadline.AHEAD


class LaterDeadlineStands(Protocol):
    def earlier(self, before: Deadline, now: Deadline) -> Deadline:  # noqa: ARG002
        return now


class ExpireLeavesTtl(Protocol):
    def expire(self, cell: Cell, step: Expire) -> Result:
        outcome, after = super().expire(cell, step)
        return outcome, after._replace(cut=cell.cut)


class DeletionWithLastVersion(Publishing):
    def of_deletion(self, last: int | None) -> Event:
        return Invalidate() if last is None else Change(last, None)


class UnraisedVersion(Publishing):
    def of_same(self, write: int, version: int) -> Event:
        return Change(version, write)


class RestartingVersions(Publishing):
    def next_version(self, counted: int, *, present: bool) -> int:
        return counted + 1 if present else 1


class OnlyNewName(Publishing):
    def of_rename(self, *, old: bool, new: bool) -> Event | None:  # noqa: ARG002
        return Invalidate() if new else None


class OnlyOldName(Publishing):
    def of_rename(self, *, old: bool, new: bool) -> Event | None:  # noqa: ARG002
        return Invalidate() if old else None
