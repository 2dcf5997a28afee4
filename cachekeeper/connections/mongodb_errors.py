"""What MongoDB's errors mean: an outage, a refusal with its cure, or a write that it will never take."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pymongo
from bson.raw_bson import RawBSONDocument
from pymongo.errors import (
    BulkWriteError,
    ExecutionTimeout,
    OperationFailure,
    PyMongoError,
    WriteConcernError,
    WriteError,
)

from cachekeeper.errors import DatabaseUnavailable, WriteRefused


@contextmanager
def database_errors(doing: str, seconds: float, collection: str = "") -> Iterator[None]:
    """Bound what is done inside to `seconds`, and turn what pymongo raises into `DatabaseUnavailable`.

    What the server refused, and what it gave up for now, is named by its code, with the cure where there is one. The
    server's own text is kept as the cause only: it may quote a document.

    Args:
        doing: what, for the message.
        seconds: for all of it; 0: no limit.
        collection: the name of the one that is asked.
    """
    try:
        with pymongo.timeout(seconds):
            yield
    except OperationFailure as error:
        raise unavailable(error, doing, collection) from error
    except PyMongoError as error:
        raise DatabaseUnavailable(f"MongoDB failed while {doing} ({type(error).__name__})") from error
    except AttributeError as error:
        # A primary that is deposed before a majority has a write says so beside the write's answer, and pymongo adds a
        # label to that as to a dictionary: a raw document is none.
        if not isinstance(error.obj, RawBSONDocument):
            raise
        raise DatabaseUnavailable(f"MongoDB failed while {doing} (a write concern error)") from error


_DUPLICATE_KEY = 11000
TOO_LARGE = 10334
_PASSING = frozenset({
    *(6, 7, 89, 202, 9001),  # a host or the network between members
    *(91, 189, 10058, 10107, 11600, 11602, 13435, 13436),  # a primary that steps down or ends
    *(50, 262),  # a time limit
    *(64, 100, 133, 134),  # too few members for a concern, for now
    *(24, 46, 112, 117, 251, 290),  # others at work on the same
    *(12586, 12587, 276),  # an index build of another, or one that a failover ended
    *(43, 175, 237, 11601),  # a cursor or an operation that was ended
    *(146, 279, 461, 462),  # short of memory or of threads
})  # fmt: skip
_PASSING_LABELS = ("RetryableWriteError", "TransientTransactionError", "SystemOverloadedError")


def is_passing(error: OperationFailure) -> bool:
    """Whether the server may well do the same another time, with nothing changed: an outage, no refusal.

    Args:
        error: what pymongo raised. Of a write concern the write is made, but perhaps not by a majority.
    """
    first = _first(error)
    return (
        first.code in _PASSING
        or isinstance(first, ExecutionTimeout | WriteConcernError)
        # Of `_id`, or of what is not known: another process made the document meanwhile.
        or (first.code == _DUPLICATE_KEY and _is_of_the_id(first.details or {}))
        or any(each.has_error_label(label) for each in (error, first) for label in _PASSING_LABELS)
    )


class QueryRefused(DatabaseUnavailable):
    """MongoDB refuses a query for what it says, and will do so again. No outage, but a mistake of who wrote it."""


_QUERY_ERRORS = frozenset({
    *(2, 9, 14, 15, 16, 22, 52, 56, 57),  # values, types and names that an operator does not take
    *(28, 168, 241, 31249),  # paths, expressions and what they convert
    *(27, 291),  # $text and $near without an index
    *(139, 292),  # a script that fails, a sort that needs too much memory
})  # fmt: skip


def query_refusal(error: OperationFailure) -> QueryRefused | None:
    """The error for a query that MongoDB refuses for what it says; None where it refused for anything else."""
    # Whatever has no name is called after the place in the server's source: it is the parsers that have so many.
    name = str((error.details or {}).get("codeName"))
    if is_passing(error) or not (error.code in _QUERY_ERRORS or name.startswith("Location")):
        return None
    return QueryRefused(f"MongoDB refuses its query ({_what(error)})")


def _first(error: OperationFailure) -> OperationFailure:
    """Of several writes in one command, the first that failed. pymongo's own code for all of them says nothing."""
    if not isinstance(error, BulkWriteError):
        return error
    details = error.details
    for name, kind in (("writeErrors", WriteError), ("writeConcernErrors", WriteConcernError)):
        for said in details.get(name, ()):
            return kind(str(said.get("errmsg")), said.get("code"), said)
    return error


def _is_of_the_id(said: Mapping[str, Any]) -> bool:
    """Whether a duplicate is of `_id`. Servers before 4.2 do not say which index it is."""
    return [*said.get("keyPattern", ["_id"])] == ["_id"]


_UNAUTHORIZED, _AUTHENTICATION_FAILED, _ATLAS = 13, 18, 8000
# Where the database came with a client of the caller's own, the setting is not what it logs in by.
_WHERE = "CACHEKEEPER_MONGODB_URL, or your own MongoClient if you passed its database"
_NO_LOGIN = f"this connection logs in as no user: give a user and its password in {_WHERE}"
_WRONG_LOGIN = (
    f"the user that this connection logs in as, its password or its authSource is wrong: correct it in {_WHERE}"
)
_ORDINARY = "cachekeeper needs an ordinary collection of that name"
_IS_TOO_LARGE = "the document would be larger than MongoDB allows"
# By code, and a part of the server's text in small letters where one code is for several causes.
_CURES: tuple[tuple[int, str, str], ...] = (
    (
        _UNAUTHORIZED,
        "",
        "the user that this connection logs in as lacks a role: grant it readWrite and dbAdmin on this database",
    ),
    (20, "capped", f"{{collection}} is a capped collection: {_ORDINARY}"),
    (67, "capped", f"{{collection}} is a capped collection: {_ORDINARY}"),
    (67, "too many indexes", "{collection} has as many indexes as MongoDB allows: drop one of them"),
    (72, "time-series", f"{{collection}} is a time series collection: {_ORDINARY}"),
    (73, "", "MongoDB allows no collection {collection} in this database: choose another name"),
    (85, "", "the index {index} on the same fields has other options: drop that index"),
    (86, "", "the index {index} has the name that cachekeeper's would have, and differs: drop that index"),
    (
        121,
        "",
        "the validator of {collection} forbids what cachekeeper writes: remove it, or let it allow that",
    ),
    (166, "", f"{{collection}} is a view: {_ORDINARY}"),
    (10003, "", f"{{collection}} is a capped collection: {_ORDINARY}"),
    (TOO_LARGE, "", _IS_TOO_LARGE),
    (_DUPLICATE_KEY, "", "the unique index {index} of {collection} forbids what cachekeeper writes: drop that index"),
    (14031, "", "the disk of the server is full: make room"),
    (17419, "", _IS_TOO_LARGE),
    (17420, "", _IS_TOO_LARGE),
)
_INDEX = re.compile(r'existing index: .*?name: "([^"]+)"|different name: (\S+)|index: (\S+) dup key')
# What the server leaves out where a write is one of several.
_NAMES = {
    13: "Unauthorized",
    20: "IllegalOperation",
    72: "InvalidOptions",
    73: "InvalidNamespace",
    112: "WriteConflict",
    121: "DocumentValidationFailure",
    166: "CommandNotSupportedOnView",
    TOO_LARGE: "BSONObjectTooLarge",
    _DUPLICATE_KEY: "DuplicateKey",
    14031: "OutOfDiskSpace",
}


def unavailable(error: OperationFailure, doing: str, collection: str = "") -> DatabaseUnavailable:
    """What MongoDB refused, or failed at for now: its code, the collection, and the cure.

    Args:
        error: what pymongo raised; of several writes the first that failed counts.
        doing: what it was asked for.
        collection: whom that was about; "" where `doing` says so.
    """
    first = _first(error)
    what = _what(first)
    login = wrong_login(first)
    if collection and not login and not re.search(rf"(?<!\S){re.escape(collection)}\b", doing):
        what += f", collection {collection}"
    if is_passing(error):
        return DatabaseUnavailable(f"MongoDB failed while {doing} ({what})")
    cure = login or _cure(first, collection)
    return DatabaseUnavailable(f"MongoDB refused while {doing} ({what}){f': {cure}' if cure else ''}")


def _what(error: OperationFailure) -> str:
    name = (error.details or {}).get("codeName") or _NAMES.get(error.code or 0) or type(error).__name__
    return name if error.code is None else f"{name}, code {error.code}"


def _cure(error: OperationFailure, collection: str) -> str:
    said = str((error.details or {}).get("errmsg") or error)
    for code, part, cure in _CURES:
        if code == error.code and part in said.lower():
            found = _INDEX.search(said)
            index = next(filter(None, found.groups())) if found else "in the way"
            return cure.format(collection=collection or "the collection", index=index)
    return ""


def wrong_login(error: OperationFailure) -> str | None:
    """The cure, where the server knows no such user or was given none; None otherwise. Nothing works then."""
    said = str((error.details or {}).get("errmsg") or error).lower()
    if error.code == _AUTHENTICATION_FAILED or (error.code == _ATLAS and said.startswith("bad auth")):
        return _WRONG_LOGIN  # Atlas has one code for much: over the space quota, a command it does not allow
    if error.code == _UNAUTHORIZED and ("requires authentication" in said or "no users authenticated" in said):
        return _NO_LOGIN
    return None


_REFUSALS = {
    121: "the validator of the collection forbids it",
    _DUPLICATE_KEY: "a unique index of the collection forbids it",
    TOO_LARGE: _IS_TOO_LARGE,
    17419: _IS_TOO_LARGE,
    17420: _IS_TOO_LARGE,
}


def is_refused(said: Mapping[str, Any]) -> bool:
    """Whether MongoDB refuses a write for what it says. To be believed only the second time.

    A validator, and where a member was added later other indexes than that of `_id`, too, judge what an upsert would
    make before the document is found to be there: made a moment ago by somebody else, or by another write of the same
    command. And what a duplicate is of may be gone by then.

    Args:
        said: the error as the server words it.
    """
    return said.get("code") in _REFUSALS


def refusal(collection: str, said: Mapping[str, Any]) -> WriteRefused | None:
    """What MongoDB will say of a write however often it is asked; None where it may take it another time.

    Args:
        collection: the name of the one that was written to.
        said: the error as the server words it, the second time.
    """
    code = said.get("code")
    if code not in _REFUSALS or (code == _DUPLICATE_KEY and _is_of_the_id(said)):
        return None
    refused = WriteRefused(f"a write to {collection} was refused: {_REFUSALS[code]} (code {code})")
    refused.__cause__ = server_error(said)
    return refused


def server_error(said: Mapping[str, Any]) -> WriteError:
    """The server's words, as the cause of an error of ours.

    Without what was to be written, without its id, and without the values of a unique index: they may be another
    document's.
    """
    words = str(said.get("errmsg")).partition(" dup key:")[0].partition(" First element:")[0]
    return WriteError(words, said.get("code"))
