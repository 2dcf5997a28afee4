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

from cachekeeper.errors import BufferFull, CachekeeperError
from cachekeeper.metrics import COUNTERS, logger
from cachekeeper.publishing.at_exit import forget, mind_sigterm, remember
from cachekeeper.publishing.publisher import EVENTS_PER_MESSAGE, Publisher, event_text, packed
from cachekeeper.publishing.wire_format import OutgoingMessage
from cachekeeper.values.argument_checks import check_given

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from cachekeeper.model.events import Event

_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 5.0


class _Locks:
    """What the threads of one buffer share, of the kind that `threading` had when this was made.

    gevent replaces `threading.Lock`, and with `gunicorn --preload -k gevent` it does so after the buffer was made. A
    greenlet that waits for a lock of before stops its whole process, and so also the greenlet that holds the lock.
    """

    def __init__(self) -> None:
        self.kind = threading.Lock
        self.lock = threading.Lock()
        """Held for moments: nobody sends, waits or starts a thread meanwhile."""
        self.due = threading.Condition(self.lock)
        self.room = threading.Condition(self.lock)
        self.sending = threading.Lock()
        """One message at a time: two would begin with the same events. Never taken while `lock` is held."""


class BufferedPublisher:
    """Publishes events a little later, many in one message.

    Safe across threads and greenlets, also where gevent patches the process later. A forked child starts with an empty
    buffer.

        with BufferedPublisher() as publisher:
            publisher.publish(UserUpdated(user_id=42, name="Ada", version=7))

    `publish` returns when the event is in the buffer. While the broker is well, the event is published at most
    `max_milliseconds` later. While the broker is away, events stay in the buffer, in order, and are tried again and
    again. None is ever dropped to make room.

    The buffer is published by `close`, at the end of `with`, when the interpreter ends (`sys.exit`, an exception,
    SIGINT), and when a child of `multiprocessing` ends by itself. What the broker does not take even then is logged and
    reported. Events of the last `max_milliseconds` are lost where a process ends without that: by `os._exit`, by
    `os.exec…`, in a crash, and by every signal that the program does not handle (SIGTERM and SIGHUP too). Call `close`
    first, handle the signal, or use the outbox, which loses nothing.

    Never call `publish`, `flush` or `close` in a signal handler. Python runs the handler in the main thread: if that
    is inside `publish`, the handler waits for ever for its lock. Set a flag in the handler, or raise `SystemExit`.

    Where gevent patches after the first `publish`, the thread of before the patch may print `Exception ignored in
    thread … KeyError` when it ends. Nothing is lost by it.

    Args:
        publisher: default: one with the settings of this process's environment.
        max_events: in the buffer. When it is full, `publish` waits.
        max_milliseconds: how long an event may wait for others.
        on_error: called with each error of publishing in the background, and how many events wait; by a thread of the
            buffer's own. What it raises, `SystemExit` too, is logged once for each type, and ends neither that thread
            nor the process.
        flush_on_sigterm: install a handler that publishes the buffer when a SIGTERM comes, and then ends the process
            by that signal. A handler that the program has already, or `SIG_IGN`, is left alone; one that the program
            or its server installs later replaces this one.

    Raises:
        ValueError: a number is out of range; or `flush_on_sigterm`, and this is not the main thread, in which alone
            Python installs handlers.
        TypeError: `publisher` must be a `Publisher`, and is of another type, such as a URL or a mock.
    """

    def __init__(
        self,
        publisher: Publisher | None = None,
        *,
        max_events: int = 5000,
        max_milliseconds: float = 50,
        on_error: Callable[[Exception, int], object] | None = None,
        flush_on_sigterm: bool = False,
    ) -> None:
        if max_events < 1 or not max_milliseconds >= 0:
            raise ValueError("max_events must be at least 1, and max_milliseconds not negative")
        if publisher is not None:
            check_given(publisher, "publisher", Publisher, cure="a Publisher, or nothing for that of the environment")
        self._publisher = Publisher() if publisher is None else publisher
        self._is_ours = publisher is None
        self._max_events = max_events
        self._batch = min(max_events, EVENTS_PER_MESSAGE)
        self._seconds = max_milliseconds / 1000
        self._on_error = on_error
        self._faults: set[type[BaseException]] = set()
        self._closed = False
        if flush_on_sigterm:
            mind_sigterm()
        self._reset()
        _all.add(self)

    def _reset(self) -> None:
        self._locks = _Locks()
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
        """Put one event into the buffer; once this is closed, or where no thread can be started, publish it at once.

        Raises:
            InvalidEvent: `event` is none, or longer than 8 MiB as JSON.
            SettingsError: there is no broker to publish to.
            BufferFull: the buffer was full for `CACHEKEEPER_PUBLISH_TIMEOUT_SECONDS`.
            BrokerUnavailable: the broker has not taken what was published before; said once for each attempt.

        After an error this event is not in the buffer; those before it are.
        """
        text = event_text(event)
        if not self._put(text, self._publisher.limit_seconds()):
            self.flush()  # its turn is after those that wait
            self._publisher.send(OutgoingMessage((text,)))

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
        with self._present().lock:
            last = self._taken
        while self._send_one(self._present(), last):
            pass

    def close(self) -> None:
        """Publish what is in the buffer, and everything from now on at once.

        Raises:
            As `flush`. What is left stays in the buffer: close again, or leave it to the end of the process.
        """
        locks = self._present()
        with locks.lock:
            self._closed = True
            locks.due.notify()
            locks.room.notify_all()
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

    def _present(self) -> _Locks:
        """The locks of the kind that `threading` has now, which is another one once gevent has patched it."""
        locks = self._locks
        if locks.kind is not threading.Lock:
            # Held for moments only, by threads of before the patch: those go on by themselves.
            with locks.lock:
                if self._locks is locks:
                    self._locks = _Locks()
                    self._thread = None
                    locks.due.notify_all()
                    locks.room.notify_all()
        return self._locks

    def _put(self, text: str, seconds: float) -> bool:
        """Into the buffer, within so many seconds; False: it is closed, or has no thread."""
        deadline = time.monotonic() + seconds
        while True:
            locks = self._present()
            if not self._runs() and not self._closed and not self._begin(locks):
                return False
            # Not `with locks.due`: that is Python, in which a signal's handler could raise with the lock taken.
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
                            f"{len(self._waiting)} events wait for the broker, and this one found no room among them "
                            f"within {seconds:g} s"
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
        # A thread may also have ended by itself: GreenletExit ends the greenlet that gevent makes of it.
        thread = self._thread
        return thread is not None and thread.is_alive()

    def _begin(self, locks: _Locks) -> bool:
        """Start the thread; False: there is none to be had.

        Never called with a lock: `Thread.start` waits for the thread, which would wait for that lock.
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
        """Whether `thread` is the one that publishes: of several that were started at once, one is."""
        with locks.lock:
            if self._locks is not locks:
                return False
            if not self._runs():
                self._thread = thread
            return self._thread is thread

    def _run(self, locks: _Locks) -> None:
        # The caller in `_begin` claims as well; this thread does where that one was interrupted in between.
        if not self._claim(locks, threading.current_thread()):
            return
        pause = _FIRST_PAUSE_SECONDS
        while self._wait(locks):
            try:
                self._send_one(locks, self._taken)
            except Exception as error:  # noqa: BLE001  # without this thread nothing is published; raised at the next call
                self._failed(locks, error)
                with locks.lock:
                    if self._goes_on(locks):
                        locks.due.wait_for(lambda: not self._goes_on(locks), pause)
                pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
            else:
                pause = _FIRST_PAUSE_SECONDS

    def _goes_on(self, locks: _Locks) -> bool:
        return self._locks is locks and not self._closed

    def _wait(self, locks: _Locks) -> bool:
        """Until there is a message to send; False: until it is closed, or these locks have been replaced."""
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
        """Publish a message from the head of the buffer; False: everything up to event number `last` is published.

        The events leave the buffer when the broker has confirmed them. Whatever ends this before, they are published
        again, which does no harm. So are those that a thread of before gevent's patch has under way: with the locks of
        its time it cannot know who else is sending them, and takes none out.
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
            if waiting and self._locks is locks:  # else another thread has published all since, or will
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
        except BaseException as fault:  # noqa: BLE001  # SystemExit would end this thread, which publishes what waits
            if type(fault) in self._faults:
                return
            self._faults.add(type(fault))
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
