"""Sessions: `session:{id}`. MongoDB is the truth, so that a flush logs nobody out."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, cast

from pymongo import ReturnDocument
from pymongo.errors import DocumentTooLarge, OperationFailure
from pymongo.read_concern import ReadConcern

from cachekeeper.connections.mongodb_errors import TOO_LARGE, database_errors, is_refused, refusal
from cachekeeper.errors import (
    CachekeeperError,
    CacheUnavailable,
    DatabaseUnavailable,
    InvalidValue,
    PersistedNotCached,
    Unavailable,
)
from cachekeeper.model.sources import ABSENT, Document
from cachekeeper.model.views import Server, Staleness, View
from cachekeeper.protocol import Value, scripts
from cachekeeper.protocol.outcomes import Changed, Peeked
from cachekeeper.reading.keeper import Keeper, given_or_default
from cachekeeper.values.codecs import Json, check_json
from cachekeeper.values.ids import check_id

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pymongo.collection import Collection

    from cachekeeper.model.sources import StoredDocument

TTL_SECONDS = 30 * 60
_ENDED_MEANWHILE = "the session ended while it was being saved"
# Missing or null. Not spelt as an equality, which an upsert would write into the document it makes.
_LIVE: Mapping[str, Any] = {"$not": {"$ne": None}}


class SessionEnded(CachekeeperError):
    """The session has been logged out. It stays so: start a new one, under a new id."""


def _data(document: StoredDocument) -> object:
    return ABSENT if document.get("ended_at") is not None else document.get("data", ABSENT)


SESSION: View[dict[str, Any]] = View(
    name="session",
    key="session:{id}",
    ttl_seconds=TTL_SECONDS,
    codec=Json(dict),
    loader=Document("sessions", _data, fields=("data", "ended_at"), ends="expires_at"),
    version="version",
    server=Server.SECURITY,
    staleness=Staleness.SHARED,
)

# Rises with every save, across expiry and removal of the document, too: time never stands still for long.
_NEXT_VERSION: Mapping[str, Any] = {
    "$max": [
        {"$add": [{"$cond": [{"$isNumber": "$version"}, "$version", 0]}, 1]},
        {"$toLong": "$$NOW"},
    ]
}

# Ends a session for good; repeated, it changes nothing. A session that only Redis knew gets a document that says so.
END_SESSION: tuple[Mapping[str, Any], ...] = (
    {
        "$set": {
            "version": {"$cond": [{"$ifNull": ["$ended_at", False]}, "$version", _NEXT_VERSION]},
            "expires_at": {"$cond": [{"$ifNull": ["$ended_at", False]}, "$expires_at", "$$NOW"]},
            "ended_at": {"$ifNull": ["$ended_at", "$$NOW"]},
        }
    },
    {"$unset": "data"},
)


def save_session(session_id: str | int, data: dict[str, Any], *, keeper: Keeper | None = None) -> None:
    """Save a session for another 30 minutes. When this returns, MongoDB holds it (majority) and the key is filled.

    Args:
        session_id: its id.
        data: an object that JSON and JavaScript carry unchanged.
        keeper: with clients or settings of your own; default: from the environment.

    Raises:
        InvalidId: `session_id` cannot be an id.
        InvalidValue: `data` would be changed on the way; the field is the path to what is wrong.
        SessionEnded: the session has been logged out.
        WriteRefused: a validator or a unique index of the collection forbids the session, or its document would be too
            large; nothing was written.
        DatabaseUnavailable: MongoDB failed; nothing is known to be written.
        PersistedNotCached: MongoDB has it, Redis failed. Try again; it is safe.
    """
    keeper = given_or_default(keeper)
    part = check_id(session_id, "session_id")
    if not isinstance(data, dict):
        raise InvalidValue("data", f"must be an object, got {type(data).__name__}")
    check_json(data, "data")
    size, limit = len(SESSION.codec.encode(data)), keeper.settings.value_limit_bytes
    if size > limit:
        raise InvalidValue("data", f"is {size} bytes as JSON; CACHEKEEPER_VALUE_LIMIT_BYTES allows {limit}")
    saved = SESSION.interpret(_persist(keeper, part, data))
    if not isinstance(saved, Value):
        raise SessionEnded(_ENDED_MEANWHILE)
    try:
        _cache(keeper, part, saved)
    except Unavailable as error:
        raise PersistedNotCached("the session is saved in MongoDB, but not in Redis yet: save it again") from error


def read_session(session_id: str | int, *, keeper: Keeper | None = None) -> dict[str, Any] | None:
    """What was saved in a session, by this library or by another service.

    Args:
        session_id: its id.
        keeper: with clients or settings of your own; default: from the environment.

    Returns:
        The data, or None: there is no such session, it expired, or it ended. Never for an outage.

    Raises:
        InvalidId: `session_id` cannot be an id.
        DamagedValue: somebody wrote something else at the key; it is left as found.
        DamagedDocument: what MongoDB has of the session cannot be read.
        CacheUnavailable: Redis is away and MongoDB does not have the session; it may be one that only Redis knows.
        Unavailable: neither Redis nor MongoDB answered within the time limit (`DatabaseUnavailable`, `Overloaded`).
    """
    data = given_or_default(keeper).read(SESSION, session_id, "session_id")
    return None if data is ABSENT else data


def _persist(keeper: Keeper, part: str, data: dict[str, Any]) -> StoredDocument:
    """The majority write; the document after it."""
    document_id = keeper.binding(SESSION).ids.parse(part, "session_id")
    update = {
        "data": {"$literal": data},
        "version": _NEXT_VERSION,
        "expires_at": {"$add": ["$$NOW", TTL_SECONDS * 1000]},
    }
    sessions = keeper.database[SESSION.loader.collection]
    said: Mapping[str, Any] = {}
    with database_errors("saving a session", keeper.settings.load_timeout_seconds):
        # Twice, where it is refused. A duplicate: there is a document that the filter did not find, so the upsert tried
        # to make a second. Either the session has ended, or another first save made the document between our look and
        # our insert: then the second time it is found.
        for _ in range(2):
            try:
                document = sessions.find_one_and_update(
                    {"_id": document_id, "ended_at": _LIVE},
                    [{"$set": update}],
                    upsert=True,
                    return_document=ReturnDocument.AFTER,
                )
                return cast("StoredDocument", document)  # an upsert always has one
            except DocumentTooLarge as error:
                said = {"code": TOO_LARGE, "errmsg": str(error)}
            except OperationFailure as error:
                said = {"code": error.code, **(error.details or {})}
                if not is_refused(said):
                    raise
        why = _refused(sessions, document_id, said)
        raise why from why.__cause__


def _refused(sessions: Collection[Any], document_id: object, said: Mapping[str, Any]) -> CachekeeperError:
    """Why MongoDB does not take a session."""
    # What judges the upsert before it is found to be there, judges it of a session that has ended, too. As the upsert
    # sees it, whether a majority knows of the end yet or not.
    seen = sessions.with_options(read_concern=ReadConcern("local"))
    if seen.find_one({"_id": document_id, "ended_at": {"$ne": None}}) is not None:
        return SessionEnded("the session has been logged out")
    return refusal(sessions.name, said) or DatabaseUnavailable(
        f"MongoDB failed while saving a session (code {said.get('code')})"
    )


def _cache(keeper: Keeper, part: str, saved: Value) -> None:
    """Bring the saved session to its key, so that the next plain `GET` of any client finds it."""
    store, key = keeper.store(SESSION.server), SESSION.template.key(part)
    marker_ms = keeper.settings.marker_ms
    if saved.version is None:  # somebody put a number there beyond all versions
        store.run(scripts.invalidate(key))
    else:
        changed = store.run(scripts.change(key, saved, ttl_ms=TTL_SECONDS * 1000, marker_ms=marker_ms))
        if changed is Changed.OVERWRITTEN:
            return
        if changed is Changed.ENDED:
            raise SessionEnded(_ENDED_MEANWHILE)
    # A marker was left, or a newer save came first: whichever it is, the key is filled under a lease, like any
    # reader's.
    deadline = time.monotonic() + keeper.settings.lookup_timeout_seconds
    while True:
        found = keeper.read_through(SESSION, part)
        peeked = store.run(scripts.read_until(key))
        if found is ABSENT or peeked is Peeked.ENDED:
            raise SessionEnded(_ENDED_MEANWHILE)
        if peeked is not Peeked.MISSING:
            return
        # Yet another save has taken the lease away and not filled yet: fill in its place, its data is in MongoDB.
        if time.monotonic() > deadline:
            raise CacheUnavailable("Redis did not take the session")
