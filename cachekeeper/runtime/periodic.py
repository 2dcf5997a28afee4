"""A thread of a worker that looks again and again, does what is due, and outlives its failures."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from typing import ClassVar

from cachekeeper.errors import Unavailable
from cachekeeper.metrics import COUNTERS, logger, where_raised
from cachekeeper.runtime.backoff import growing


class PeriodicThread(ABC):
    """Calls `look` in a daemon thread until it is stopped, whatever `look` raises.

    An outage is logged once when it begins and once when it is over.

    Args:
        subject: whose task it is, for the log: `view blocked`.
        task: which, for the log: `keeping its blocks in Redis`.
        counter: counts the looks that failed.

    Attributes:
        look_seconds: the longest pause between two looks.
        backoff_seconds: the longest pause during an outage, towards which pauses grow.
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
        """Look once, and do what is due; the thread does nothing else."""

    def start(self) -> None:
        """Begin. Returns at once; nothing needs to be up."""
        if self._thread is not None:
            raise RuntimeError("runs already")
        self._stopping.clear()
        self._thread = threading.Thread(target=self._run, name=f"cachekeeper: {self._subject}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End, after the look that is under way. Does nothing where it does not run."""
        if self._thread is not None:
            self._stopping.set()
            self._thread.join()
            self._thread = None

    def _run(self) -> None:
        pause = 0.0
        while not self._stopping.wait(pause):
            try:
                self.run_once()
            except Exception as error:  # noqa: BLE001  # nobody else would do what this thread does
                self._note_failure(error)
                pause = growing(self._failures - 1, first=self.look_seconds, longest=self.backoff_seconds)
            else:
                if self._failures:
                    logger.warning("%s: %s again", self._subject, self._task)
                self._failures = 0
                pause = growing(0, first=self.look_seconds, longest=self.look_seconds)  # spread, as a back-off is

    def _note_failure(self, error: Exception) -> None:
        self._failures += 1
        COUNTERS.add(self._counter)
        if self._failures > 1:
            return
        if isinstance(error, Unavailable):
            logger.warning("%s: not %s for now: %s", self._subject, self._task, error)
        else:
            # Without the error's own text, which may quote a token.
            where = where_raised(error)
            logger.error("%s: not %s: %s\n%s", self._subject, self._task, type(error).__name__, where)
