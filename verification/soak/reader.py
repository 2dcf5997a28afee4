"""The reader: `python -m verification.soak.reader RATE` reads names and searches for products until SIGTERM."""

from __future__ import annotations

import random
import signal
import sys
import threading

from cachekeeper.devservers.parents import end_with_parent
from cachekeeper.errors import Unavailable
from lookups import read_user, search_products
from verification.soak.reporting import lead, report
from verification.soak.workload import PRODUCTS, USERS

SAYS = "reading"
_REPORT_EVERY = 50
_SEARCHES = 10  # one read in so many is a search


def run(rate: float, stopping: threading.Event) -> None:
    """Read until `stopping` is set, at about this many reads a second."""
    rng, reads, errors = random.Random(0), 0, 0
    while not stopping.wait(1 / rate):
        try:
            if reads % _SEARCHES:
                read_user(rng.randrange(USERS))
            else:
                search_products(f"p{rng.randrange(PRODUCTS):02}")
        except Unavailable:
            errors += 1
        reads += 1
        if reads % _REPORT_EVERY == 0:
            report({"reads": reads, "errors": errors})
    report({"reads": reads, "errors": errors})


if __name__ == "__main__":
    end_with_parent()
    lead()
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    sys.stderr.write(f"{SAYS}\n")
    run(float(sys.argv[1]), stop)
