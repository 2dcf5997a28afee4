"""Reading MongoDB: the primary, majority, within a time limit, and never more reads at once than the cap."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pymongo
from bson.raw_bson import RawBSONDocument
from pymongo import ReadPreference, WriteConcern
from pymongo.errors import PyMongoError
from pymongo.read_concern import ReadConcern

from cachekeeper.errors import DatabaseUnavailable, Overloaded, WriteRefused
from cachekeeper.lean import LEAN_CODEC_OPTIONS

if TYPE_CHECKING:
    from pymongo.database import Database

    from cachekeeper.loaders import Find, StoredDocument


@contextmanager
def database_errors(doing: str, seconds: float) -> Iterator[None]:
    """Bound what is done inside to `seconds`, and turn what pymongo raises into `DatabaseUnavailable`.

    The text of a server's error is kept as the cause only: it may quote a document.
    """
    try:
        with pymongo.timeout(seconds):
            yield
    except PyMongoError as error:
        raise DatabaseUnavailable(f"MongoDB failed while {doing} ({type(error).__name__})") from error
    except AttributeError as error:
        # A primary that is deposed before a majority has a write says so beside the write's answer, and pymongo adds a
        # label to that as to a dictionary: a raw document is none.
        if not isinstance(error.obj, RawBSONDocument):
            raise
        raise DatabaseUnavailable(f"MongoDB failed while {doing} (a write concern error)") from error


_DUPLICATE_KEY = 11000
_REFUSALS = {
    121: "the validator of the collection forbids it",
    _DUPLICATE_KEY: "a unique index of the collection forbids it",
    10334: "the document would be larger than MongoDB allows",
}


def refusal(collection: str, said: Mapping[str, Any]) -> WriteRefused | None:
    """What MongoDB will say of a write however often it is asked; None where it may take it another time.

    Args:
        collection: the name of the one that was written to.
        said: the error as the server words it, with its `code`.
    """
    code = said["code"]
    if code not in _REFUSALS:
        return None
    # Two that insert the same document: the second finds it when it tries again. Servers before 4.2 do not say which
    # index it is.
    if code == _DUPLICATE_KEY and [*said.get("keyPattern", ["_id"])] == ["_id"]:
        return None
    return WriteRefused(f"a write to {collection} was refused: {_REFUSALS[code]} (code {code})")


class DatabaseReads:
    """Loads for readers.

    A lagging secondary, or a value that a failover rolls back, would be cached with a version that the next change
    repeats; so loads ask the primary, with read concern `majority` or `linearizable`.

    Args:
        database: any pymongo database; its own concerns are overridden.
        timeout: seconds for one read.
        concurrency: reads at once. One Redis that lost everything must not bring MongoDB down, too.
        read_concern: `majority` or `linearizable`.
    """

    def __init__(self, database: Database[Any], *, timeout: float, concurrency: int, read_concern: str) -> None:
        self.database = majority(database, read_concern)
        self.timeout = timeout
        self._slots = threading.BoundedSemaphore(concurrency)

    @contextmanager
    def slot(self, patience: float) -> Iterator[None]:
        """One of the reads that may run at once.

        Args:
            patience: seconds to wait for one.

        Raises:
            Overloaded: none came free.
        """
        if not self._slots.acquire(timeout=max(patience, 0)):
            raise Overloaded("too many database reads at once in this process (CACHEKEEPER_LOAD_CONCURRENCY)")
        try:
            yield
        finally:
            self._slots.release()

    def find(self, find: Find) -> list[StoredDocument]:
        """Run a query. The caller holds a slot.

        Raises:
            DatabaseUnavailable: MongoDB did not answer in time, or refused.
        """
        fields = None if find.fields is None else dict.fromkeys(("_id", *find.fields), 1)
        with database_errors(f"reading {find.collection}", self.timeout):
            cursor = self.database[find.collection].find(find.filter, fields, limit=find.limit)
            # In the order of `_id`, so that one text gives one answer, cached or not.
            return list(cursor if find.limit == 1 else cursor.sort("_id", 1))


def majority(database: Database[Any], read_concern: str = "majority") -> Database[Any]:
    """`database` with the concerns that the protocol rests on, and the types that a Node.js service sees."""
    return database.with_options(
        codec_options=LEAN_CODEC_OPTIONS,
        read_preference=ReadPreference.PRIMARY,
        read_concern=ReadConcern(read_concern),
        write_concern=WriteConcern("majority"),
    )
