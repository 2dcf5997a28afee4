"""The distinct (K, M, step) of a search, as Redis sees them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import NamedTuple

from verification.protocol.cells import NOBODY, Acquire, Cell, Fill, FillAbsent, Release, Step

MINE = 1
ANOTHERS = 2


class Case(NamedTuple):
    """One step on one cell. A lease is 'mine' (it has the step's own nonce) or 'another's'."""

    cell: Cell
    step: Step


def case_of(cell: Cell, step: Step) -> Case:
    """Return what Redis sees of a step. Redis does not know which reader a nonce belongs to."""
    lease = cell.lease
    if isinstance(step, Acquire | Fill | FillAbsent | Release):
        lease = NOBODY if lease == NOBODY else MINE if lease == step.nonce else ANOTHERS
        step = replace(step, nonce=MINE)
        if isinstance(step, FillAbsent):
            step = replace(step, write=0)
    elif lease != NOBODY:
        lease = ANOTHERS
    return Case(cell._replace(lease=lease, absent=None if cell.absent is None else 0, counter=0), step)


def cases_of(steps: Iterable[tuple[Cell, Step]]) -> set[Case]:
    return {case_of(cell, step) for cell, step in steps}
