"""Counts what a block of a test adds to the process's counters."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from cachekeeper import metrics


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """Yield the counts that the block adds; complete once the block has ended."""
    before, seen = metrics.COUNTERS.snapshot(), Counter[str]()
    yield seen
    seen.update({name: n - before.get(name, 0) for name, n in metrics.COUNTERS.snapshot().items()})
