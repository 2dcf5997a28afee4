"""A separate model for dropping a view: scans of the whole keyspace, while readers go on.

K and M lie in different buckets. A pass of the scan visits each bucket once, in either order (a rehash may change the
order between two passes), and sees its content at that moment. Keys that it has seen are invalidated a little later,
because the worker does so in batches, but before the pass ends. The acknowledgement follows the last pass.

One write comes before the drop. No event tells of it; only the drop does. Two readers are active all the time, with the
same faults as in the large model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from verification.protocol import judge
from verification.protocol.cells import Cell, Invalidate, Protocol
from verification.protocol.moves import Moves
from verification.protocol.parts import IDLE, Database, Reader, Rules
from verification.protocol.writes import History, history

if TYPE_CHECKING:
    from collections.abc import Iterable


class Scan(NamedTuple):
    """The progress of the drop.

    Attributes:
        passes: how many passes are left, this one included.
        key: whether this pass has still to visit K's bucket.
        meta: whether it has still to visit M's bucket.
        seen: whether it has seen one of the two and has not invalidated it yet.
    """

    passes: int
    key: bool = True
    meta: bool = True
    seen: bool = False


class State(NamedTuple):
    cell: Cell
    database: Database
    scan: Scan
    first: Reader = IDLE
    second: Reader = IDLE


def drop_histories() -> list[History]:
    """Return one write of each kind, without its event; at the end one in a view without versions, such as a search."""
    histories = []
    for kind in "USND":
        sequence = history(kind)
        writes = (sequence.writes[0], sequence.writes[1]._replace(event=None))
        histories.append(sequence._replace(writes=writes))
    first, second = histories["USND".index("N")].writes
    first = first._replace(text="a value without version", version=None)
    return [*histories, History("without versions", (first, second))]


class Dropping:
    """The search space of one history (see `explorer.Space`).

    Args:
        passes: how many passes a drop makes; the correct number is two.
        metadata: whether it looks for metadata as well as for values; correct is True.
    """

    def __init__(
        self, history: History, protocol: Protocol, rules: Rules, *, passes: int = 2, metadata: bool = True
    ) -> None:
        self.moves = Moves(history, protocol, rules)
        self._passes = passes
        self._metadata = metadata

    def start(self) -> State:
        return State(Cell(), Database(), Scan(self._passes, meta=self._metadata))

    def twin(self, state: State) -> State:
        return state

    def successors(self, state: State) -> Iterable[State]:
        return [new for _, new in self._moves(state)]

    def cell(self, state: State) -> Cell:
        return state.cell

    def tell(self, state: State, new: State) -> str:
        """Describe what happened between two states of a path."""
        return next(text for text, after in self._moves(state) if after == new)

    def verdict(self, state: State) -> str | None:
        moves, (cell, database, _, first, second) = self.moves, state
        idle = first == second == IDLE
        return (
            (judge.drained(moves, cell, database) if idle else None)
            or judge.hit(moves, cell, database)
            or judge.reader(moves, cell, database, first)
            or judge.reader(moves, cell, database, second)
        )

    def _moves(self, state: State) -> Iterable[tuple[str, State]]:
        cell, database, _, first, second = state
        for move in (*self.moves.commit(cell, database), *self.moves.faults(cell, database)):
            yield move.text, state._replace(cell=move.cell, database=move.database)
        for move in self.moves.inner(cell, database, first, 1):
            yield move.text, state._replace(cell=move.cell, first=move.reader)
        for move in self.moves.inner(cell, database, second, 2):
            yield move.text, state._replace(cell=move.cell, second=move.reader)
        if database.now == 1 and not database.acknowledged:
            yield from self._scan(state)

    def _scan(self, state: State) -> Iterable[tuple[str, State]]:
        cell, scan = state.cell, state.scan
        if scan.passes == 0:
            yield "the drop is acknowledged", state._replace(database=Database(1, acknowledged=0b10))
            return
        this = f"pass {self._passes - scan.passes + 1}"
        if scan.key:
            there = cell.key is not None
            text = f"{this} visits K: {'seen' if there else 'nothing there'}"
            yield text, state._replace(scan=scan._replace(key=False, seen=scan.seen or there))
        if scan.meta:
            there = cell.has_meta()
            text = f"{this} visits M: {'seen' if there else 'nothing there'}"
            yield text, state._replace(scan=scan._replace(meta=False, seen=scan.seen or there))
        if scan.seen:
            _, after = self.moves.do(cell, Invalidate())
            yield f"{this}: invalidate", state._replace(cell=after, scan=scan._replace(seen=False))
        elif not (scan.key or scan.meta):
            yield f"{this} ends", state._replace(scan=Scan(scan.passes - 1, meta=self._metadata))
