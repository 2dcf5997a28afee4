"""The relay: publishes what is stored in the outbox, again and again until a worker has dealt with it.

Any number of relays may run. Each works in rounds: it claims records, publishes them, and forgets them; only a worker
removes a record. It polls: a change stream would wake it some 25 ms earlier, and would be one more thing that ends with
a failover, and whose loss must be noticed; two small queries a round, on an index, cost next to nothing.
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
"""Between two looks at an outbox in which nothing is due."""

_GROWTH = 32  # of the time until a record is published again
_PROBE = 16  # records
_PROBE_GROWTH = 8  # of the time until a few are tried again, while none leaves
# Levels of an event that the worker reads, however deep its own stack is, and puts away for itself. The outbox takes no
# such event; others may have written one there.
_DEEPEST = 200
_CROWD = 3  # attempts, after which a record travels alone

_TEXT = {"_id": {"$type": "string"}}
_FRESH = {**_TEXT, "due_at": None}
_PUBLISHED = {"due_at": {"$gt": datetime(1970, 1, 1, tzinfo=UTC)}}  # any date; counted on the index alone
_DUE = {**_TEXT, **_PUBLISHED, "$expr": {"$lte": ["$due_at", "$$NOW"]}}


@dataclass(slots=True)
class _Retries:
    """How many records to publish again, and when.

    While no worker runs, each record would be published again when its time comes, and an hour would fill the broker
    with copies of what it holds. So the next ones have to wait until one of the last ones has left the outbox: the
    first worker that is back opens the way. Where none leaves, a few records are tried now and then, ever more seldom.
    """

    size: int = _PROBE
    last: Sequence[str] = ()
    not_before: float = 0.0
    growth: int = 1


class Relay:
    """Publishes what is in the outbox. For one thread; `stop` may be called from any, and from a signal handler.

    Args:
        settings: where MongoDB and the broker are.
        database: a pymongo database of your own. It is not closed by `close`.

    Raises:
        TypeError: `database` is no synchronous one of pymongo.
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
            without="Events are published all the same; finding them takes longer in a long outbox",
        )
        self._refused = False
        self._stopping = threading.Event()

    def run(self) -> None:
        """Publish until `stop` is called. While MongoDB or the broker is away, wait, and go on by itself.

        Raises:
            SettingsError: the URL of the broker cannot be used.
        """
        pause = _SHORTEST_PAUSE_SECONDS
        backoff = Backoff(self._stopping, waits="the outbox waits", goes_on="the outbox is published again")
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
        """Let `run` return when the round under way has ended."""
        self._stopping.set()

    def close(self) -> None:
        """Give back the connections."""
        self._publisher.close()
        if self._own:
            self._database.client.close()

    def run_once(self) -> int:
        """Publish what is due now, as much as one round takes.

        Returns:
            How many records were published.

        Raises:
            DatabaseUnavailable, BrokerUnavailable: nothing is lost; do it again.
            SettingsError: as `run`.
        """
        self._index.run_once()
        return self._publish(self._claim(_FRESH, self._room())) + self._publish_again()

    def _room(self) -> int:
        """How many fresh records may be published now."""
        limit = self._settings.outbox_limit_events
        with database_errors("counting what is under way", self._settings.load_timeout_seconds, COLLECTION):
            if self._outbox.find_one(_FRESH, {"_id": 1}) is None:
                return 0
            room = limit - self._outbox.count_documents(_PUBLISHED, limit=limit)
        # What a broker does not confirm it may have all the same. One that takes messages and confirms none (RabbitMQ
        # holds publishers back while it is short of memory) must not find an hour of attempts in its queue.
        return min(room, _PROBE if self._refused else EVENTS_PER_MESSAGE)

    def _publish_again(self) -> int:
        retries, now = self._retries, time.monotonic()
        if retries.last:
            with database_errors(
                "looking for what has left the outbox", self._settings.load_timeout_seconds, COLLECTION
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
        """Make records this round's own, by setting the time at which they are due again.

        Two relays may choose the same records; each record takes the update of one, since the filter is looked at again
        for each. One that is killed after this leaves them to the next, when they are due again.
        """
        if limit <= 0:
            return []
        claim = uuid.uuid4().hex
        with database_errors("reading the outbox", self._settings.load_timeout_seconds, COLLECTION):
            # Only what a majority holds is read: of a change that is rolled back, nobody must hear.
            chosen = [found["_id"] for found in self._outbox.find(due, {"_id": 1}).sort("due_at", 1).limit(limit)]
            if not chosen:
                return []
            self._outbox.update_many({**due, "_id": {"$in": chosen}}, self._claimed(claim))
            return list(self._outbox.find({"_id": {"$in": chosen}, "claim": claim}, {"body": 1, "attempts": 1}))

    def _claimed(self, claim: str) -> list[dict[str, Any]]:
        whole = {"$in": [{"$type": "$attempts"}, ["int", "long"]]}  # others may write anything
        attempts = {"$cond": [whole, "$attempts", 0]}
        # Longer than a normal apply; the half at random, so that what was published together is not due together.
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
        """What was never published need not wait for its second time."""
        fresh = [record["_id"] for record in records if record["attempts"] == 1]
        if not fresh:
            return
        with database_errors("putting back what was not published", self._settings.load_timeout_seconds, COLLECTION):
            self._outbox.update_many({"_id": {"$in": fresh}}, {"$set": {"due_at": None, "attempts": 0}})


def _messages(records: Sequence[Mapping[str, Any]]) -> Iterator[list[str]]:
    """The events of some records, as many at once as fit into a message.

    One that has been published many times may be what ends the workers that take it up: it takes no others along.
    """
    yield from packed(_text(record) for record in records if not _travels_alone(record))
    for record in records:
        if _travels_alone(record):
            yield [_text(record)]


def _travels_alone(record: Mapping[str, Any]) -> bool:
    return bool(record["attempts"] > _CROWD)


def _text(record: Mapping[str, Any]) -> str:
    """The event as it goes over the wire, JSON whatever the record holds: one wrong body must not spoil a message.

    What is no event becomes a dead letter, as any other, and so leaves the outbox under its record's id.
    """
    text = _whole_text(record)
    if len(text.encode()) <= LONGEST_EVENT:
        return text
    # The broker would refuse it each time, and all behind it would wait.
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
