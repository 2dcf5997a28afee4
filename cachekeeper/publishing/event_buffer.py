"""Events that wait in memory, in order, and the thread that publishes them; for threads, greenlets and forks."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from itertools import islice
from typing import TYPE_CHECKING

from cachekeeper.errors import BufferFull
from cachekeeper.publishing.at_exit import remember
from cachekeeper.publishing.publisher import EVENTS_PER_MESSAGE, packed
from cachekeeper.publishing.wire_format import OutgoingMessage
from cachekeeper.runtime.backoff import growing
from cachekeeper.runtime.forks import after_fork

if TYPE_CHECKING:
    from cachekeeper.publishing.publisher import Publisher

_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 5.0


class _Locks:
    """The locks that the threads of one buffer share, of the kind that `threading` had when this object was made.

    gevent replaces `threading.Lock`, and with `gunicorn --preload -k gevent` it does so after the buffer was made. A
    greenlet that waits for an old lock stops its whole process, and so also the greenlet that holds the lock.
    """

    def __init__(self) -> None:
        self.kind = threading.Lock
        self.lock = threading.Lock()
        """Held for moments only: no thread sends, waits or starts another thread while it holds this lock."""
        self.due = threading.Condition(self.lock)
        self.room = threading.Condition(self.lock)
        self.sending = threading.Lock()
        """One message at a time: two at once would begin with the same events. Never acquired while `lock` is held."""


class EventBuffer(ABC):
    """The mechanism of a `BufferedPublisher`, whose docstring states the guarantees for callers.

    Args:
        publisher: sends the messages.
        max_events: the most events in the buffer. When it is full, a thread that puts one more waits.
        seconds: how long an event may wait for others.
    """

    def __init__(self, publisher: Publisher, max_events: int, seconds: float) -> None:
        self._publisher = publisher
        self._max_events = max_events
        self._batch = min(max_events, EVENTS_PER_MESSAGE)
        self._seconds = seconds
        self._closed = False
        self._reset()
        after_fork(self, EventBuffer._after_fork)

    def _reset(self) -> None:
        self._locks = _Locks()
        self._waiting: deque[tuple[str, float]] = deque()
        self._taken = 0
        self._confirmed = 0
        self._error: Exception | None = None
        self._thread: threading.Thread | None = None

    @property
    def waiting(self) -> int:
        """The number of events that the broker has not confirmed."""
        return len(self._waiting)

    @abstractmethod
    def finish(self) -> None:
        """Publish what is left, at the end of the process. Raises nothing."""

    @abstractmethod
    def _tell(self, error: Exception, waiting: int) -> None:
        """Report an error of publishing in the background, while `waiting` events wait. Raises nothing."""

    def _present(self) -> _Locks:
        """Return locks of the kind that `threading` has now: another kind after gevent has patched it."""
        locks = self._locks
        if locks.kind is not threading.Lock:
            # Threads from before the patch hold the old lock for moments only, and release it by themselves.
            with locks.lock:
                if self._locks is locks:
                    self._locks = _Locks()
                    self._thread = None
                    locks.due.notify_all()
                    locks.room.notify_all()
        return self._locks

    def _put(self, text: str, seconds: float) -> bool:
        """Put `text` into the buffer, within `seconds`. False: the buffer is closed, or no thread can be started."""
        deadline = time.monotonic() + seconds
        while True:
            locks = self._present()
            if not self._runs() and not self._closed and not self._begin(locks):
                return False
            # Not `with locks.due`, which is written in Python: a signal handler could raise in it and leave the lock
            # acquired.
            with locks.lock:
                if self._closed:
                    return False
                if self._error is not None:
                    error, self._error = self._error, None
                    raise error
                while self._locks is locks and len(self._waiting) >= self._max_events and not self._closed:
                    left = deadline - time.monotonic()
                    if left <= 0:
                        raise BufferFull(
                            f"the buffer is full: {len(self._waiting)} events wait for the broker, and there was no "
                            f"room for this one within {seconds:g} s; publish it again later"
                        )
                    locks.room.wait(left)
                if self._closed:
                    return False
                if self._locks is not locks:
                    continue
                self._waiting.append((text, time.monotonic()))
                self._taken += 1
                if len(self._waiting) in (1, self._batch):
                    locks.due.notify()
            return True

    def _runs(self) -> bool:
        # A thread can also end by itself: gevent makes a greenlet of it, which GreenletExit ends.
        thread = self._thread
        return thread is not None and thread.is_alive()

    def _begin(self, locks: _Locks) -> bool:
        """Start the thread. False: no thread can be started.

        Never called with a lock held: `Thread.start` waits for the new thread, and that would wait for the lock.
        """
        remember(self)
        thread = threading.Thread(target=self._run, args=(locks,), name="cachekeeper-buffer", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # this process is out of threads, or its interpreter is ending
            return False
        self._claim(locks, thread)
        return True

    def _claim(self, locks: _Locks, thread: threading.Thread) -> bool:
        """Return whether `thread` is the one that publishes. If several were started at once, only one is."""
        with locks.lock:
            if self._locks is not locks:
                return False
            if not self._runs():
                self._thread = thread
            return self._thread is thread

    def _run(self, locks: _Locks) -> None:
        # `_begin` claims as well. This thread claims too, in case `_begin` was interrupted between start and claim.
        if not self._claim(locks, threading.current_thread()):
            return
        failures = 0
        while self._wait(locks):
            try:
                self._send_one(locks, self._taken)
            except Exception as error:  # noqa: BLE001  # this thread must go on; the next `publish` raises the error
                self._failed(locks, error)
                pause = growing(failures, first=_FIRST_PAUSE_SECONDS, longest=_LONGEST_PAUSE_SECONDS)
                with locks.lock:
                    if self._goes_on(locks):
                        locks.due.wait_for(lambda: not self._goes_on(locks), pause)
                failures += 1
            else:
                failures = 0

    def _goes_on(self, locks: _Locks) -> bool:
        return self._locks is locks and not self._closed

    def _wait(self, locks: _Locks) -> bool:
        """Wait for a message to send. False: the buffer was closed, or these locks have been replaced."""
        with locks.lock:
            while self._goes_on(locks):
                if not self._waiting:
                    locks.due.wait()
                    continue
                left = self._waiting[0][1] + self._seconds - time.monotonic()
                if left <= 0 or len(self._waiting) >= self._batch:
                    return True
                locks.due.wait(left)
            return False

    def _send_one(self, locks: _Locks, last: int) -> bool:
        """Publish a message from the head of the buffer. False: all events up to number `last` are published already.

        The events leave the buffer when the broker has confirmed them. If this ends earlier for any reason, they are
        published again, which does no harm. Events that a thread from before gevent's patch is sending are published
        again too: with its old locks that thread cannot know whether another thread sends them, and removes none.
        """
        with locks.sending:
            with locks.lock:
                if self._locks is not locks:
                    return True
                if self._confirmed >= last:
                    return False
                head = [text for text, _ in islice(self._waiting, EVENTS_PER_MESSAGE)]
            batch = next(packed(head))
            self._publisher.send(OutgoingMessage(batch))
            with locks.lock:
                if self._locks is not locks:
                    return True
                for _ in batch:
                    self._waiting.popleft()
                self._confirmed += len(batch)
                self._error = None
                locks.room.notify_all()
            return True

    def _failed(self, locks: _Locks, error: Exception) -> None:
        with locks.lock:
            waiting = len(self._waiting)
            if waiting and self._locks is locks:  # else another thread has published them meanwhile, or will
                self._error = error
        self._tell(error, waiting)

    def _after_fork(self) -> None:
        # The parent publishes the events in the buffer. Its threads, and so the holders of its locks, are not here.
        self._reset()
