"""The outbox: events stored in the transaction of their change, kept there until a worker has handled them.

A record holds

- `_id`: the event's id, text;
- `body`: the event, JSON text as it goes over the wire;
- `created_at`: when it was stored, by the clock of the process that stored it; used only for the lag;
- `due_at`: null until it is published; then the time at which it is published again if it is still here, by MongoDB's
  clock;
- `attempts`: how often it was published;
- `claim`: the round, of one relay, that published it last.

A program that writes records without this module must set `_id`, `body` (with the same id) and `created_at`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from pymongo.client_session import ClientSession
from pymongo.errors import BulkWriteError, OperationFailure

from cachekeeper.connections.mongodb import check_database
from cachekeeper.connections.mongodb_errors import database_errors
from cachekeeper.errors import InvalidEvent, NoTransaction
from cachekeeper.model.events import Event
from cachekeeper.values.argument_checks import check_given

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pymongo.database import Database

    from cachekeeper.reading.keeper import Keeper

COLLECTION = "outbox"

_ILLEGAL_OPERATION = 20  # MongoDB's code for a transaction on a server without transactions
_DUPLICATE_KEY = 11000
_LONGEST_ID = 1024  # characters; ids of valid events are shorter
_LONGEST_BODY = 1024 * 1024  # bytes
_IDS_AT_ONCE = 1000
_COUNT_SECONDS = 30.0
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")  # which MongoDB's driver refuses


@dataclass(frozen=True, slots=True)
class Lag:
    """The contents of the outbox in numbers.

    Attributes:
        events: how many.
        under_way: how many of them are published and not yet handled by a worker.
        oldest_seconds: how long ago the oldest was stored, None if the outbox is empty. Measured between two clocks:
            MongoDB's now, and that of the process that stored it.
        unpublished_seconds: the same for the oldest that was never published; None if all have been published.
    """

    events: int
    under_way: int
    oldest_seconds: float | None
    unpublished_seconds: float | None


def add(database: Database[Any], session: ClientSession | None, *events: Event) -> None:
    """Store events in the transaction of the change that they describe: both happen, or neither.

    Args:
        database: the database that `CACHEKEEPER_MONGODB_URL` of the relay and the workers names.
        session: the session with the open transaction. The change must be made with it too.
        events: what happened. Each needs an id that was never used before; an event without `id` gets such an id.

    Raises:
        InvalidEvent: an argument is not an event, is longer than 1 MiB, or its id is in the outbox already.
        NoTransaction: no transaction is open, or the server has no transactions.
        TypeError: the database or the session is not a synchronous one of pymongo.
        PyMongoError: unchanged, with its labels: `session.with_transaction` decides by them whether to retry.
    """
    check_database(database)
    if session is not None:
        check_given(
            session,
            "session",
            ClientSession,
            cure="the result of client.start_session(), of a synchronous MongoClient",
        )
    records = [_record(event) for event in events]
    if session is None or not session.in_transaction:
        raise NoTransaction(
            "no transaction is open in this session: store the event in the transaction of its change "
            "(`with session.start_transaction():`, or `session.with_transaction`)"
        )
    if not records:
        return
    try:
        database[COLLECTION].insert_many(records, session=session)
    except BulkWriteError as error:
        if any(problem.get("code") == _DUPLICATE_KEY for problem in error.details.get("writeErrors", ())):
            raise InvalidEvent("id", "is in the outbox already: give every event a new id, or no id") from None
        raise
    except OperationFailure as error:
        if error.code != _ILLEGAL_OPERATION:
            raise
        raise NoTransaction(
            "this MongoDB is a standalone server, which has no transactions: start it with --replSet NAME and call "
            "rs.initiate() once (one member is enough), or connect to a replica set"
        ) from error


def remove_delivered(keeper: Keeper, events: Sequence[object]) -> None:
    """Remove the records of handled events, with majority write concern.

    Args:
        keeper: its database is used.
        events: as they came over the wire, valid or not.

    Raises:
        DatabaseUnavailable: MongoDB failed. Records that are still there will be published again.
    """
    ids = list(_ids(events))
    for start in range(0, len(ids), _IDS_AT_ONCE):
        with database_errors("removing events from the outbox", keeper.settings.load_timeout_seconds, COLLECTION):
            keeper.database[COLLECTION].delete_many({"_id": {"$in": ids[start : start + _IDS_AT_ONCE]}})


def outbox_lag(database: Database[Any], *, seconds: float = _COUNT_SECONDS) -> Lag:
    """Count the events in the outbox, and tell how long they have been there. Reads every record.

    Args:
        database: where the outbox is.
        seconds: the time limit for MongoDB's answer, including the connection.

    Raises:
        DatabaseUnavailable: MongoDB failed.
        TypeError: the database is not a synchronous one of pymongo.
    """
    check_database(database)
    published = {"$eq": [{"$type": "$due_at"}, "date"]}
    # A relay never publishes a record whose id is not a string.
    waits = {"$and": [{"$not": [published]}, {"$eq": [{"$type": "$_id"}, "string"]}]}
    with database_errors("counting the events in the outbox", seconds, COLLECTION):
        found: list[dict[str, Any]] = list(
            database[COLLECTION].aggregate(
                [
                    {
                        "$group": {
                            "_id": None,
                            "events": {"$sum": 1},
                            "under_way": {"$sum": {"$cond": [published, 1, 0]}},
                            "since": {"$min": "$created_at"},
                            "waiting_since": {"$min": {"$cond": [waits, "$created_at", None]}},
                        }
                    },
                    {"$set": {"oldest": _age("$since"), "unpublished": _age("$waiting_since")}},
                ]
            )
        )
    if not found:
        return Lag(0, 0, None, None)
    oldest, unpublished = (
        None if found[0][name] is None else max(float(found[0][name]), 0.0) for name in ("oldest", "unpublished")
    )
    return Lag(int(found[0]["events"]), int(found[0]["under_way"]), oldest, unpublished)


def _age(since: str) -> dict[str, Any]:
    return {"$divide": [{"$subtract": ["$$NOW", since]}, 1000]}


def _record(event: Event) -> dict[str, Any]:
    if not isinstance(event, Event):
        raise InvalidEvent("event", f"must be an Event, got {type(event).__name__}")
    # Text, not a document: so it arrives exactly as it was written. BSON could change values.
    body = event.wire_text()
    if len(body) > _LONGEST_BODY:
        raise InvalidEvent("event", f"must be at most {_LONGEST_BODY} bytes as JSON, is {len(body)}")
    return {"_id": event.id, "body": body, "created_at": datetime.now(UTC), "due_at": None, "attempts": 0}


def _ids(events: Sequence[object]) -> Iterator[str]:
    """Yield the ids under which the events can be in the outbox. Other ids, from foreign messages, cannot be there."""
    for event in events:
        found = event.get("id") if isinstance(event, dict) else None
        if isinstance(found, str) and len(found) <= _LONGEST_ID and not _LONE_SURROGATE.search(found):
            yield found
