"""What waits for a thread of the worker is dealt with together, half of it at a time."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from cachekeeper.consuming.processor import Verdict
from cachekeeper.metrics import COUNTERS, logger

if TYPE_CHECKING:
    from cachekeeper.consuming.processor import Processor
    from cachekeeper.consuming.request import ApplyRequest

_EVENTS_AT_ONCE = 500  # beyond them a round trip is a small part of the work


class MessageBatcher:
    """Messages that wait for a thread. Safe across threads.

    Whoever is free takes half of what waits: so a message that comes alone is dealt with at once; under load many share
    one thread's turn and one round trip, which cost more than a small message does; and where the work is waiting for
    MongoDB, all threads have some.

    Args:
        pool: Celery's.
        processor: deals with them.
    """

    def __init__(self, pool: Any, processor: Processor) -> None:
        self._pool = pool
        self._processor = processor
        self._lock = threading.Lock()
        self._waiting: deque[ApplyRequest] = deque()
        self._threads = 0

    def add(self, request: ApplyRequest) -> None:
        """Have it dealt with, by a further thread unless all are at work."""
        with self._lock:
            self._waiting.append(request)
            if self._threads >= self._pool.limit:
                return
            self._threads += 1
        self._pool.apply_async(self._work, callback=lambda _: None)

    def _work(self) -> None:
        try:
            while batch := self._take():
                began = time.monotonic()
                verdicts = [Verdict.AWAY] * len(batch)  # until it is said, and for a thread that is torn out of it
                try:
                    for request in batch:
                        request.on_accepted(os.getpid(), began)  # type: ignore[arg-type]  # what Celery's own pools give it
                    for at, verdict in self._processor.process([request.read for request in batch]):
                        verdicts[at] = verdict
                finally:
                    for request, verdict in zip(batch, verdicts, strict=True):
                        request.settle(verdict, time.monotonic() - began)
                logger.debug("dealt with %d messages in %.4f s", len(batch), time.monotonic() - began)
        except BaseException as error:
            with self._lock:
                self._threads -= 1
            # The pool forgets what its threads end of.
            COUNTERS.add("thread_ended")
            logger.error("a thread ended with messages in hand: %s", type(error).__name__)
            raise

    def _take(self) -> list[ApplyRequest]:
        """Half of what waits, or one message of many events; nothing where nothing waits: this thread's end."""
        with self._lock:
            batch: list[ApplyRequest] = []
            events, most = 0, (len(self._waiting) + 1) // 2
            while len(batch) < most and (not batch or events + self._waiting[0].events <= _EVENTS_AT_ONCE):
                request = self._waiting.popleft()
                events += request.events
                batch.append(request)
            if not batch:
                self._threads -= 1
            return batch
