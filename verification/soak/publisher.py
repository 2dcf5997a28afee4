"""The publisher: `python -m verification.soak.publisher RATE` commits changes and publishes events until SIGTERM.

Some events are published alone, and some together with others. Publishing is retried until the broker has confirmed it.
"""

from __future__ import annotations

import itertools
import signal
import socket
import sys
import threading
import time
from typing import Any

import pymongo
from pymongo.errors import PyMongoError

from cachekeeper.devservers.parents import end_with_parent
from cachekeeper.errors import BrokerUnavailable
from cachekeeper.settings import RelaySettings, load
from producers import Publisher
from verification.soak.reporting import is_mutant, lead, report
from verification.soak.workload import commit, event_of

SAYS = "publishing"
BATCH = 50
"""The number of changes that are committed together."""
_MESSAGES = (1, 1, 2, 6, 40)
"""The numbers of events that are published together. They add up to `BATCH`."""
_THREADS = 4
_BEHIND_SECONDS = 3.0
"""The longest delay that the publisher catches up, as after an outage. More would flood a machine that is too slow."""
_PAUSE_SECONDS = 0.05
_SOCKET_PAIRS = 2
_REPORT_SECONDS = 0.5


class Source:
    """Publishes at a fixed rate with several threads.

    Args:
        rate: events a second.
    """

    def __init__(self, rate: float) -> None:
        settings = load(RelaySettings)
        client: pymongo.MongoClient[dict[str, Any]] = pymongo.MongoClient(
            settings.mongodb_url, tz_aware=True, minPoolSize=_THREADS
        )
        self.database = client.get_default_database()
        self.publisher = Publisher(settings)
        self.rate = rate
        self.stopping = threading.Event()
        self._batches = itertools.count()
        self._due = time.monotonic()
        self._lock = threading.Lock()
        self.published = 0
        self.retries = 0

    def run(self) -> None:
        """Publish until `stopping` is set. Batches that are begun by then are still published."""
        threads = [threading.Thread(target=self._work) for _ in range(_THREADS)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            report({"published": self.published, "retries": self.retries})
            threads[0].join(_REPORT_SECONDS)
        report({"published": self.published, "retries": self.retries})

    def _work(self) -> None:
        while not self.stopping.is_set():
            with self._lock:
                batch = next(self._batches)
                if not batch % _THREADS:
                    # All threads begin a round together, so that each needs its own connection. Otherwise the number of
                    # connections would depend on how many calls overlap, and a busier machine would look like a leak.
                    round_seconds = _THREADS * BATCH / self.rate
                    self._due = max(self._due + round_seconds, time.monotonic() - _BEHIND_SECONDS)
                due = self._due
            if (early := due - time.monotonic()) > 0:
                time.sleep(early)
            numbers = range(batch * BATCH, (batch + 1) * BATCH)
            self._until_done(lambda numbers=numbers: commit(self.database, numbers))
            events = map(event_of, numbers)
            for size in _MESSAGES:
                together = list(itertools.islice(events, size))
                self._until_done(lambda together=together: self.publisher.publish_many(together))
                with self._lock:
                    self.published += size

    def _until_done(self, call: Any) -> None:
        while True:
            try:
                call()
            except (BrokerUnavailable, PyMongoError):
                with self._lock:
                    self.retries += 1
                time.sleep(_PAUSE_SECONDS)
            else:
                return


def _keep_broken_lanes() -> None:
    """Apply the mutant `connections`, which keeps a connection open after an error on it."""
    from cachekeeper.publishing.broker_connection import BrokerConnection  # noqa: PLC0415  # kombu takes long to import

    kept: list[object] = []
    patched: Any = BrokerConnection
    # And more sockets with each: a cut may break only one connection, which would hide in the noise.
    patched.drop = lambda connection: kept.append((connection, [socket.socketpair() for _ in range(_SOCKET_PAIRS)]))


if __name__ == "__main__":
    end_with_parent()
    lead()
    if is_mutant("connections"):
        _keep_broken_lanes()
    source = Source(float(sys.argv[1]))
    signal.signal(signal.SIGTERM, lambda *_: source.stopping.set())
    sys.stderr.write(f"{SAYS}\n")
    source.run()
