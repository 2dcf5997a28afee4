"""The outbox relay: publishes the events in the outbox, repeatedly, until a worker has handled them.

Any number of relays may run. Each works in rounds: it claims records, publishes them, and forgets them; only a worker
removes a record. A relay polls: two small queries a round, on an index, cost next to nothing. A change stream would
wake it some 25 ms earlier, but would be one more thing that ends with a failover and whose loss must be noticed.
"""

from __future__ import annotations

import json
import threading
import time
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from cachekeeper.connections.mongodb import check_database, connect_mongodb, majority
from cachekeeper.connections.mongodb_errors import database_errors
from cachekeeper.errors import Unavailable
from cachekeeper.metrics import COUNTERS
from cachekeeper.publishing.publisher import EVENTS_PER_MESSAGE, LONGEST_EVENT, Publisher, packed
from cachekeeper.publishing.wire_format import OutgoingMessage
from cachekeeper.relays.outbox import COLLECTION
from cachekeeper.relays.outbox_index import PlainIndex
from cachekeeper.runtime.backoff import Backoff
from cachekeeper.values.nesting import deeper_than

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pymongo.collection import Collection
    from pymongo.database import Database

    from cachekeeper.settings import RelaySettings

_SHORTEST_PAUSE_SECONDS = 0.01
_LONGEST_PAUSE_SECONDS = 0.05
"""Between two queries, while nothing in the outbox is due."""

_GROWTH = 32  # the most that the time until a record is published again grows, as a factor
_PROBE = 16  # records in one try: at first, after a refusal of the broker, and while none leaves the outbox
_PROBE_GROWTH = 8  # the same factor for the time until these few are tried again
# Levels of nesting that a worker can surely read, and make a dead letter of. `outbox.add` accepts no event that is
# deeper, but other programs may have written one.
_DEEPEST = 200
_CROWD = 3  # after so many attempts a record travels alone

_TEXT = {"_id": {"$type": "string"}}
_FRESH = {**_TEXT, "due_at": None}
_PUBLISHED = {"due_at": {"$gt": datetime(1970, 1, 1, tzinfo=UTC)}}  # any date; counted on the index alone
_DUE = {**_TEXT, **_PUBLISHED, "$expr": {"$lte": ["$due_at", "$$NOW"]}}


@dataclass(slots=True)
class _Retries:
    """How many records to publish again, and when.

    While no worker runs, each record would be published again when its time comes, and within an hour the broker would
    be full of copies. So the next records wait until one of the last ones has left the outbox, which shows that a
    worker is back. While none leaves, only a few records are tried, after longer and longer pauses.
    """

    size: int = _PROBE
    last: Sequence[str] = ()
    not_before: float = 0.0
    growth: int = 1


class Relay:
    """Publishes the events in the outbox. For one thread; any thread or signal handler may call `stop`.

    Args:
        settings: where MongoDB and the broker are.
        database: a pymongo database of your own. `close` does not close it.

    Raises:
        TypeError: `database` is not a synchronous database of pymongo.
    """

    def __init__(self, settings: RelaySettings, database: Database[Any] | None = None) -> None:
        if database is not None:
            check_database(database)
        self._settings = settings
        self._own = database is None
        self._database = majority(
            connect_mongodb(settings.mongodb_url, settings.load_timeout_seconds) if database is None else database
        )
        self._outbox: Collection[Any] = self._database[COLLECTION]
        self._publisher = Publisher(settings)
        self._retries = _Retries()
        self._index = PlainIndex(
            self._outbox,
            "due_at",
            timeout=settings.load_timeout_seconds,
            without="Events are still published, but finding them in a long outbox takes longer",
        )
        self._refused = False
        self._stopping = threading.Event()

    def run(self) -> None:
        """Publish until `stop` is called. While MongoDB or the broker is unavailable, retry with backoff.

        Raises:
            SettingsError: the URL of the broker cannot be used.
        """
        pause = _SHORTEST_PAUSE_SECONDS
        backoff = Backoff(self._stopping, waits="outbox relay paused, retrying", goes_on="outbox relay has resumed")
        while not self._stopping.is_set():
            try:
                found = self.run_once()
            except Unavailable as error:
                backoff.failed(error)
                continue
            backoff.succeeded()
            pause = _SHORTEST_PAUSE_SECONDS if found else min(2 * pause, _LONGEST_PAUSE_SECONDS)
            if not found:
                self._stopping.wait(pause)

    def stop(self) -> None:
        """Let `run` return when its current round has ended."""
        self._stopping.set()

    def close(self) -> None:
        """Close the connections."""
        self._publisher.close()
        if self._own:
            self._database.client.close()

    def run_once(self) -> int:
        """Publish the records that are due now, up to the limit of one round.

        Returns:
            How many records were published.

        Raises:
            DatabaseUnavailable, BrokerUnavailable: nothing is lost; call again.
            SettingsError: as `run`.
        """
        self._index.run_once()
        return self._publish(self._claim(_FRESH, self._room())) + self._publish_again()

    def _room(self) -> int:
        """Return how many new records may be published now."""
        limit = self._settings.outbox_limit_events
        with database_errors("counting the published events", self._settings.load_timeout_seconds, COLLECTION):
            if self._outbox.find_one(_FRESH, {"_id": 1}) is None:
                return 0
            room = limit - self._outbox.count_documents(_PUBLISHED, limit=limit)
        # A broker may hold messages that it did not confirm. RabbitMQ, short of memory, holds publishers back: it takes
        # messages and confirms none. An hour of attempts must not fill its queue, so only a few are tried.
        return min(room, _PROBE if self._refused else EVENTS_PER_MESSAGE)

    def _publish_again(self) -> int:
        retries, now = self._retries, time.monotonic()
        if retries.last:
            with database_errors(
                "looking for handled events in the outbox", self._settings.load_timeout_seconds, COLLECTION
            ):
                stay = self._outbox.count_documents({"_id": {"$in": list(retries.last)}})
            if stay < len(retries.last):
                retries.last, retries.size, retries.growth = (), min(2 * retries.size, EVENTS_PER_MESSAGE), 1
            elif now < retries.not_before:
                return 0
            else:
                retries.size, retries.growth = _PROBE, min(2 * retries.growth, _PROBE_GROWTH)
        records = self._claim(_DUE, retries.size)
        if records:
            self._publish(records)
            COUNTERS.add("outbox_published_again", len(records))
            retries.last = [record["_id"] for record in records]
            retries.not_before = now + self._settings.outbox_retry_seconds * retries.growth
        return len(records)

    def _claim(self, due: Mapping[str, Any], limit: int) -> list[dict[str, Any]]:
        """Claim records for this round, by setting the time at which they are due again.

        Two relays may choose the same records. Each record takes the update of only one of them, because the filter is
        evaluated again for each record. If a relay is killed after this, another one publishes them when they are due
        again.
        """
        if limit <= 0:
            return []
        claim = uuid.uuid4().hex
        with database_errors("reading the outbox", self._settings.load_timeout_seconds, COLLECTION):
            # Reads only what a majority holds: no event may be published for a change that is rolled back.
            chosen = [found["_id"] for found in self._outbox.find(due, {"_id": 1}).sort("due_at", 1).limit(limit)]
            if not chosen:
                return []
            self._outbox.update_many({**due, "_id": {"$in": chosen}}, self._claimed(claim))
            return list(self._outbox.find({"_id": {"$in": chosen}, "claim": claim}, {"body": 1, "attempts": 1}))

    def _claimed(self, claim: str) -> list[dict[str, Any]]:
        whole = {"$in": [{"$type": "$attempts"}, ["int", "long"]]}  # another program may have written another type
        attempts = {"$cond": [whole, "$attempts", 0]}
        # Longer than applying usually takes. Up to half is added at random, so that records that were published
        # together are not due together.
        growth = {"$min": [{"$pow": [2, attempts]}, _GROWTH]}
        spread = {"$add": [1, {"$multiply": [{"$rand": {}}, 0.5]}]}
        wait = {"$multiply": [round(self._settings.outbox_retry_seconds * 1000), growth, spread]}
        due_at = {"$add": ["$$NOW", {"$toLong": wait}]}
        return [{"$set": {"claim": claim, "due_at": due_at, "attempts": {"$add": [attempts, 1]}}}]

    def _publish(self, records: Sequence[Mapping[str, Any]]) -> int:
        waiting = sorted(records, key=_travels_alone)
        try:
            for message in _messages(records):
                self._publisher.send(OutgoingMessage(message, stored=True))
                del waiting[: len(message)]
        except Unavailable:
            self._refused = True
            self._put_back(waiting)
            raise
        if records:
            self._refused = False
        COUNTERS.add("outbox_published", len(records))
        return len(records)

    def _put_back(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Make records that were never published due at once. Records that were published before keep their wait."""
        fresh = [record["_id"] for record in records if record["attempts"] == 1]
        if not fresh:
            return
        with database_errors("putting back unpublished events", self._settings.load_timeout_seconds, COLLECTION):
            self._outbox.update_many({"_id": {"$in": fresh}}, {"$set": {"due_at": None, "attempts": 0}})


def _messages(records: Sequence[Mapping[str, Any]]) -> Iterator[list[str]]:
    """Yield the events of the records, as many at once as fit into a message.

    An event that has been published many times may be the one that kills the workers. It gets a message of its own, so
    that it does not hold up others.
    """
    yield from packed(_text(record) for record in records if not _travels_alone(record))
    for record in records:
        if _travels_alone(record):
            yield [_text(record)]


def _travels_alone(record: Mapping[str, Any]) -> bool:
    return bool(record["attempts"] > _CROWD)


def _text(record: Mapping[str, Any]) -> str:
    """Return the event as it goes over the wire. Always JSON, so that one wrong body does not spoil a whole message.

    A body that is not an event becomes a dead letter, like any other, and so leaves the outbox, under its record's id.
    """
    text = _whole_text(record)
    if len(text.encode()) <= LONGEST_EVENT:
        return text
    # The broker would refuse it every time, and all events behind it would wait.
    problem = "the body was too long and is cut"
    return json.dumps({"id": record["_id"], "problem": problem, "body": str(record.get("body"))[:1000]})


def _whole_text(record: Mapping[str, Any]) -> str:
    record_id, body = record["_id"], record.get("body")
    try:
        event = json.loads(body) if isinstance(body, str) else None
    except (ValueError, RecursionError):
        event = None
    if not isinstance(event, dict) or deeper_than(_DEEPEST, event):
        return json.dumps({"id": record_id, "body": str(body)})
    return body if event.get("id") == record_id and isinstance(body, str) else json.dumps({**event, "id": record_id})
