"""The meaning of MongoDB's errors: an outage, a refusal with its cure, or a write that MongoDB will never accept."""

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
    """Limit the block to `seconds`, and turn pymongo's errors into `DatabaseUnavailable`.

    The message names the code of a refusal or of a temporary failure, and the cure if there is one. The server's own
    text is only in the cause: it may quote a document.

    Args:
        doing: the operation, for the message.
        seconds: for the whole block; 0: no limit.
        collection: the name of the collection that is used.
    """
    try:
        with pymongo.timeout(seconds):
            yield
    except OperationFailure as error:
        raise unavailable(error, doing, collection) from error
    except PyMongoError as error:
        raise DatabaseUnavailable(f"MongoDB failed while {doing} ({type(error).__name__})") from error
    except AttributeError as error:
        # If a primary is deposed before a majority has a write, its reply contains a write concern error. pymongo adds
        # a label to this error as to a dictionary, which fails for a raw document.
        if not isinstance(error.obj, RawBSONDocument):
            raise
        raise DatabaseUnavailable(f"MongoDB failed while {doing} (a write concern error)") from error


_DUPLICATE_KEY = 11000
TOO_LARGE = 10334
_PASSING = frozenset({
    *(6, 7, 89, 202, 9001),  # a host, or the network between members, failed
    *(91, 189, 10058, 10107, 11600, 11602, 13435, 13436),  # the primary steps down or shuts down
    *(50, 262),  # a time limit is over
    *(64, 100, 133, 134),  # too few members for a read or write concern, for now
    *(24, 46, 112, 117, 251, 290),  # a conflict with another operation on the same data
    *(12586, 12587, 276),  # another index build runs, or a failover ended the build
    *(43, 175, 237, 11601),  # a cursor or an operation was ended
    *(146, 279, 461, 462),  # the server is short of memory or threads
})  # fmt: skip
_PASSING_LABELS = ("RetryableWriteError", "TransientTransactionError", "SystemOverloadedError")


def is_passing(error: OperationFailure) -> bool:
    """Whether the same operation may succeed later, with nothing changed: an outage, not a refusal.

    Args:
        error: the error that pymongo raised. After a write concern error, the write is done, but perhaps not on a
            majority.
    """
    first = _first(error)
    return (
        first.code in _PASSING
        or isinstance(first, ExecutionTimeout | WriteConcernError)
        # A duplicate in `_id` or in an unknown index: another process has just made the document.
        or (first.code == _DUPLICATE_KEY and _is_of_the_id(first.details or {}))
        or any(each.has_error_label(label) for each in (error, first) for label in _PASSING_LABELS)
    )


class QueryRefused(DatabaseUnavailable):
    """MongoDB refuses a query because of its content, and would refuse it again: a wrong query, not an outage."""


_QUERY_ERRORS = frozenset({
    *(2, 9, 14, 15, 16, 22, 52, 56, 57),  # values, types and names that a query operator does not accept
    *(28, 168, 241, 31249),  # paths, expressions and conversions
    *(27, 291),  # $text or $near without an index
    *(139, 292),  # a script that fails, a sort that needs too much memory
})  # fmt: skip


def query_refusal(error: OperationFailure) -> QueryRefused | None:
    """Return the error for a query that MongoDB refuses because of its content; None for any other failure."""
    # An error without its own name is named after its place in the server's source. Most of these come from parsers.
    name = str((error.details or {}).get("codeName"))
    if is_passing(error) or not (error.code in _QUERY_ERRORS or name.startswith("Location")):
        return None
    return QueryRefused(f"MongoDB refuses its query ({_what(error)}): correct the query")


def _first(error: OperationFailure) -> OperationFailure:
    """The error of the first write that failed in a command. pymongo's own code for several writes says nothing."""
    if not isinstance(error, BulkWriteError):
        return error
    details = error.details
    for name, kind in (("writeErrors", WriteError), ("writeConcernErrors", WriteConcernError)):
        for said in details.get(name, ()):
            return kind(str(said.get("errmsg")), said.get("code"), said)
    return error


def _is_of_the_id(said: Mapping[str, Any]) -> bool:
    """Whether a duplicate is in `_id`. Servers before 4.2 do not say which index it is in; then `_id` is assumed."""
    return [*said.get("keyPattern", ["_id"])] == ["_id"]


_UNAUTHORIZED, _AUTHENTICATION_FAILED, _ATLAS = 13, 18, 8000
# A caller may pass a database of its own client. That client does not log in with the setting.
_WHERE = "CACHEKEEPER_MONGODB_URL, or your own MongoClient if you passed its database"
_NO_LOGIN = f"this connection does not log in: give a user and a password in {_WHERE}"
_WRONG_LOGIN = f"the user, the password or the authSource of this connection is wrong: correct it in {_WHERE}"
_ORDINARY = "replace it with an ordinary collection of that name, which cachekeeper needs"
_IS_TOO_LARGE = "the document would be larger than MongoDB allows"
# By code. If one code has several causes, also by a part of the server's text in lower case.
_CURES: tuple[tuple[int, str, str], ...] = (
    (
        _UNAUTHORIZED,
        "",
        "the user of this connection lacks a role: grant it readWrite and dbAdmin on this database",
    ),
    (20, "capped", f"{{collection}} is a capped collection: {_ORDINARY}"),
    (67, "capped", f"{{collection}} is a capped collection: {_ORDINARY}"),
    (67, "too many indexes", "{collection} has as many indexes as MongoDB allows: drop one of them"),
    (72, "time-series", f"{{collection}} is a time series collection: {_ORDINARY}"),
    (73, "", "MongoDB does not allow a collection named {collection} in this database: choose another name"),
    (85, "", "the index {index} on the same fields has other options: drop that index"),
    (86, "", "the index {index} has the name of cachekeeper's index, but differs from it: drop that index"),
    (
        121,
        "",
        "the validator of {collection} forbids what cachekeeper writes: change or remove the validator",
    ),
    (166, "", f"{{collection}} is a view: {_ORDINARY}"),
    (10003, "", f"{{collection}} is a capped collection: {_ORDINARY}"),
    (TOO_LARGE, "", _IS_TOO_LARGE),
    (_DUPLICATE_KEY, "", "the unique index {index} of {collection} forbids what cachekeeper writes: drop that index"),
    (14031, "", "the disk of the MongoDB server is full: free space on it"),
    (17419, "", _IS_TOO_LARGE),
    (17420, "", _IS_TOO_LARGE),
)
_INDEX = re.compile(r'existing index: .*?name: "([^"]+)"|different name: (\S+)|index: (\S+) dup key')
# The names that the server leaves out if a command has several writes.
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
    """Make the error for a refusal or a temporary failure of MongoDB, with its code, the collection, and the cure.

    Args:
        error: the error that pymongo raised. If several writes failed, the first counts.
        doing: the operation, for the message.
        collection: the name of the collection; "" if `doing` names it.
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
    """The cure if the server does not accept the user, or the connection has none; else None. All work stops then."""
    said = str((error.details or {}).get("errmsg") or error).lower()
    if error.code == _AUTHENTICATION_FAILED or (error.code == _ATLAS and said.startswith("bad auth")):
        return _WRONG_LOGIN  # Atlas uses one code for many errors: a full quota, a forbidden command
    if error.code == _UNAUTHORIZED and ("requires authentication" in said or "no users authenticated" in said):
        return _NO_LOGIN
    return None


_REFUSALS = {
    121: "the validator of the collection forbids it; change the document or the validator",
    _DUPLICATE_KEY: "a unique index of the collection forbids it; change the document or the index",
    TOO_LARGE: _IS_TOO_LARGE,
    17419: _IS_TOO_LARGE,
    17420: _IS_TOO_LARGE,
}


def is_refused(said: Mapping[str, Any]) -> bool:
    """Whether MongoDB refuses a write because of its content. Trust this only at the second attempt.

    A validator can reject an upsert before MongoDB finds that the document exists: another process, or another write of
    the same command, has just made it. If a member was added to the replica set later, an index other than that of
    `_id` can do so too. And the other document of a duplicate may be gone at the second attempt.

    Args:
        said: the server's error.
    """
    return said.get("code") in _REFUSALS


def refusal(collection: str, said: Mapping[str, Any]) -> WriteRefused | None:
    """Return the permanent refusal in this error, or None if MongoDB may accept the write later.

    Args:
        collection: the name of the collection that was written to.
        said: the server's error at the second attempt.
    """
    code = said.get("code")
    if code not in _REFUSALS or (code == _DUPLICATE_KEY and _is_of_the_id(said)):
        return None
    refused = WriteRefused(f"a write to {collection} was refused: {_REFUSALS[code]} (code {code})")
    refused.__cause__ = server_error(said)
    return refused


def server_error(said: Mapping[str, Any]) -> WriteError:
    """Return the server's text as an exception, to be the cause of one of cachekeeper's errors.

    Leaves out the document, its id, and the values of a unique index, which may belong to another document.
    """
    words = str(said.get("errmsg")).partition(" dup key:")[0].partition(" First element:")[0]
    return WriteError(words, said.get("code"))
