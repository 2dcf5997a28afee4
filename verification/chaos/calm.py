"""Find calm reads: no fault can have touched them. An outage in a calm read is the product's own."""

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
"""Nanoseconds for which readers feel a fault after its end: a lookup lasts up to 2.5 s, then clients reconnect."""

_FELT = ("cache", "security", "mongo", "set", "reads", "readers-")
"""Prefixes of the targets that readers use. Readers do not feel the faults of workers, relay and broker."""


def calm(reads: Iterable[Read], injected: Sequence[Injected]) -> tuple[int, int]:
    """Count the reads outside of all faults that readers feel, and those of them that got no answer."""
    felt = sorted((each.began, each.ended + _GRACE) for each in injected if _felt(each.fault))
    begins = [began for began, _ in felt]
    ends = list(accumulate((ended for _, ended in felt), max))
    quiet = [read for read in reads if not _touched(read, begins, ends)]
    return len(quiet), sum(read.error is not None for read in quiet)


def _felt(fault: Fault) -> bool:
    """Whether readers feel it. They do not feel a flush: Redis still answers, and missing keys come from MongoDB."""
    return fault.target.startswith(_FELT) and fault.kind != "flush"


def _touched(read: Read, begins: Sequence[int], ends: Sequence[int]) -> bool:
    """Whether the read overlaps a fault or the grace after it."""
    place = bisect_right(begins, read.ended)
    return place > 0 and ends[place - 1] >= read.started
