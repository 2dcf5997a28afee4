"""The pause: this worker fetches no events while a server is away. Away is not failed."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from typing import TYPE_CHECKING

from cachekeeper.errors import CachekeeperError
from cachekeeper.metrics import COUNTERS, logger, where_raised
from cachekeeper.runtime.backoff import growing

if TYPE_CHECKING:
    from collections.abc import Callable

_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 5.0
_REMEMBERED = 10_000


class Pause:
    """Over while Redis and MongoDB answer. Safe across threads.

    A worker begins with one. During a pause a thread of its own makes attempts, at most five seconds apart, until
    one succeeds; so an outage of any length ends by itself, and no task waits for it. The thread is there from
    `start` on: an outage may be when no new one can be had.

    A message that failed although the first attempt after it succeeded gets a *strike*: perhaps it is the message. Its
    events are then applied one by one, and after `Pause.STRIKES` in one process the guilty ones are given up; else one
    event that no server accepts would keep all others waiting for ever.

    A full pool of connections begins one too, without a strike: before RabbitMQ 4.3 each message that is put back costs
    a delivery, so messages must not be fetched again at once. The pause grows while the pool is full again soon after.

    Args:
        attempt: asks the servers, within a time limit; raises where they do not answer.

    Attributes:
        on_over: called, from that thread, when the pause is over.
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
        self._full = 0  # how often in a row a full pool began one soon after the last

    @property
    def is_over(self) -> bool:
        """Whether to fetch events."""
        return self._over

    def strikes(self, message_id: str) -> int:
        """How often a message failed while the servers were well."""
        with self._lock:
            return self._strikes.get(message_id, 0)

    def forgive(self, message_id: str) -> None:
        """A message has been dealt with."""
        with self._lock:
            self._strikes.pop(message_id, None)

    def start(self) -> None:
        """Make a first attempt, and where it fails go on in the background."""
        self._thread = threading.Thread(target=self._run, name="cachekeeper-pause", daemon=True)
        self._thread.start()
        try:
            self._attempt()
        except Exception as error:  # noqa: BLE001  # whatever it is, the thread goes on trying, and logs it
            self._log(error)
            self._logged = _text(error)
            self._begun.set()
        else:
            self._end()

    def begin(self, message_id: str | None, error: BaseException) -> None:
        """A message failed, since a server is away: fetch no more until one attempt has succeeded.

        Args:
            message_id: the message that failed; None for a full pool, which is never a message's fault.
            error: what it failed with.
        """
        with self._lock:
            if message_id is not None:
                self._failed.add(message_id)
            if not self._over:
                return
            self._over = False
            self._logged = _text(error)
        COUNTERS.add("gate_shut")  # its old name: operators watch it
        logger.warning("stopped fetching events: %s", _text(error))
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
            # It is set once for each pause, and `_try` ends it.
            self._begun.clear()
            self._try()

    def _try(self) -> None:
        began, attempts = time.monotonic(), 0
        while not self._stopping.is_set():
            try:
                self._attempt()
            except Exception as error:  # noqa: BLE001  # without this thread the pause would never end
                if (text := _text(error)) != self._logged:
                    self._log(error)
                    self._logged = text
                attempts += 1
                self._stopping.wait(growing(attempts, first=_FIRST_PAUSE_SECONDS, longest=_LONGEST_PAUSE_SECONDS))
                continue
            if not attempts:
                self._stopping.wait(self._strike(began))
            logger.warning("fetching events again, after %.1f s", time.monotonic() - began)
            self._end()
            return

    def _strike(self, began: float) -> float:
        """The servers are well: what failed may be the messages' own fault. Returns how long to wait all the same.

        Args:
            began: when the pause began, by the monotonic clock.
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
        return min(_FIRST_PAUSE_SECONDS * (1 << min(most, 10)), _LONGEST_PAUSE_SECONDS)

    def _end(self) -> None:
        with self._lock:
            # What failed between the attempt and now failed in the outage that is over: no strike.
            self._failed.clear()
            self._over_at = time.monotonic()
            self._over = True
        self.on_over()

    def _log(self, error: Exception) -> None:
        if isinstance(error, CachekeeperError):
            logger.warning("events wait in the broker: %s", _text(error))
        else:
            # Without the error's own text, which may quote a token.
            where = where_raised(error)
            logger.error("events wait in the broker: %s\n%s", _text(error), where)


def _text(error: BaseException) -> str:
    return str(error) if isinstance(error, CachekeeperError) else type(error).__name__
