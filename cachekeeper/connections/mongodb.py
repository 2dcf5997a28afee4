"""The MongoDB client, and loads: majority reads from the primary, with a time limit and a cap on concurrent reads."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pymongo import MongoClient, ReadPreference, WriteConcern
from pymongo.database import Database
from pymongo.errors import OperationFailure, PyMongoError
from pymongo.read_concern import ReadConcern

from cachekeeper.connections.mongodb_errors import database_errors, query_refusal
from cachekeeper.errors import DatabaseUnavailable, Overloaded, SettingsError
from cachekeeper.values.argument_checks import check_given
from cachekeeper.values.mongoose_json import LEAN_CODEC_OPTIONS
from cachekeeper.values.urls.checking import checked
from cachekeeper.values.urls.mongodb_url import mongodb_url

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cachekeeper.model.sources import Find, StoredDocument


class DatabaseReads:
    """Loads for readers.

    Loads ask the primary, with read concern `majority` or `linearizable`. Otherwise a reader could cache the value of a
    lagging secondary, or one that a failover rolls back, under a version that the next change uses again.

    Args:
        database: any pymongo database; its own concerns are overridden.
        timeout: seconds for one read.
        concurrency: the largest number of reads at the same time. A Redis that lost everything must not overload
            MongoDB as well.
        read_concern: `majority` or `linearizable`.
    """

    def __init__(self, database: Database[Any], *, timeout: float, concurrency: int, read_concern: str) -> None:
        self.database = majority(database, read_concern)
        self.timeout = timeout
        self._slots = threading.BoundedSemaphore(concurrency)

    @contextmanager
    def slot(self, patience: float) -> Iterator[None]:
        """Hold a slot for one of the reads that may run at the same time.

        Args:
            patience: seconds to wait for a slot.

        Raises:
            Overloaded: no slot became free in time.
        """
        if not self._slots.acquire(timeout=max(patience, 0)):
            raise Overloaded(
                "too many database reads at once in this process: retry later, or raise CACHEKEEPER_LOAD_CONCURRENCY"
            )
        try:
            yield
        finally:
            self._slots.release()

    def find(self, find: Find) -> list[StoredDocument]:
        """Run a query. The caller holds a slot.

        Raises:
            DatabaseUnavailable: MongoDB did not answer in time, or refused.
            QueryRefused: MongoDB refused the query because of its content.
        """
        fields = None if find.fields is None else dict.fromkeys(("_id", *find.fields), 1)
        try:
            with database_errors(f"reading {find.collection}", self.timeout, find.collection):
                cursor = self.database[find.collection].find(find.filter, fields, limit=find.limit)
                # Sorted by `_id`, so that the same text gets the same answer, cached or not.
                return list(cursor if find.limit == 1 else cursor.sort("_id", 1))
        except DatabaseUnavailable as error:
            cause = error.__cause__
            if isinstance(cause, OperationFailure) and (refused := query_refusal(cause)):
                raise refused from cause
            raise


def check_database(database: object) -> None:
    """Raise a `TypeError` unless `database` is a synchronous database of pymongo."""
    check_given(database, "database", Database, cure='a database of a synchronous MongoClient, such as client["shop"]')


def majority(database: Database[Any], read_concern: str = "majority") -> Database[Any]:
    """Return `database` with the concerns that the protocol needs, and the types that a Node.js service sees."""
    return database.with_options(
        codec_options=LEAN_CODEC_OPTIONS,
        read_preference=ReadPreference.PRIMARY,
        read_concern=ReadConcern(read_concern),
        write_concern=WriteConcern("majority"),
    )


def connect_mongodb(url: str, timeout: float) -> Database[Any]:
    """Return the database that `url` names. Its client connects at first use.

    Args:
        url: a URL as in the settings, with the database in its path.
        timeout: seconds for connecting. Each operation has its own limit.

    Raises:
        SettingsError: the URL cannot be used.
    """
    url = checked("MONGODB_URL", mongodb_url, url)
    limit = int(timeout * 1000)
    try:
        client: MongoClient[Any] = MongoClient(
            url,
            connect=False,
            connectTimeoutMS=limit,
            serverSelectionTimeoutMS=limit,
            appname="cachekeeper",
        )
        return client.get_default_database(codec_options=LEAN_CODEC_OPTIONS)
    except (PyMongoError, ValueError, TypeError) as error:
        raise SettingsError(
            f"CACHEKEEPER_MONGODB_URL: pymongo cannot use it ({type(error).__name__}): correct the URL"
        ) from None
