"""The checks of every state: the first two promises of the design."""

from __future__ import annotations

from typing import TYPE_CHECKING

from verification.protocol.cells import Cell, Deadline
from verification.protocol.parts import Database, Phase, Reader

if TYPE_CHECKING:
    from verification.protocol.moves import Moves

STUCK = "stuck stale"
LATE = "stale after acknowledgement"


def _answer(moves: Moves, cell: Cell) -> tuple[str, int] | None:
    """Return what Redis alone answers to a read that begins now: in words, and the write that it comes from."""
    if moves.rules.until and cell.deadline is Deadline.PAST:
        return None
    if cell.key is not None:
        return "K holds the value of", cell.key
    if cell.absent is not None:
        return "M says 'known absent' as of", cell.absent
    return None


def drained(moves: Moves, cell: Cell, database: Database) -> str | None:
    """Check that Redis agrees with the database once all events have been delivered and no reader is active."""
    if database.acknowledged >> 1 != (1 << database.now) - 1:
        return None
    answer = _answer(moves, cell)
    if answer is None or moves.history.same(answer[1], database.now):
        return None
    return (
        f"{STUCK}: every event has arrived and no reader is active; the database holds the answer of write"
        f" {database.now}, but {answer[0]} write {answer[1]}"
    )


def hit(moves: Moves, cell: Cell, database: Database) -> str | None:
    """Check that the answer of Redis is at least as new as the acknowledged events."""
    answer, promised = _answer(moves, cell), moves.promised(database)
    if answer is None or not moves.too_old(answer[1], promised, database.now):
        return None
    return f"{LATE}: write {promised} is acknowledged, but {answer[0]} write {answer[1]}"


def reader(moves: Moves, cell: Cell, database: Database, reader: Reader) -> str | None:
    """Check that the answer of a reader is not too old, nor the answer of a read that joins it now."""
    if reader.phase is Phase.WRONG:
        return f"{LATE}: a reader returned an answer older than what was acknowledged when it began"
    # If the database may be behind, the fill decides whether a joined load is returned at all.
    if reader.phase is not Phase.LOADED or moves.rules.lagging:
        return None
    if cell.lease != reader.nonce and not moves.rules.join_without_acquire:
        return None
    promised = moves.promised(database)
    if moves.history.writes[promised].letter == "P" and cell.deadline is Deadline.NONE:
        # M was evicted, and the deadline with it: the exception that the design names. A read that joins a load across
        # the deadline may then get the value from the begin of that load: too old by one load at most.
        promised = moves.promised(Database(database.now - 1, acknowledged=database.acknowledged))
    if not moves.too_old(reader.write, promised, database.now):
        return None
    return (
        f"{LATE}: write {promised} is acknowledged, but a read that begins now joins the load that found the answer"
        f" of write {reader.write}"
    )
