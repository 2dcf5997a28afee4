"""Which reads no fault can have touched: their outages are the product's own."""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from verification.chaos.faults import Injected
    from verification.chaos.schedule import Fault
    from verification.chaos.workload import Read

_GRACE = 3_000_000_000
"""Nanoseconds for which a fault is felt after its end: a lookup lasts 2.5 seconds at most, and then clients connect."""

_FELT = ("cache", "security", "mongo", "set", "reads", "readers-")
"""What readers use, by how the targets' names begin. What befalls workers, relay and broker is none of theirs."""


def calm(reads: Iterable[Read], injected: Sequence[Injected]) -> tuple[int, int]:
    """How many reads there were outside of all faults that readers feel, and how many of them had no answer."""
    felt = sorted((each.began, each.ended + _GRACE) for each in injected if _felt(each.fault))
    begins = [began for began, _ in felt]
    ends = list(accumulate((ended for _, ended in felt), max))
    quiet = [read for read in reads if not _touched(read, begins, ends)]
    return len(quiet), sum(read.error is not None for read in quiet)


def _felt(fault: Fault) -> bool:
    """Whether readers feel it. A server that was emptied answers: what it does not know, MongoDB is asked for."""
    return fault.target.startswith(_FELT) and fault.kind != "flush"


def _touched(read: Read, begins: Sequence[int], ends: Sequence[int]) -> bool:
    """Whether a fault that began before the read's end was still felt when it began."""
    place = bisect_right(begins, read.ended)
    return place > 0 and ends[place - 1] >= read.started
