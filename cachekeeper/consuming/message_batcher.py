"""Gives waiting messages to the worker's threads in batches. A thread takes half of the waiting messages at a time."""

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

_EVENTS_AT_ONCE = 500  # with more, a round trip is a small part of the work


class MessageBatcher:
    """Messages that wait for a thread. Safe across threads.

    A free thread takes half of the waiting messages. So a message that comes alone is processed at once. Under load,
    many messages share one thread's turn and one round trip, which cost more than a small message does. And while
    threads wait for MongoDB, every thread has some of the messages.

    Args:
        pool: Celery's pool of threads.
        processor: processes the messages.
    """

    def __init__(self, pool: Any, processor: Processor) -> None:
        self._pool = pool
        self._processor = processor
        self._lock = threading.Lock()
        self._waiting: deque[ApplyRequest] = deque()
        self._threads = 0

    def add(self, request: ApplyRequest) -> None:
        """Queue a message for processing, and start a further thread unless all are busy."""
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
                verdicts = [Verdict.AWAY] * len(batch)  # stays so if the thread is interrupted
                try:
                    for request in batch:
                        request.on_accepted(os.getpid(), began)  # type: ignore[arg-type]  # as Celery's own pools do
                    for at, verdict in self._processor.process([request.read for request in batch]):
                        verdicts[at] = verdict
                finally:
                    for request, verdict in zip(batch, verdicts, strict=True):
                        request.settle(verdict, time.monotonic() - began)
                logger.debug("processed %d messages in %.4f s", len(batch), time.monotonic() - began)
        except BaseException as error:
            with self._lock:
                self._threads -= 1
            # Celery's pool would not report the error that ended its thread.
            COUNTERS.add("thread_ended")
            logger.error(
                "a thread of the worker ended by an error (%s); its unfinished messages are put back",
                type(error).__name__,
            )
            raise

    def _take(self) -> list[ApplyRequest]:
        """Take half of the waiting messages, or one message of many events. Empty: nothing waits, the thread ends."""
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
