"""Sessions: `session:{id}`. MongoDB has the authoritative copy, so a flush of Redis does not log users out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cachekeeper import (
    ABSENT,
    Document,
    DocumentEnded,
    InvalidValue,
    Json,
    Keeper,
    Server,
    Staleness,
    View,
    check_id,
    check_json,
    given_or_default,
    next_version,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cachekeeper.model.sources import StoredDocument

TTL_SECONDS = 30 * 60
_ENDED = "the session has been logged out: start a new one, under a new id"
_ENDED_MEANWHILE = "the session ended while it was being saved: start a new one, under a new id"


class SessionEnded(DocumentEnded):
    """The session has been logged out for good. Start a new one, under a new id."""


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

# Ends a session for good. Repeating it changes nothing. A session that only Redis had gets a document with the end.
END_SESSION: tuple[Mapping[str, Any], ...] = (
    {
        "$set": {
            "version": {"$cond": [{"$ifNull": ["$ended_at", False]}, "$version", next_version("version")]},
            "expires_at": {"$cond": [{"$ifNull": ["$ended_at", False]}, "$expires_at", "$$NOW"]},
            "ended_at": {"$ifNull": ["$ended_at", "$$NOW"]},
        }
    },
    {"$unset": "data"},
)


def save_session(session_id: str | int, data: dict[str, Any], *, keeper: Keeper | None = None) -> None:
    """Save a session for another 30 minutes. When this returns, MongoDB holds it (majority) and the key is filled.

    Args:
        session_id: the session's id.
        data: an object that JSON and JavaScript do not change.
        keeper: a keeper with clients or settings of your own; default: the one for the environment.

    Raises:
        InvalidId: `session_id` cannot be an id.
        InvalidValue: JSON or JavaScript would change `data`, or it is too large; the error's field is the path to the
            wrong part.
        SessionEnded: the session has been logged out.
        WriteRefused: a validator or a unique index of the collection forbids the session, or its document would be too
            large; nothing was written.
        DatabaseUnavailable: MongoDB failed; it is not known whether the session was written.
        PersistedNotCached: MongoDB has the session, but Redis failed. Try again; it is safe.
    """
    keeper = given_or_default(keeper)
    part = check_id(session_id, "session_id")
    if not isinstance(data, dict):
        raise InvalidValue("data", f"must be an object, got {type(data).__name__}")
    check_json(data, "data")
    size, limit = len(SESSION.codec.encode(data)), keeper.settings.value_limit_bytes
    if size > limit:
        raise InvalidValue("data", f"is {size} bytes as JSON, but CACHEKEEPER_VALUE_LIMIT_BYTES allows only {limit}")
    end = {"$add": ["$$NOW", TTL_SECONDS * 1000]}
    try:
        keeper.save(SESSION, part, {"data": data}, computed={"expires_at": end}, final="ended_at", field="session_id")
    except DocumentEnded as error:
        text = _ENDED_MEANWHILE if error.meanwhile else _ENDED
        raise SessionEnded(text, meanwhile=error.meanwhile) from error


def read_session(session_id: str | int, *, keeper: Keeper | None = None) -> dict[str, Any] | None:
    """The data that was saved in a session, by this library or by another service.

    Args:
        session_id: the session's id.
        keeper: a keeper with clients or settings of your own; default: the one for the environment.

    Returns:
        The data, or None: the session does not exist, has expired, or has ended. None never means an outage.

    Raises:
        InvalidId: `session_id` cannot be an id.
        DamagedValue: another process wrote something else at the key; it is left unchanged.
        DamagedDocument: the session's document in MongoDB cannot be read.
        CacheUnavailable: Redis is down, and MongoDB does not have the session; only Redis may have it.
        Unavailable: neither Redis nor MongoDB answered within the time limit (`DatabaseUnavailable`, `Overloaded`).
    """
    data = given_or_default(keeper).read(SESSION, session_id, "session_id")
    return None if data is ABSENT else data
