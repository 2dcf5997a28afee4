"""A writer's clients, and its transactions that bring a change and its event into MongoDB."""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pymongo
from pymongo.errors import PyMongoError

from cachekeeper.connections.mongodb import majority
from cachekeeper.errors import Unavailable
from cachekeeper.reading.keeper import Keeper
from cachekeeper.settings import PublisherSettings, Settings
from producers import Publisher, outbox
from verification.chaos.schedule import Series

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pymongo.client_session import ClientSession

    from cachekeeper.model.events import Event

GIVE_UP_SECONDS = 60.0
"""Seconds after which a writer gives up a change. In a clean run this never happens."""

_LIMIT_SECONDS = 3.0  # for one attempt
_COPIES = 150  # number of recent events whose plain copies may be published again


class Service:
    """One writer's access to the servers: a keeper for the shipped functions, and transactions."""

    def __init__(self, series: Series, settings: Mapping[str, Any]) -> None:
        self.series = series
        self.keeper = Keeper(Settings(**settings))
        self.publisher = Publisher(PublisherSettings(broker_url=settings["broker_url"], publish_timeout_seconds=1))
        self._client: pymongo.MongoClient[dict[str, Any]] = pymongo.MongoClient(
            settings["mongodb_url"], serverSelectionTimeoutMS=2000, connectTimeoutMS=2000, tz_aware=True
        )
        self.database = majority(self._client.get_default_database())
        self.copies: deque[Event] = deque(maxlen=_COPIES)
        self._pool = ThreadPoolExecutor(2, "publishing")
        self._publishing = threading.BoundedSemaphore(4)

    def commit(
        self, change: Callable[[ClientSession | None], object], done: Callable[[], bool], *events: Event
    ) -> int | None:
        """Make a change, together with its outbox events. Repeat until it is certain that the change was made.

        Args:
            change: changes the document if it is still in its former state; returns whether it was.
            done: returns whether a majority has the change.
            events: the change's events, for the outbox. The change stream makes events by itself.

        Returns:
            When MongoDB had acknowledged the change, in monotonic nanoseconds. None: the change was given up.
        """
        give_up = time.monotonic() + GIVE_UP_SECONDS
        while time.monotonic() < give_up:
            try:
                with pymongo.timeout(_LIMIT_SECONDS):
                    if self._attempt(change, events) or done():
                        committed = time.monotonic_ns()
                        if self.series is not Series.STREAM:  # a copy would hide an event that the stream loses
                            self.copies.extend(events)
                            self._publish_too(events)
                        return committed
            except PyMongoError:
                time.sleep(0.02)
        return None

    def _attempt(self, change: Callable[[ClientSession | None], object], events: tuple[Event, ...]) -> bool:
        if self.series is Series.STREAM:
            return bool(change(None))

        def both(session: ClientSession) -> bool:
            if not change(session):
                session.abort_transaction()
                return False
            outbox.add(self.database, session, *events)
            return True

        with self._client.start_session() as session:
            return session.with_transaction(both)

    def _publish_too(self, events: tuple[Event, ...]) -> None:
        """Publish half of the outbox's events also directly, right after their change, without the relay.

        Such an event is acknowledged a few milliseconds after its commit. That is the hardest case for loads: they have
        little time to become as new as they must be.
        """
        if random.random() < 0.5 and self._publishing.acquire(blocking=False):
            self._pool.submit(self._publish, events)

    def _publish(self, events: tuple[Event, ...]) -> None:
        try:
            self.publisher.publish_many(events)
        except Unavailable:
            pass  # the broker is unavailable; the relay will publish them
        finally:
            self._publishing.release()

    def close(self) -> None:
        """Close the connections."""
        self._pool.shutdown()
        self.publisher.close()
        self.keeper.close()
        self._client.close()
