"""A worker's thread that regularly checks what is due and does it, and that survives failures."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from typing import ClassVar

from cachekeeper.metrics import COUNTERS, logger
from cachekeeper.runtime.backoff import growing
from cachekeeper.runtime.failures import log_failure


class PeriodicThread(ABC):
    """Calls `run_once` in a daemon thread until it is stopped, even if `run_once` raises.

    An outage is logged once when it begins and once when it is over.

    Args:
        subject: the subject of the task, for the log: `view blocked`.
        task: the task, for the log: `keeping its blocks in Redis`.
        counter: the counter of failed calls.

    Attributes:
        look_seconds: the longest pause between two calls.
        backoff_seconds: the longest pause during an outage; pauses grow up to it.
    """

    look_seconds: ClassVar[float]
    backoff_seconds: ClassVar[float]

    def __init__(self, subject: str, task: str, counter: str) -> None:
        self._subject = subject
        self._task = task
        self._counter = counter
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._failures = 0

    @abstractmethod
    def run_once(self) -> object:
        """Check once, and do what is due. The thread does nothing else."""

    def start(self) -> None:
        """Start the thread. Returns at once; no server needs to be available."""
        if self._thread is not None:
            raise RuntimeError("the thread runs already: call stop() before starting it again")
        self._stopping.clear()
        self._thread = threading.Thread(target=self._run, name=f"cachekeeper: {self._subject}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread, after the current call. Does nothing if it is not running."""
        if self._thread is not None:
            self._stopping.set()
            self._thread.join()
            self._thread = None

    def _run(self) -> None:
        pause = 0.0
        while not self._stopping.wait(pause):
            try:
                self.run_once()
            except Exception as error:  # noqa: BLE001  # no other thread would do this task
                self._note_failure(error)
                pause = growing(self._failures - 1, first=self.look_seconds, longest=self.backoff_seconds)
            else:
                if self._failures:
                    logger.warning("%s: %s works again", self._subject, self._task)
                self._failures = 0
                pause = growing(0, first=self.look_seconds, longest=self.look_seconds)  # spread, like a backoff

    def _note_failure(self, error: Exception) -> None:
        self._failures += 1
        COUNTERS.add(self._counter)
        if self._failures > 1:
            return
        log_failure("%s: %s failed; retrying", self._subject, self._task, error=error)
