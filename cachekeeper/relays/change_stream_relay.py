"""The change stream's relay: turns changes in MongoDB into events in the outbox, so that services need no code.

Any number may run; one of them leads, by a lease in MongoDB. It works in turns: it reads changes, and stores their
events together with the place that it has reached, in one transaction. So if a relay is killed at any point, the next
leader continues from the last place whose events are stored, and no change is left out.

The state is one document in the collection `change_streams`: `leader` and `until` are the lease, by MongoDB's clock;
`token` is the place; `collections` are the collections that are watched from there on.
"""

from __future__ import annotations

import random
import threading
import time
import uuid
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pymongo
from pymongo import ReturnDocument, WriteConcern
from pymongo.errors import PyMongoError

from cachekeeper.connections.mongodb import check_database, connect_mongodb, majority
from cachekeeper.connections.mongodb_errors import database_errors
from cachekeeper.errors import DatabaseUnavailable, InvalidEvent
from cachekeeper.metrics import COUNTERS, logger
from cachekeeper.model.changes import OPERATIONS, Change
from cachekeeper.relays import change_stream_cursor, outbox
from cachekeeper.runtime.backoff import Backoff
from cachekeeper.values.mongoose_json import DOCUMENT_CODEC_OPTIONS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pymongo.change_stream import DatabaseChangeStream
    from pymongo.client_session import ClientSession
    from pymongo.database import Database

    from cachekeeper.model.changes import Watch
    from cachekeeper.model.events import Event
    from cachekeeper.model.registry import Registry
    from cachekeeper.settings import StreamSettings
    from cachekeeper.values.ids import IdType

COLLECTION = "change_streams"
STATE_ID = "events"
LEASE_SECONDS = 10.0

# A leader renews its lease at least this often. Health checks wait for that: see `cachekeeper.relays.stream_health`.
_RENEW_SECONDS = 1.0
_BATCH = 500  # changes in a transaction, at most

# A name that is not UTF-8 must not fail a batch: it is read with replacement characters.
_CODEC = DOCUMENT_CODEC_OPTIONS.with_options(unicode_decode_error_handler="replace")


class _Deposed(Exception):
    """Another relay leads, or the state was removed."""


class ChangeRelay:
    """Stores events for changes in MongoDB. For one thread; any thread or signal handler may call `stop`.

    Args:
        settings: where MongoDB is, and how ids map to `_id`s.
        registry: what is watched.
        database: a pymongo database of your own. `close` does not close it.
        lease_seconds: another relay takes over this long after the leader last renewed its lease.
    """

    def __init__(
        self,
        settings: StreamSettings,
        registry: Registry,
        database: Database[Any] | None = None,
        *,
        lease_seconds: float = LEASE_SECONDS,
    ) -> None:
        if database is not None:
            check_database(database)
        self._limit = settings.load_timeout_seconds
        self._ids: Mapping[str, IdType] = settings.id_types
        self._watches: Mapping[str, Watch] = registry.watches
        self._own = database is None
        given = connect_mongodb(settings.mongodb_url, self._limit) if database is None else database
        self._database: Database[Any] = majority(given).with_options(codec_options=_CODEC)
        self._state = self._database[COLLECTION]
        self._me = uuid.uuid4().hex
        self._lease = lease_seconds
        self._renew_at = 0.0
        self._stream: DatabaseChangeStream[Any] | None = None
        self._first: list[Event] = []
        self._batch = _BATCH
        self._stopping = threading.Event()

    @property
    def leads(self) -> bool:
        """Whether this relay was the leader when it last checked."""
        return self._stream is not None

    def run(self) -> None:
        """Store events until `stop` is called. While MongoDB is unavailable, retry with backoff.

        Raises:
            NoTransaction: the server has neither transactions nor change streams.
        """
        backoff = Backoff(self._stopping, waits="change stream paused, retrying", goes_on="change stream has resumed")
        while not self._stopping.is_set():
            try:
                self.run_once()
            except DatabaseUnavailable as error:
                backoff.failed(error)
                continue
            backoff.succeeded()
            if not self.leads:
                self._stopping.wait(self._lease / 3 * random.uniform(0.5, 1))  # noqa: S311  # spread, like a backoff
        self.step_down()

    def stop(self) -> None:
        """Let `run` return when its current turn has ended."""
        self._stopping.set()

    def close(self) -> None:
        """Close the connections."""
        self._close_stream()
        if self._own:
            self._database.client.close()

    def step_down(self) -> None:
        """Let another relay lead at once. If this fails, nothing is lost: the lease expires."""
        if self._stream is None:
            return
        self._close_stream()
        try:
            with database_errors("giving back the lease of the change stream", self._limit, COLLECTION):
                self._state.update_one({"_id": STATE_ID, "leader": self._me}, {"$set": {"leader": None}})
        except DatabaseUnavailable as error:
            logger.warning("change stream lease not given back; the next leader waits until it expires: %s", error)

    def run_once(self) -> int:
        """Store the events of new changes, or wait a moment for a change. Begin to lead if no relay leads.

        Returns:
            How many changes were read; 0 also if another relay leads.

        Raises:
            DatabaseUnavailable: nothing is lost; call again.
            NoTransaction: as `run`.
        """
        try:
            if self._stream is None:
                self._begin()
            return self._take()
        except _Deposed:
            self._close_stream()
            return 0
        except BaseException:
            # Changes that were read but not stored are read again, from the stored place; fewer at once, in case the
            # batch was too large for the time limit.
            self._close_stream()
            self._batch = max(self._batch // 2, 1)
            raise

    # --- leading

    def _begin(self) -> None:
        """Lead, from the place that the last leader stored.

        Raises:
            _Deposed: another relay leads.
        """
        state = self._acquire()
        watched, token = set(self._watches), state.get("token")
        if token is None:
            self._begin_anew("no place to resume from is stored: this is the first start, or the state was removed")
            return
        try:
            self._stream = self._open(token)
        except change_stream_cursor.Lost as lost:
            self._begin_anew(str(lost))
            return
        # Changes of newly watched collections before this place were not read.
        self._first = change_stream_cursor.drops(
            watched - set(state.get("collections") or ()), "it was not watched until now"
        )

    def _begin_anew(self, why: str) -> None:
        """Start now, and drop everything that was cached before.

        The order is: open the stream, then drop.

            open · a change · dropped       the stream has the change, even if it is read late
            a change · open · dropped       the change is older than the drop: a reader's load sees it afterwards
            dropped · a change · open       the wrong order: no event would tell of the change

        The load does see it: the record that makes a worker drop the view is published only once a majority holds it,
        and with it everything before it, the change too.
        """
        self._close_stream()
        self._stream = self._open(None)
        COUNTERS.add("change_stream_begun_anew")
        self._first = change_stream_cursor.drops(self._watches, why)  # stored with the changes that are read next

    def _acquire(self) -> Mapping[str, Any]:
        """Become or stay the leader, and return the state.

        Raises:
            _Deposed: another relay leads.
        """
        free = {"$or": [{"leader": {"$in": [self._me, None]}}, {"$expr": {"$lte": ["$until", "$$NOW"]}}]}
        with database_errors("acquiring the lease of the change stream", self._limit, COLLECTION):
            self._state.update_one({"_id": STATE_ID}, {"$setOnInsert": {"leader": None}}, upsert=True)
            found: Mapping[str, Any] | None = self._state.find_one_and_update(
                {"_id": STATE_ID, **free},
                [{"$set": {"leader": self._me, "until": self._until()}}],
                return_document=ReturnDocument.AFTER,
            )
        if found is None:
            raise _Deposed
        self._renew_at = time.monotonic() + min(self._lease / 3, _RENEW_SECONDS)
        return found

    def _until(self) -> dict[str, Any]:
        return {"$add": ["$$NOW", round(self._lease * 1000)]}

    # --- reading

    def _open(self, token: Mapping[str, Any] | None) -> DatabaseChangeStream[Any]:
        return change_stream_cursor.opened(self._watch, token, self._limit)

    def _watch(self, token: Mapping[str, Any] | None) -> DatabaseChangeStream[Any]:
        return change_stream_cursor.watch(self._database, self._watches, token)

    def _take(self) -> int:
        """Read the changes that are there, and store their events and the place after them."""
        taken = self._read()
        events = [*self._first, *(event for change in taken.changes for event in self._events(change))]
        if events or taken.ended or time.monotonic() >= self._renew_at:
            self._store(events, taken.place)
            self._first = []
            self._batch = min(2 * self._batch, _BATCH)
            COUNTERS.add("change_stream_events", len(events))
        if taken.ended is not None:
            self._begin_anew(taken.ended)
        return len(taken.changes)

    def _read(self) -> change_stream_cursor.Taken:
        if self._stream is None:
            raise _Deposed
        return change_stream_cursor.read(self._stream, self._batch, self._limit)

    def _events(self, found: Mapping[str, Any]) -> list[Event]:
        collection, operation = found["ns"]["coll"], found["operationType"]
        if operation not in OPERATIONS:
            # The stream goes on, but single changes no longer tell what the collection holds.
            concerned = {collection, (found.get("to") or {}).get("coll")} & set(self._watches)
            return change_stream_cursor.drops(concerned, f"the stream reported the operation {operation}")
        watch = self._watches[collection]
        try:
            return list(watch.events(Change.of(found, self._ids.get(watch.view or "", watch.ids))))
        except InvalidEvent as error:
            return change_stream_cursor.drops({collection}, f"a change could not be turned into an event: {error}")

    # --- storing

    def _store(self, events: Sequence[Event], place: Mapping[str, Any] | None) -> None:
        """Store the events and the place after them, both or neither. This renews the lease.

        Raises:
            _Deposed: another relay leads, and has read from the place before; or the state was removed.
        """
        errors = database_errors("storing events of the change stream", self._limit)
        with errors, self._database.client.start_session() as session:
            session.with_transaction(
                lambda session: self._write(session, events, place), write_concern=WriteConcern("majority")
            )
        self._renew_at = time.monotonic() + min(self._lease / 3, _RENEW_SECONDS)

    def _write(self, session: ClientSession, events: Sequence[Event], place: Mapping[str, Any] | None) -> None:
        outbox.add(self._database, session, *events)
        # Last, because it locks the lease: if its owner is killed, the transaction stays open for a minute.
        changed = {
            "token": {"$literal": place},
            "collections": {"$literal": sorted(self._watches)},
            "until": self._until(),
        }
        mine = {"_id": STATE_ID, "leader": self._me}
        # A relay that was paused for longer than its lease finds another leader here, and stores nothing.
        if not self._state.update_one(mine, [{"$set": changed}], session=session).matched_count:
            raise _Deposed

    def _close_stream(self) -> None:
        stream, self._stream, self._first = self._stream, None, []
        if stream is not None:
            with suppress(PyMongoError), pymongo.timeout(self._limit):  # a server that is down drops it by itself
                stream.close()
