"""Publishes events to the broker: `publish` returns when the broker has confirmed the event."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from cachekeeper.errors import BrokerUnavailable, InvalidEvent, SettingsError
from cachekeeper.model.events import Event
from cachekeeper.publishing.wire_format import OutgoingMessage
from cachekeeper.runtime.forks import after_fork
from cachekeeper.settings import PublisherSettings, Settings, check_settings, load

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from contextlib import AbstractContextManager

    from cachekeeper.publishing.broker_connection import BrokerConnection

# The cost for the broker and the worker is per message, not per event, so messages carry many events. But a message is
# applied, kept in memory and redelivered as a whole, so it must not become too large.
EVENTS_PER_MESSAGE = 500
BYTES_PER_MESSAGE = 256 * 1024

LONGEST_EVENT = 8 * 1024 * 1024
"""In bytes, as JSON. RabbitMQ 4 refuses a message of more than 16 MiB at every attempt, and retries would hold up all
events behind it."""

_CALL_SECONDS = 1.0  # for one answer of the broker
_ATTEMPTS = 2  # the first fails if the broker has closed the idle connection


class Publisher:
    """Publishes events. Safe across threads and forks; connects at first use.

    Args:
        settings: default: from the environment, at first use. Only `CACHEKEEPER_BROKER_URL` must be set there.

    Raises:
        TypeError: `settings` is neither `Settings` nor `PublisherSettings`, but a URL, for example.
    """

    def __init__(self, settings: Settings | PublisherSettings | None = None) -> None:
        if settings is not None:
            check_settings(settings, Settings, PublisherSettings, url="broker_url")
        self._settings = settings
        self._lock = threading.Lock()
        self._idle: list[BrokerConnection] = []
        self._closings = 0
        after_fork(self, Publisher._after_fork)

    def publish(self, event: Event) -> None:
        """Publish one event. When this returns, the broker has it.

        Raises:
            InvalidEvent: `event` is not an event, or is longer than 8 MiB as JSON.
            SettingsError: `CACHEKEEPER_BROKER_URL` is not set, or a setting is wrong (at first use).
            BrokerUnavailable: the broker did not confirm the event within `CACHEKEEPER_PUBLISH_TIMEOUT_SECONDS`. The
                broker may have it nevertheless. Publishing it again does no harm.
        """
        self.send(OutgoingMessage((event_text(event),)))

    def publish_many(self, events: Iterable[Event]) -> int:
        """Publish many events, in as few messages as fit. When this returns, the broker has them all.

        Returns:
            The number of events.

        Raises:
            As `publish`; the time limit is for each message. After an error some of the events may have been published.
            Publishing all of them again does no harm.
        """
        published = 0
        for batch in packed(map(event_text, events)):
            self.send(OutgoingMessage(batch))
            published += len(batch)
        return published

    def send(self, message: OutgoingMessage) -> None:
        """Publish a message whose events are text already: from the outbox, the HTTP door, or a dead letter.

        Raises:
            SettingsError, BrokerUnavailable: as `publish`.
        """
        for attempt in self._attempts():
            with attempt as (connection, seconds):
                connection.send(message, seconds)
                return

    def limit_seconds(self) -> float:
        """Return the time limit of one message. Raises SettingsError: `CACHEKEEPER_BROKER_URL` is not set."""
        return self._broker()[1]

    def close(self) -> None:
        """Close the connections. The publisher makes new ones if it is used again."""
        with self._lock:
            idle, self._idle = self._idle, []
            self._closings += 1
        for connection in idle:
            connection.close()

    def probe(self) -> None:
        """Check that an event could be published now.

        Raises:
            SettingsError: `CACHEKEEPER_BROKER_URL` is not set, or a setting is wrong (at first use).
            BrokerUnavailable: the broker refused, or did not answer within `CACHEKEEPER_PUBLISH_TIMEOUT_SECONDS`.
        """
        for attempt in self._attempts():
            with attempt as (connection, _):
                connection.probe()
                return

    def _attempts(self) -> Iterator[AbstractContextManager[tuple[BrokerConnection, float]]]:
        """Yield attempts, each with a connection and a time limit in seconds. The last one raises its error."""
        url, limit = self._broker()
        deadline = time.monotonic() + limit
        for left in reversed(range(_ATTEMPTS)):
            yield self._attempt(url, limit, deadline, left)

    @contextmanager
    def _attempt(self, url: str, limit: float, deadline: float, left: int) -> Iterator[tuple[BrokerConnection, float]]:
        connection, closings = self._take(url, limit, fresh=left < _ATTEMPTS - 1)
        try:
            # Only a share of the time that is left, so that a connection that hangs leaves time for a new one.
            yield connection, (deadline - time.monotonic()) / (left + 1)
        except BrokerUnavailable:
            connection.drop()
            if not left or time.monotonic() >= deadline:
                raise
        except BaseException:
            connection.drop()  # half an answer may still be unread in it
            raise
        else:
            self._give_back(connection, closings)

    def _broker(self) -> tuple[str, float]:
        with self._lock:
            if self._settings is None:
                self._settings = load(PublisherSettings)
            settings = self._settings
        if settings.broker_url is None:
            raise SettingsError("CACHEKEEPER_BROKER_URL: is not set; publishing needs the URL of a broker")
        return settings.broker_url, settings.publish_timeout_seconds

    def _take(self, url: str, limit: float, *, fresh: bool) -> tuple[BrokerConnection, int]:
        from cachekeeper.publishing.broker_connection import BrokerConnection  # noqa: PLC0415  # loads kombu only in processes that publish

        with self._lock:
            closings = self._closings
            if fresh:
                # A connection was broken, so the older ones are broken too: a restarted broker has closed all of them.
                stale, self._idle = self._idle, []
            else:
                stale = []
                if self._idle:
                    return self._idle.pop(), closings
        for connection in stale:
            connection.drop()
        return BrokerConnection(url, min(_CALL_SECONDS, limit / 4)), closings

    def _give_back(self, connection: BrokerConnection, closings: int) -> None:
        with self._lock:
            if closings == self._closings:
                self._idle.append(connection)
                return
        connection.close()  # `close` was called while it was in use

    def _after_fork(self) -> None:
        # The sockets belong to the parent. They are kept, unused, so that no finalizer closes the connections on them.
        _inherited.extend(self._idle)
        self._lock = threading.Lock()
        self._idle = []


def packed(texts: Iterable[str]) -> Iterator[list[str]]:
    """Split events, given as JSON texts, into batches that each fit into one message."""
    batch: list[str] = []
    size = 0
    for text in texts:
        if batch and (len(batch) == EVENTS_PER_MESSAGE or size + len(text) > BYTES_PER_MESSAGE):
            yield batch
            batch, size = [], 0
        batch.append(text)
        size += len(text)
    if batch:
        yield batch


class EventTooLong(InvalidEvent):
    """An event that is longer than a broker accepts. The HTTP door answers it with a status of its own."""


def event_text(event: Event) -> str:
    """Return an event as it goes over the wire: JSON in ASCII.

    Raises:
        EventTooLong: it is longer than 8 MiB.
        InvalidEvent: `event` is not an event, or holds a value that JSON cannot carry.
    """
    if not isinstance(event, Event):
        raise InvalidEvent("event", f"must be an Event, got {type(event).__name__}")
    text = event.wire_text()
    if len(text) > LONGEST_EVENT:
        raise EventTooLong("event", f"must be at most {LONGEST_EVENT} bytes as JSON, is {len(text)}")
    return text


_inherited: list[Any] = []
_default = Publisher()


def publish(event: Event) -> None:
    """Call `Publisher.publish`, with the settings of this process's environment."""
    _default.publish(event)


def publish_many(events: Iterable[Event]) -> int:
    """Call `Publisher.publish_many`, with the settings of this process's environment."""
    return _default.publish_many(events)
