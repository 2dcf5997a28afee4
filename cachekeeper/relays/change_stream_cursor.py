"""MongoDB's side of the change stream: opening it after a place, reading from it, and interpreting its errors."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pymongo.errors import OperationFailure

from cachekeeper.connections.mongodb_errors import database_errors
from cachekeeper.errors import DatabaseUnavailable, NoTransaction
from cachekeeper.metrics import COUNTERS, logger
from cachekeeper.model.events import CollectionChanged, Event

if TYPE_CHECKING:
    from pymongo.change_stream import DatabaseChangeStream
    from pymongo.database import Database

    from cachekeeper.model.changes import Watch

Place = Mapping[str, Any]
"""How far a stream has been read: its resume token."""

_LISTEN_MS = 50  # how long the server waits for a change, and how long a first change waits for more

_NO_REPLICA_SET = 40573  # MongoDB's code for a change stream on a standalone server
# ChangeStreamFatalError, ChangeStreamHistoryLost, and a change larger than the size limit of a document: the stream
# cannot be continued after any of them.
_ENDED = frozenset({280, 286, 10334})


class Lost(Exception):
    """The stream cannot be continued from its place."""


@dataclass(frozen=True, slots=True)
class Taken:
    """Some changes, the place after them, and why this stream has ended; None while it goes on."""

    changes: Sequence[Mapping[str, Any]]
    place: Place | None
    ended: str | None = None


def watch(database: Database[Any], watches: Mapping[str, Watch], token: Place | None) -> DatabaseChangeStream[Any]:
    """Open the stream of all watched collections, after a place or from now on."""
    names = list(watches)
    fields = {field for each in watches.values() for field in ("_id", *each.fields)}
    concerned = [{"ns.coll": {"$in": names}}, {"to.coll": {"$in": names}}, {"operationType": "invalidate"}]
    wanted = ("operationType", "ns", "to", "documentKey", "wallTime", "updateDescription")
    documents = (f"{name}.{field}" for name in ("fullDocument", "fullDocumentBeforeChange") for field in fields)
    return database.watch(
        [{"$match": {"$or": concerned}}, {"$project": dict.fromkeys((*wanted, *documents), 1)}],
        # The document as this change left it. `updateLookup` would give the document as it is now: with a later name,
        # which does not belong to this change's version.
        full_document="whenAvailable",
        full_document_before_change="whenAvailable",
        start_after=token,
        max_await_time_ms=_LISTEN_MS,
    )


def opened(
    watching: Callable[[Place | None], DatabaseChangeStream[Any]],
    token: Place | None,
    seconds: float,
) -> DatabaseChangeStream[Any]:
    """Open a stream, after a place or from now on.

    Args:
        watching: opens the stream.
        token: the place; None: from now on.
        seconds: the time limit.

    Raises:
        Lost: the stream cannot be continued from that place.
        DatabaseUnavailable, NoTransaction: as `stream_errors`.
    """
    try:
        with stream_errors(seconds):
            return watching(token)
    except DatabaseUnavailable as error:
        refused = _code(error)
        if token is None or refused is None:
            raise
    # Many codes can mean that the place is lost. If MongoDB opens a stream without the place, the place was the reason.
    with stream_errors(seconds):
        watching(None).close()
    raise Lost(f"MongoDB cannot resume at the stored place (code {refused}); its oplog may no longer reach back so far")


def read(stream: DatabaseChangeStream[Any], most: int, seconds: float) -> Taken:
    """Take the changes that are there, or wait a moment for one.

    Args:
        stream: an open stream.
        most: the most changes to take.
        seconds: the time limit for one answer, not counting that moment.

    Raises:
        DatabaseUnavailable, NoTransaction: as `stream_errors`.
    """
    changes: list[Mapping[str, Any]] = []
    place, give_up = stream.resume_token, time.monotonic() + _LISTEN_MS / 1000
    while len(changes) < most:
        try:
            with stream_errors(seconds + _LISTEN_MS / 1000):
                change = stream.try_next()
        except DatabaseUnavailable as error:
            if _code(error) in _ENDED:
                return Taken(changes, place, f"MongoDB ended the change stream (code {_code(error)})")
            raise
        if change is not None and change["operationType"] == "invalidate":
            return Taken(changes, place, "the database was dropped")
        place = stream.resume_token
        if change is None:
            break
        changes.append(change)
        # The place is beyond the change: no further change is buffered.
        if place != change["_id"] or time.monotonic() >= give_up:
            break
    return Taken(changes, place)


def _code(error: DatabaseUnavailable) -> int | None:
    """Return the code of the server's refusal; None if it did not answer, or only reported a timeout."""
    cause = error.__cause__
    return cause.code if isinstance(cause, OperationFailure) and not cause.timeout else None


@contextmanager
def stream_errors(seconds: float) -> Iterator[None]:
    """Convert errors as `database_errors` does, plus the one that waiting does not cure.

    Raises:
        NoTransaction: this server has neither transactions nor change streams.
        DatabaseUnavailable: as `database_errors`.
    """
    try:
        with database_errors("reading the change stream", seconds):
            yield
    except DatabaseUnavailable as error:
        if _code(error) == _NO_REPLICA_SET:
            raise NoTransaction(
                "this MongoDB is a standalone server, which has neither transactions nor change streams: start it "
                "with --replSet NAME and call rs.initiate() once (one member is enough), or connect to a replica set"
            ) from error
        raise


def drops(collections: Iterable[str], why: str) -> list[Event]:
    """Return events that drop everything cached from these collections; count and log each."""
    lost = sorted(collections)
    for collection in lost:
        COUNTERS.add("change_stream_collection_lost")
        logger.warning("change stream: dropping everything cached from collection %r: %s", collection, why)
    return [CollectionChanged(collection=collection) for collection in lost]
