"""MongoDB's side of the change stream: opening it after a place, reading from it, and what its errors mean."""

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
"""Where a stream has been read to: its resume token."""

_LISTEN_MS = 50  # how long the server waits for one change, and so how long a few changes wait for more

_NO_REPLICA_SET = 40573  # MongoDB's code for a change stream on a standalone server
# ChangeStreamFatalError, ChangeStreamHistoryLost, and a change that is larger than a document may be: there is no way
# on from here.
_ENDED = frozenset({280, 286, 10334})


class Lost(Exception):
    """The stream cannot be continued from where it was."""


@dataclass(frozen=True, slots=True)
class Taken:
    """Some changes, the place after them, and why there are no more in this stream; None where there may be."""

    changes: Sequence[Mapping[str, Any]]
    place: Place | None
    ended: str | None = None


def watch(database: Database[Any], watches: Mapping[str, Watch], token: Place | None) -> DatabaseChangeStream[Any]:
    """The stream of all that is watched, after a place or from now on."""
    names = list(watches)
    fields = {field for each in watches.values() for field in ("_id", *each.fields)}
    concerned = [{"ns.coll": {"$in": names}}, {"to.coll": {"$in": names}}, {"operationType": "invalidate"}]
    wanted = ("operationType", "ns", "to", "documentKey", "wallTime", "updateDescription")
    documents = (f"{name}.{field}" for name in ("fullDocument", "fullDocumentBeforeChange") for field in fields)
    return database.watch(
        [{"$match": {"$or": concerned}}, {"$project": dict.fromkeys((*wanted, *documents), 1)}],
        # Of the change itself. `updateLookup` would give the document as it is by now: with a later name, of which
        # a version of this change says nothing.
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
    """Open a stream, after a place or now.

    Args:
        watching: opens one.
        token: the place; None for now.
        seconds: the time limit.

    Raises:
        Lost: there is no way on from that place.
        DatabaseUnavailable, NoTransaction: as `stream_errors`.
    """
    try:
        with stream_errors(seconds):
            return watching(token)
    except DatabaseUnavailable as error:
        refused = _code(error)
        if token is None or refused is None:
            raise
    # For one of many codes. If it is not refused now, the place was the reason.
    with stream_errors(seconds):
        watching(None).close()
    raise Lost(f"the server cannot go on from where it was (code {refused}); its oplog may not reach back so far")


def read(stream: DatabaseChangeStream[Any], most: int, seconds: float) -> Taken:
    """Take what there is, or wait a moment for a change.

    Args:
        stream: an open one.
        most: changes.
        seconds: the time limit for one answer, the moment not counted.

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
                return Taken(changes, place, f"the server has ended it (code {_code(error)})")
            raise
        if change is not None and change["operationType"] == "invalidate":
            return Taken(changes, place, "the database was dropped")
        place = stream.resume_token
        if change is None:
            break
        changes.append(change)
        # A place beyond the change: nothing more is at hand.
        if place != change["_id"] or time.monotonic() >= give_up:
            break
    return Taken(changes, place)


def _code(error: DatabaseUnavailable) -> int | None:
    """The code by which the server refused; None where it did not answer, or in vain."""
    cause = error.__cause__
    return cause.code if isinstance(cause, OperationFailure) and not cause.timeout else None


@contextmanager
def stream_errors(seconds: float) -> Iterator[None]:
    """`database_errors`, and the one of which waiting is no cure.

    Raises:
        NoTransaction: this server has neither transactions nor change streams.
        DatabaseUnavailable: as there.
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
    """Events by which everything cached of these collections is dropped."""
    lost = sorted(collections)
    for collection in lost:
        COUNTERS.add("change_stream_collection_lost")
        logger.warning("change stream: everything cached of collection %r is dropped: %s", collection, why)
    return [CollectionChanged(collection=collection) for collection in lost]
