"""The whole model: one key in Redis, one document, its events, and two readers.

Anything may happen in any order: the next write commits (from then on its event may arrive, in any order and any
number of times), a reader takes its next step or vanishes, a lease runs out, K or M is evicted, Redis restarts. The
same world can be searched in two grains:

* *fine*: a read begins, GETs, acquires, loads and fills in separate moves. An event reaches Redis in one move and is
  acknowledged in another, so that a worker may die between the two.
* *coarse*: fifty times fewer states. It may leave out what fine grain adds, for two reasons. A read that misses begins
  with its acquire. By then at least as many events are acknowledged as at its GET, so the check is stricter. An event
  is acknowledged when it reaches Redis. A state in which it is not acknowledged can do the same steps and has to
  promise less. `test_model_search.py` compares the two grains: they reach the same (K, M, step).

In both grains, *every* state is checked: the answer to any read that begins now must be as new as the acknowledged
events. Not modelled:

* TTLs. In the model K, M, the absent flag or a lease may vanish at any time, or stay forever. So the absent flag's
  short TTL excuses nothing: a flag that is older than an acknowledged write is a violation.
* Readers that have joined another's load: they touch neither key. Joining is judged instead in every state in which an
  acquire would answer the nonce of a reader that has loaded. A load after the join cannot be too old.
* Reads past the cache: they touch neither key, and the database's answer is never too old.

States are integers (numbers of the cell, of the readers' states, of the database's state), so that a search takes about
a microsecond per step. The effect of a step is computed once per distinct (cell, reader, database) and remembered.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, TypeVar

from verification.protocol import judge
from verification.protocol.cells import Cell, Protocol
from verification.protocol.moves import Moves
from verification.protocol.parts import IDLE, Database, Reader, Rules

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable

    from verification.protocol.writes import History

Item = TypeVar("Item", bound="Hashable")


@dataclass
class Numbers(Generic[Item]):
    """A small number for each distinct item."""

    items: list[Item] = field(default_factory=list)
    numbers: dict[Item, int] = field(default_factory=dict)

    def of(self, item: Item) -> int:
        number = self.numbers.get(item)
        if number is None:
            number = self.numbers[item] = len(self.items)
            self.items.append(item)
        return number


# A state is, from its highest bit on: cell, second reader, first reader, database.
BITS = 7
MASK = (1 << BITS) - 1
FIRST, SECOND, CELL = BITS, 2 * BITS, 3 * BITS
READERS = MASK << FIRST | MASK << SECOND
NOT_FIRST, NOT_SECOND, NOT_READERS = ~(MASK << FIRST), ~(MASK << SECOND), ~READERS
EXCHANGED = {1: 2, 2: 1}


class World:
    """The search space of one history (see `explorer.Space`)."""

    def __init__(self, history: History, protocol: Protocol, rules: Rules) -> None:
        self.moves = Moves(history, protocol, rules)
        self._cells: Numbers[Cell] = Numbers()
        self._readers: Numbers[Reader] = Numbers()
        self._databases: Numbers[Database] = Numbers()
        self._readers.of(IDLE)  # number 0, so that `not state & READERS` means that no reader is active
        self._outer: dict[int, list[int]] = {}
        self._first: dict[int, list[int]] = {}
        self._second: dict[int, list[int]] = {}
        self._verdicts: tuple[dict[int, str | None], ...] = ({}, {}, {})
        self._twin_cells: dict[int, int] = {}
        self._twin_readers: dict[int, int] = {}

    def start(self) -> int:
        return self._pack(Cell(), Database())

    def _pack(self, cell: Cell, database: Database) -> int:
        number = self._databases.of(database)
        if number > MASK:
            raise OverflowError("more states of the database than a state has room for")
        return self._cells.of(cell) << CELL | number

    def _pack_reader(self, reader: Reader) -> int:
        number = self._readers.of(reader)
        if number > MASK:
            raise OverflowError("more states of a reader than a state has room for")
        return number

    def unpack(self, state: int) -> tuple[Cell, Database, Reader, Reader]:
        """Return the state that a number stands for."""
        return (
            self._cells.items[state >> CELL],
            self._databases.items[state & MASK],
            self._readers.items[state >> FIRST & MASK],
            self._readers.items[state >> SECOND & MASK],
        )

    # --- what can follow ---------------------------------------------------------------------------------------------

    def successors(self, state: int) -> Iterable[int]:
        without, without_second, without_first = state & NOT_READERS, state & NOT_SECOND, state & NOT_FIRST
        outer = self._outer.get(without)
        if outer is None:
            outer = self._outer[without] = self._work_out_outer(without)
        first = self._first.get(without_second)
        if first is None:
            first = self._first[without_second] = self._work_out_inner(without_second, 1)
        second = self._second.get(without_first)
        if second is None:
            second = self._second[without_first] = self._work_out_inner(without_first, 2)
        readers = state & READERS
        keep_second, keep_first = readers & NOT_FIRST, readers & NOT_SECOND
        return (
            [new | readers for new in outer]
            + [new | keep_second for new in first]
            + [new | keep_first for new in second]
        )

    def _work_out_outer(self, state: int) -> list[int]:
        cell, database, _, _ = self.unpack(state)
        return sorted({self._pack(move.cell, move.database) for move in self.moves.outer(cell, database)} - {state})

    def _work_out_inner(self, state: int, slot: int) -> list[int]:
        cell, database, *readers = self.unpack(state)
        shift = FIRST if slot == 1 else SECOND
        moves = self.moves.inner(cell, database, readers[slot - 1], slot)
        news = {self._pack(move.cell, move.database) | self._pack_reader(move.reader) << shift for move in moves}
        return sorted(news - {state})

    def twin(self, state: int) -> int:
        """Return the same state with the two readers' names exchanged.

        Both readers run the same program, and names are only ever compared. So the same moves are possible from both
        states. This does not hold if leases are numbered.
        """
        if self.moves.protocol.counts:
            return state
        return (
            self._twin_cell(state >> CELL) << CELL
            | self._twin_reader(state >> FIRST & MASK) << SECOND
            | self._twin_reader(state >> SECOND & MASK) << FIRST
            | state & MASK
        )

    def _twin_cell(self, number: int) -> int:
        if number not in self._twin_cells:
            cell = self._cells.items[number]
            self._twin_cells[number] = self._cells.of(cell._replace(lease=EXCHANGED.get(cell.lease, cell.lease)))
        return self._twin_cells[number]

    def _twin_reader(self, number: int) -> int:
        if number not in self._twin_readers:
            reader = self._readers.items[number]
            twin = reader._replace(nonce=EXCHANGED.get(reader.nonce, reader.nonce))
            self._twin_readers[number] = self._pack_reader(twin)
        return self._twin_readers[number]

    # --- what must hold ----------------------------------------------------------------------------------------------

    def verdict(self, state: int) -> str | None:
        drained, hits, readers = self._verdicts
        outer = state & NOT_READERS
        if state == outer and (problem := self._once(drained, state, self._judge_drained)):
            return problem
        if self.moves.rules.only_stuck:
            return None
        return (
            self._once(hits, outer, self._judge_hit)
            or self._once(readers, state & NOT_SECOND, self._judge_reader)
            or self._once(readers, state & NOT_FIRST, self._judge_reader)
        )

    def _once(self, known: dict[int, str | None], state: int, judge: Callable[[int], str | None]) -> str | None:
        if state not in known:
            known[state] = judge(state)
        return known[state]

    def _judge_drained(self, state: int) -> str | None:
        cell, database, _, _ = self.unpack(state)
        return judge.drained(self.moves, cell, database)

    def _judge_hit(self, state: int) -> str | None:
        cell, database, _, _ = self.unpack(state)
        return judge.hit(self.moves, cell, database)

    def _judge_reader(self, state: int) -> str | None:
        cell, database, first, second = self.unpack(state)
        return judge.reader(self.moves, cell, database, first if second == IDLE else second)

    # --- telling it --------------------------------------------------------------------------------------------------

    def cell(self, state: int) -> Cell:
        return self._cells.items[state >> CELL]

    def tell(self, state: int, new: int) -> str:
        """Describe what happened between two states of a path."""
        cell, database, *readers = self.unpack(state)
        target = self.unpack(new)
        for move in self.moves.outer(cell, database):
            if (move.cell, move.database, *readers) == target:
                return move.text
        for slot in (1, 2):
            for move in self.moves.inner(cell, database, readers[slot - 1], slot):
                after = [*readers]
                after[slot - 1] = move.reader
                if (move.cell, move.database, *after) == target:
                    return move.text
        raise LookupError("no single step leads from one to the other")
