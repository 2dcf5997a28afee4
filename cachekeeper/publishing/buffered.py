"""Publishes through a buffer: a call costs no round trip, and one message carries the events of many calls."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Self

from cachekeeper.metrics import COUNTERS, logger
from cachekeeper.publishing.at_exit import forget, mind_sigterm
from cachekeeper.publishing.event_buffer import EventBuffer
from cachekeeper.publishing.publisher import Publisher, event_text
from cachekeeper.publishing.wire_format import OutgoingMessage
from cachekeeper.runtime.failures import failure_text, log_failure
from cachekeeper.values.argument_checks import check_given

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from cachekeeper.model.events import Event


class BufferedPublisher(EventBuffer):
    """Publishes events a little later, many in one message.

    Safe across threads and greenlets, even if gevent patches the process later. A forked child starts with an empty
    buffer.

        with BufferedPublisher() as publisher:
            publisher.publish(UserUpdated(user_id=42, name="Ada", version=7))

    `publish` returns when the event is in the buffer. While the broker is available, the event is published at most
    `max_milliseconds` later. While the broker is unavailable, events stay in the buffer, in order, and are retried. No
    event is ever dropped to make room.

    The buffer is published by `close`, at the end of `with`, when the interpreter ends (`sys.exit`, an exception,
    SIGINT), and when a child of `multiprocessing` ends by itself. Events that the broker does not confirm even then are
    logged and reported. Where a process ends in another way, the events of the last `max_milliseconds` are lost: by
    `os._exit`, by `os.exec…`, in a crash, and by every signal that the program does not handle (SIGTERM and SIGHUP
    too). Call `close` first, handle the signal, or use the outbox, which loses nothing.

    Never call `publish`, `flush` or `close` in a signal handler. Python runs the handler in the main thread. If that
    thread is inside `publish`, the handler waits forever for its lock. Set a flag in the handler instead, or raise
    `SystemExit`.

    If gevent patches after the first `publish`, the thread that was started before the patch may print `Exception
    ignored in thread … KeyError` when it ends. No event is lost by it.

    Args:
        publisher: default: one with the settings of this process's environment.
        max_events: the most events in the buffer. When it is full, `publish` waits.
        max_milliseconds: how long an event may wait for others.
        on_error: called with each error of publishing in the background, and the number of events that wait. A thread
            of the buffer calls it. If it raises, even `SystemExit`, that is logged once for each type of error; the
            thread and the process continue.
        flush_on_sigterm: install a handler that publishes the buffer when a SIGTERM comes, and then ends the process
            by that signal. A handler that the program has already, or `SIG_IGN`, is left alone. A handler that the
            program or its server installs later replaces this one.

    Raises:
        ValueError: a number is out of range; or `flush_on_sigterm` is set outside the main thread: Python installs
            signal handlers only there.
        TypeError: `publisher` is not a `Publisher`, but a URL or a mock, for example.
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
            raise ValueError("max_events must be at least 1, and max_milliseconds at least 0")
        if publisher is not None:
            cure = "a Publisher, or nothing to use the settings of the environment"
            check_given(publisher, "publisher", Publisher, cure=cure)
        used = Publisher() if publisher is None else publisher
        self._is_ours = publisher is None
        self._on_error = on_error
        self._faults: set[type[BaseException]] = set()
        if flush_on_sigterm:
            mind_sigterm()
        super().__init__(used, max_events, max_milliseconds / 1000)

    def publish(self, event: Event) -> None:
        """Put one event into the buffer. After `close`, or if no thread can be started, publish it at once instead.

        Raises:
            InvalidEvent: `event` is not an event, or is longer than 8 MiB as JSON.
            SettingsError: `CACHEKEEPER_BROKER_URL` is not set, or a setting is wrong (at first use).
            BufferFull: the buffer was full for `CACHEKEEPER_PUBLISH_TIMEOUT_SECONDS`.
            BrokerUnavailable: the broker did not confirm earlier events; raised once for each failed attempt.

        After an error this event is not in the buffer; earlier events still are.
        """
        text = event_text(event)
        if not self._put(text, self._publisher.limit_seconds()):
            self.flush()  # first the events that came before it
            self._publisher.send(OutgoingMessage((text,)))

    def publish_many(self, events: Iterable[Event]) -> int:
        """Call `publish` for each event. After an error, the events before it are in the buffer.

        Returns:
            The number of events.
        """
        count = 0
        for event in events:
            self.publish(event)
            count += 1
        return count

    def flush(self) -> None:
        """Publish the events in the buffer. When this returns, the broker has them.

        Raises:
            SettingsError: `CACHEKEEPER_BROKER_URL` is not set, or a setting is wrong (at first use).
            BrokerUnavailable: the broker did not confirm a message within `CACHEKEEPER_PUBLISH_TIMEOUT_SECONDS`. Events
                that it did not confirm stay in the buffer.
        """
        with self._present().lock:
            last = self._taken
        while self._send_one(self._present(), last):
            pass

    def close(self) -> None:
        """Publish the events in the buffer. Later calls of `publish` publish at once, without the buffer.

        Raises:
            As `flush`. Unconfirmed events stay in the buffer: close again, or the end of the process tries once more.
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

    def _tell(self, error: Exception, waiting: int) -> None:
        COUNTERS.add("buffer_failed")
        log_failure("%d events wait in the buffer and will be retried", waiting, error=error)
        self._report(error, waiting)

    def _report(self, error: Exception, waiting: int) -> None:
        if self._on_error is None:
            return
        try:
            self._on_error(error, waiting)
        except BaseException as fault:  # noqa: BLE001  # SystemExit would end the thread that publishes the buffer
            if type(fault) in self._faults:
                return
            self._faults.add(type(fault))
            log_failure("on_error of a BufferedPublisher raised an error", error=fault)

    def finish(self) -> None:
        """Close at the end of the process, when there is no caller left to raise an error to."""
        try:
            self.close()
        except Exception as error:  # noqa: BLE001  # other buffers must be closed too; it is logged and reported
            COUNTERS.add("buffer_lost", self.waiting)
            logger.critical(
                "%d events are lost: they were not published before the process ended (%s); publish them again",
                self.waiting,
                failure_text(error),
            )
            self._report(error, self.waiting)
