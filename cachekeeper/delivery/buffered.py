"""Publishing through a buffer: a call costs no round trip, and a message carries what many calls have said."""

from __future__ import annotations

import os
import threading
import time
import traceback
import weakref
from collections import deque
from itertools import islice
from typing import TYPE_CHECKING, Self

from cachekeeper.delivery.ending import forget, mind_sigterm, remember
from cachekeeper.delivery.publisher import EVENTS_PER_MESSAGE, Publisher, event_text, packed
from cachekeeper.errors import BufferFull, CachekeeperError
from cachekeeper.metrics import COUNTERS, logger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from cachekeeper.events import Event

_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 5.0


class BufferedPublisher:
    """Publishes events a little later, many in one message. Safe across threads; a forked child starts with nothing.

        with BufferedPublisher() as publisher:
            publisher.publish(UserUpdated(user_id=42, name="Ada", version=7))

    `publish` returns when the event is in the buffer: until it is published, at most `max_milliseconds` later while
    the broker is well, a process that is killed by SIGKILL, or ends itself by `os._exit` (as the children of Celery's
    prefork pool do), loses it; the outbox loses nothing. In every other way to end, the buffer is published: by
    `close`, the end of `with`, of the interpreter, of a child of `multiprocessing`, or SIGTERM; what the broker does
    not take even then is logged and reported. While the broker is away, events stay in the buffer, in order, and are
    tried again and again. None is ever dropped to make room.

    Args:
        publisher: default: one with the settings of this process's environment.
        max_events: in the buffer. When it is full, `publish` waits.
        max_milliseconds: how long an event may wait for others.
        on_error: called with each error of publishing in the background, and how many events wait; by a thread of the
            buffer's own.
        flush_on_sigterm: publish the buffer when a SIGTERM comes, and end of it then. Only where the program has not
            decided otherwise when this is made, in the main thread; a handler of yours that ends the interpreter, as
            most servers have, does as well.
    """

    def __init__(
        self,
        publisher: Publisher | None = None,
        *,
        max_events: int = 5000,
        max_milliseconds: float = 50,
        on_error: Callable[[Exception, int], object] | None = None,
        flush_on_sigterm: bool = True,
    ) -> None:
        if max_events < 1 or not max_milliseconds >= 0:
            raise ValueError("max_events must be at least 1, and max_milliseconds not negative")
        self._publisher = Publisher() if publisher is None else publisher
        self._is_ours = publisher is None
        self._max_events = max_events
        self._batch = min(max_events, EVENTS_PER_MESSAGE)
        self._seconds = max_milliseconds / 1000
        self._on_error = on_error
        self._closed = False
        self._reset()
        _all.add(self)
        if flush_on_sigterm:
            mind_sigterm()

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._due = threading.Condition(self._lock)
        self._room = threading.Condition(self._lock)
        # One message at a time: two would begin with the same events. Never taken while `_lock` is held.
        self._sending = threading.Lock()
        self._waiting: deque[tuple[str, float]] = deque()
        self._taken = 0
        self._confirmed = 0
        self._error: Exception | None = None
        self._thread: threading.Thread | None = None

    @property
    def waiting(self) -> int:
        """How many events the broker has not confirmed."""
        return len(self._waiting)

    def publish(self, event: Event) -> None:
        """Put one event into the buffer; once this is closed, publish it at once.

        Raises:
            InvalidEvent: `event` is none, or longer than 8 MiB as JSON.
            SettingsError: there is no broker to publish to.
            BufferFull: the buffer was full for `CACHEKEEPER_PUBLISH_TIMEOUT_SECONDS`.
            BrokerUnavailable: the broker has not taken what was published before; said once for each attempt.

        After an error this event is not in the buffer; those before it are.
        """
        text = event_text(event)
        if not self._put(text, self._publisher.limit_seconds()):
            self._publisher.publish_texts((text,))

    def publish_many(self, events: Iterable[Event]) -> int:
        """`publish` for each. After an error, those before it are in the buffer.

        Returns:
            How many there were.
        """
        count = 0
        for event in events:
            self.publish(event)
            count += 1
        return count

    def flush(self) -> None:
        """Publish what is in the buffer. When this returns, the broker has it.

        Raises:
            SettingsError: there is no broker to publish to.
            BrokerUnavailable: the broker did not confirm a message within `CACHEKEEPER_PUBLISH_TIMEOUT_SECONDS`. What
                it did not confirm stays in the buffer.
        """
        with self._lock:
            last = self._taken
        while self._send_one(last):
            pass

    def close(self) -> None:
        """Publish what is in the buffer, and everything from now on at once.

        Raises:
            As `flush`. What is left stays in the buffer: close again, or leave it to the end of the process.
        """
        with self._lock:
            self._closed = True
            self._due.notify()
            self._room.notify_all()
            thread = self._thread
        self.flush()
        forget(self)
        if thread is not None and thread is not threading.current_thread():
            thread.join()
        if self._is_ours:
            self._publisher.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _put(self, text: str, seconds: float) -> bool:
        """Into the buffer, within so many seconds; False: it is closed."""
        # Not `with self._due`: that is Python, in which a signal's handler could raise with the lock taken.
        with self._lock:
            if self._closed:
                return False
            if self._thread is None:
                self._begin()
            if self._error is not None:
                error, self._error = self._error, None
                raise error
            deadline = time.monotonic() + seconds
            while len(self._waiting) >= self._max_events and not self._closed:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise BufferFull(
                        f"{len(self._waiting)} events wait for the broker, and this one found no room among them "
                        f"within {seconds:g} s"
                    )
                self._room.wait(left)
            if self._closed:
                return False
            self._waiting.append((text, time.monotonic()))
            self._taken += 1
            if len(self._waiting) in (1, self._batch):
                self._due.notify()
        return True

    def _begin(self) -> None:
        remember(self)
        thread = threading.Thread(target=self._run, name="cachekeeper-buffer", daemon=True)
        thread.start()
        self._thread = thread

    def _run(self) -> None:
        pause = _FIRST_PAUSE_SECONDS
        while self._wait():
            try:
                self._send_one(self._taken)
            except Exception as error:  # noqa: BLE001  # without this thread nothing is published; raised at the next call
                self._failed(error)
                with self._lock:
                    if not self._closed:
                        self._due.wait_for(lambda: self._closed, pause)
                pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
            else:
                pause = _FIRST_PAUSE_SECONDS

    def _wait(self) -> bool:
        """Until there is a message to send; False: until it is closed."""
        with self._lock:
            while not self._closed:
                if not self._waiting:
                    self._due.wait()
                    continue
                left = self._waiting[0][1] + self._seconds - time.monotonic()
                if left <= 0 or len(self._waiting) >= self._batch:
                    return True
                self._due.wait(left)
            return False

    def _send_one(self, last: int) -> bool:
        """Publish a message from the head of the buffer; False: everything up to event number `last` is published.

        The events leave the buffer when the broker has confirmed them. Whatever ends this before, they are published
        again, which does no harm.
        """
        with self._sending:
            with self._lock:
                if self._confirmed >= last:
                    return False
                head = [text for text, _ in islice(self._waiting, EVENTS_PER_MESSAGE)]
            batch = next(packed(head))
            self._publisher.publish_texts(batch)
            with self._lock:
                for _ in batch:
                    self._waiting.popleft()
                self._confirmed += len(batch)
                self._error = None
                self._room.notify_all()
            return True

    def _failed(self, error: Exception) -> None:
        with self._lock:
            waiting = len(self._waiting)
            if waiting:  # else another thread has published all since
                self._error = error
        COUNTERS.add("buffer_failed")
        if isinstance(error, CachekeeperError):
            logger.warning("%d events wait in the buffer: %s", waiting, error)
        else:
            # Without the error's own text, which may quote an event.
            where = "".join(traceback.format_tb(error.__traceback__))
            logger.error("%d events wait in the buffer: %s\n%s", waiting, type(error).__name__, where)
        self._report(error, waiting)

    def _report(self, error: Exception, waiting: int) -> None:
        if self._on_error is None:
            return
        try:
            self._on_error(error, waiting)
        except Exception as fault:  # noqa: BLE001  # events wait; the caller's own fault must not keep them here
            where = "".join(traceback.format_tb(fault.__traceback__))
            logger.error("on_error of a BufferedPublisher failed: %s\n%s", type(fault).__name__, where)

    def finish(self) -> None:
        """`close` for the end of the process, when nobody is left to raise an error at."""
        try:
            self.close()
        except Exception as error:  # noqa: BLE001  # there may be other buffers; it is logged and reported
            COUNTERS.add("buffer_lost", self.waiting)
            text = str(error) if isinstance(error, CachekeeperError) else type(error).__name__
            logger.critical("%d events were not published before the process ended: %s", self.waiting, text)
            self._report(error, self.waiting)

    def _after_fork(self) -> None:
        # What is in the buffer is the parent's to publish, and its thread and whoever holds its locks are not here.
        self._reset()


_all: weakref.WeakSet[BufferedPublisher] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for buffered in list(_all):
        buffered._after_fork()  # noqa: SLF001  # this hook is the buffer's own


os.register_at_fork(after_in_child=_after_fork_in_child)
