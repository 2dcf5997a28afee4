"""The distinct (K, M, step) that a search took, as they look from Redis."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import NamedTuple

from verification.protocol.cells import NOBODY, Acquire, Cell, Fill, FillAbsent, Release, Step

MINE = 1
ANOTHERS = 2


class Case(NamedTuple):
    """One step on one cell. Leases are 'mine' (the step's own nonce) or 'another's'."""

    cell: Cell
    step: Step


def case_of(cell: Cell, step: Step) -> Case:
    """What Redis sees of a step: which of the readers a nonce belongs to is nothing to it."""
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
