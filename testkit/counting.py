"""What a block of a test has added to the process's counters."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from cachekeeper import metrics


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """What was counted inside; complete once the block has ended."""
    before, seen = metrics.COUNTERS.snapshot(), Counter[str]()
    yield seen
    seen.update({name: n - before.get(name, 0) for name, n in metrics.COUNTERS.snapshot().items()})
