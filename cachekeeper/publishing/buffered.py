"""Publishing through a buffer: a call costs no round trip, and a message carries what many calls have said."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Self

from cachekeeper.errors import CachekeeperError
from cachekeeper.metrics import COUNTERS, logger, where_raised
from cachekeeper.publishing.at_exit import forget, mind_sigterm
from cachekeeper.publishing.event_buffer import EventBuffer
from cachekeeper.publishing.publisher import Publisher, event_text
from cachekeeper.publishing.wire_format import OutgoingMessage
from cachekeeper.values.argument_checks import check_given

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from cachekeeper.model.events import Event


class BufferedPublisher(EventBuffer):
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
        used = Publisher() if publisher is None else publisher
        self._is_ours = publisher is None
        self._on_error = on_error
        self._faults: set[type[BaseException]] = set()
        if flush_on_sigterm:
            mind_sigterm()
        super().__init__(used, max_events, max_milliseconds / 1000)

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

    def _tell(self, error: Exception, waiting: int) -> None:
        COUNTERS.add("buffer_failed")
        if isinstance(error, CachekeeperError):
            logger.warning("%d events wait in the buffer: %s", waiting, error)
        else:
            # Without the error's own text, which may quote an event.
            where = where_raised(error)
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
            where = where_raised(fault)
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
