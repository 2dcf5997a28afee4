"""The pause: this worker fetches no events while Redis or MongoDB is unavailable. An outage does not fail an event."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from typing import TYPE_CHECKING

from cachekeeper.metrics import COUNTERS, logger
from cachekeeper.runtime.backoff import growing
from cachekeeper.runtime.failures import failure_text, log_failure

if TYPE_CHECKING:
    from collections.abc import Callable

_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 5.0
_REMEMBERED = 10_000


class Pause:
    """The pause of a worker. It is over while Redis and MongoDB answer. Safe across threads.

    A worker begins with a pause. During a pause a separate thread makes attempts, at most five seconds apart, until one
    succeeds. So the worker resumes by itself after an outage of any length, and no task waits for it. The thread runs
    from `start` on: during an outage the process may be unable to start a thread.

    A message gets a *strike* if it failed although the first attempt after it succeeded: the message itself may be the
    cause. The events of such a message are applied one by one. After `Pause.STRIKES` strikes in one process, the events
    that fail become dead letters. Otherwise one event that no server accepts would keep all others waiting forever.

    A full connection pool also begins a pause, but without a strike. Before RabbitMQ 4.3 each message that is put back
    costs a delivery, so messages must not be fetched again at once. If the pool is full again soon, the pause grows.

    Args:
        attempt: asks the servers, within a time limit; raises if one does not answer.

    Attributes:
        on_over: called when the pause is over, in the separate thread or in the thread that called `start`.
    """

    STRIKES = 8

    def __init__(self, attempt: Callable[[], None]) -> None:
        self.on_over: Callable[[], object] = lambda: None
        self._attempt = attempt
        self._lock = threading.Lock()
        self._over = False
        self._stopping = threading.Event()
        self._begun = threading.Event()
        self._logged = ""
        self._thread: threading.Thread | None = None
        self._failed: set[str] = set()
        self._strikes: OrderedDict[str, int] = OrderedDict()
        self._over_at = 0.0
        self._full = 0  # how many pauses in a row a full pool began, each soon after the last

    @property
    def is_over(self) -> bool:
        """Whether the worker may fetch events."""
        return self._over

    def strikes(self, message_id: str) -> int:
        """How often a message failed while the servers were up."""
        with self._lock:
            return self._strikes.get(message_id, 0)

    def forgive(self, message_id: str) -> None:
        """Forget the strikes of a message that has been processed."""
        with self._lock:
            self._strikes.pop(message_id, None)

    def start(self) -> None:
        """Make a first attempt. If it fails, go on in the background."""
        self._thread = threading.Thread(target=self._run, name="cachekeeper-pause", daemon=True)
        self._thread.start()
        try:
            self._attempt()
        except Exception as error:  # noqa: BLE001  # after any error the thread goes on trying, and logs it
            log_failure("events wait in the broker", error=error)
            self._logged = failure_text(error)
            self._begun.set()
        else:
            self._end()

    def begin(self, message_id: str | None, error: BaseException) -> None:
        """Stop fetching until an attempt succeeds. Called when a message failed because a server is unavailable.

        Args:
            message_id: the message that failed; None for a full connection pool, which is never the message's fault.
            error: the error with which it failed.
        """
        with self._lock:
            if message_id is not None:
                self._failed.add(message_id)
            if not self._over:
                return
            self._over = False
            self._logged = failure_text(error)
        COUNTERS.add("gate_shut")  # the counter's old name, which operators watch
        logger.warning("stopped fetching events until the servers answer: %s", failure_text(error))
        self._begun.set()

    def stop(self) -> None:
        """Make no more attempts."""
        self._stopping.set()
        self._begun.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._begun.wait()
            # `_begun` is set once per pause, and `_try` ends the pause.
            self._begun.clear()
            self._try()

    def _try(self) -> None:
        began, attempts = time.monotonic(), 0
        while not self._stopping.is_set():
            try:
                self._attempt()
            except Exception as error:  # noqa: BLE001  # without this thread the pause would never end
                if (text := failure_text(error)) != self._logged:
                    log_failure("events wait in the broker", error=error)
                    self._logged = text
                attempts += 1
                self._stopping.wait(growing(attempts, first=_FIRST_PAUSE_SECONDS, longest=_LONGEST_PAUSE_SECONDS))
                continue
            if not attempts:
                self._stopping.wait(self._strike(began))
            logger.warning("fetching events again after %.1f s", time.monotonic() - began)
            self._end()
            return

    def _strike(self, began: float) -> float:
        """Give strikes, since the servers are up: the messages themselves may be the cause of their failures.

        Args:
            began: when the pause began, by the monotonic clock.

        Returns:
            How many seconds to wait before the pause ends.
        """
        with self._lock:
            if not self._failed:
                soon = began - self._over_at < _LONGEST_PAUSE_SECONDS
                self._full = self._full + 1 if soon else 1
            most = 0 if self._failed else self._full
            for message_id in self._failed:
                most = max(most, strikes := self._strikes.pop(message_id, 0) + 1)
                self._strikes[message_id] = strikes
            while len(self._strikes) > _REMEMBERED:
                self._strikes.popitem(last=False)
        # Not spread at random, as a backoff is: the messages of this worker are tried again, and no server is down.
        return min(_FIRST_PAUSE_SECONDS * (1 << min(most, 10)), _LONGEST_PAUSE_SECONDS)

    def _end(self) -> None:
        with self._lock:
            # A message that failed between the attempt and now failed because of the past outage: no strike.
            self._failed.clear()
            self._over_at = time.monotonic()
            self._over = True
        self.on_over()
