"""MongoDB: its client, and reads by majority from the primary, within a time limit, no more at once than the cap."""

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
            QueryRefused: it refused for what the query says.
        """
        fields = None if find.fields is None else dict.fromkeys(("_id", *find.fields), 1)
        try:
            with database_errors(f"reading {find.collection}", self.timeout, find.collection):
                cursor = self.database[find.collection].find(find.filter, fields, limit=find.limit)
                # In the order of `_id`, so that one text gives one answer, cached or not.
                return list(cursor if find.limit == 1 else cursor.sort("_id", 1))
        except DatabaseUnavailable as error:
            cause = error.__cause__
            if isinstance(cause, OperationFailure) and (refused := query_refusal(cause)):
                raise refused from cause
            raise


def check_database(database: object) -> None:
    """Refuse, with a `TypeError`, what is no synchronous database of pymongo."""
    check_given(
        database, "database", Database, cure='that of a synchronous client: MongoClient(url), then client["shop"]'
    )


def majority(database: Database[Any], read_concern: str = "majority") -> Database[Any]:
    """`database` with the concerns that the protocol rests on, and the types that a Node.js service sees."""
    return database.with_options(
        codec_options=LEAN_CODEC_OPTIONS,
        read_preference=ReadPreference.PRIMARY,
        read_concern=ReadConcern(read_concern),
        write_concern=WriteConcern("majority"),
    )


def connect_mongodb(url: str, timeout: float) -> Database[Any]:
    """The database that `url` names; its client connects at first use.

    Args:
        url: as in the settings, with the database in its path.
        timeout: seconds for connecting. Each operation has a limit of its own.

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
        raise SettingsError(f"CACHEKEEPER_MONGODB_URL: cannot be used ({type(error).__name__})") from None
