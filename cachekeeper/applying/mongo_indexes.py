"""Create MongoDB indexes, at once or in the background, with an error that names the cure if MongoDB refuses one."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from pymongo.errors import OperationFailure

from cachekeeper.connections.mongodb_errors import database_errors, is_passing, wrong_login
from cachekeeper.errors import CachekeeperError, DatabaseUnavailable
from cachekeeper.metrics import COUNTERS, logger

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pymongo.collection import Collection

_NO_LIMIT = 0.0  # for `pymongo.timeout`; it also lifts the limit of a client of the caller's own


class IndexRefused(CachekeeperError):
    """MongoDB refuses to create an index. The caller goes on without the index, and logs what that costs."""


class ExpiringIndex(IndexRefused):
    """An index makes MongoDB delete documents that must stay. An operator created it, so only an operator drops it."""


def ensure_index(collection: Collection[Any], field: str, *, timeout: float, expire_seconds: int | None = None) -> None:
    """Create an ascending index on one field, or set the right expiry time on an existing one.

    An existing index on that field is used if it holds all documents, whatever its name, and unique or not. A partial
    index does not hold all of them, so a second index is created beside it. A sparse or hidden index deletes expired
    documents, but it cannot answer a query for documents without a time.

    Returns when the index is built, and waits for that without a limit. `BackgroundIndex` does not wait.

    Args:
        collection: the collection to index.
        field: a top-level field.
        timeout: seconds for looking at the existing indexes. Building has no limit.
        expire_seconds: MongoDB removes a document this long after the date in `field`. None: the index is for queries,
            and MongoDB must not remove any document of the collection.

    Raises:
        ExpiringIndex: without `expire_seconds`: an index of the collection, on any field, removes documents.
        IndexRefused: MongoDB refuses the index, and would refuse it again; the message names the cure.
        DatabaseUnavailable: an outage, or a wrong password; nothing else would work either.
    """
    options = _missing(collection, field, timeout, expire_seconds)
    if options is not None:
        _create(collection, field, options)


@contextmanager
def _index_errors(collection: Collection[Any], field: str, seconds: float) -> Iterator[None]:
    try:
        with database_errors(f"indexing {collection.name}.{field}", seconds, collection.name):
            yield
    except IndexRefused:
        COUNTERS.add("index_refused")
        raise
    except DatabaseUnavailable as error:
        cause = error.__cause__
        if not isinstance(cause, OperationFailure) or is_passing(cause) or wrong_login(cause):
            raise
        COUNTERS.add("index_refused")
        raise IndexRefused(str(error)) from cause


def _missing(
    collection: Collection[Any], field: str, timeout: float, expire_seconds: int | None
) -> dict[str, Any] | None:
    """Return the options of the index to build; None if there is one, which may still be under construction."""
    with _index_errors(collection, field, timeout):
        existing = list(collection.list_indexes())
        if expire_seconds is None:
            found = _find_plain(existing, collection, field)
        else:
            found = _find_expiring(existing, collection, field, expire_seconds)
    if found:
        return None
    options: dict[str, Any] = {} if expire_seconds is None else {"expireAfterSeconds": expire_seconds}
    if f"{field}_1" in {index["name"] for index in existing}:  # the name that MongoDB would choose
        options["name"] = f"cachekeeper_{field}"
    return options


def _create(collection: Collection[Any], field: str, options: Mapping[str, Any]) -> None:
    # A time limit would reach the server as maxTimeMS and end the build. Each further attempt would read the collection
    # from its beginning again, and never finish.
    with _index_errors(collection, field, _NO_LIMIT):
        collection.create_index(field, **options)


def _find_expiring(
    existing: Sequence[Mapping[str, Any]], collection: Collection[Any], field: str, seconds: int
) -> bool:
    for index in existing:
        if _is_on_all(index, field):
            if index.get("expireAfterSeconds") != seconds:
                change = {"name": index["name"], "expireAfterSeconds": seconds}
                collection.database.command("collMod", collection.name, index=change)
            return True
    return False


def _find_plain(existing: Sequence[Mapping[str, Any]], collection: Collection[Any], field: str) -> bool:
    for index in existing:
        if "expireAfterSeconds" in index:
            raise ExpiringIndex(
                f"the index {index['name']} of the collection {collection.name} has expireAfterSeconds, so MongoDB "
                "deletes events that are not published yet: drop that index"
            )
    usable = [index for index in existing if _is_on_all(index, field) and not index.get("sparse")]
    # MongoDB refuses a second index that differs only in this.
    if usable and all(index.get("hidden") for index in usable):
        raise IndexRefused(
            f"the index {usable[0]['name']} of the collection {collection.name} is hidden, and MongoDB allows no second"
            " index on the same field: unhide it or drop it"
        )
    return bool(usable)


def _is_on_all(index: Mapping[str, Any], field: str) -> bool:
    return dict(index["key"]) == {field: 1} and "partialFilterExpression" not in index


class _Build(threading.Thread):
    """Runs one `createIndexes` in a daemon thread, so that the process can end without waiting for it."""

    def __init__(self, collection: Collection[Any], field: str, options: Mapping[str, Any]) -> None:
        super().__init__(name=f"cachekeeper: index {collection.name}.{field}", daemon=True)
        self._make = partial(_create, collection, field, options)
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self._make()
        except BaseException as error:  # noqa: BLE001  # raised by the next `run_once`
            self.error = error


class BackgroundIndex:
    """Creates an index as `ensure_index` does, but lets the caller go on while it is built. Use it from one thread.

    A build that is under way is not started again. If it takes long, this is logged once.

    Args:
        collection: the collection to index.
        field, expire_seconds: as for `ensure_index`.
        timeout: seconds for one `run_once`.
    """

    def __init__(
        self, collection: Collection[Any], field: str, *, timeout: float, expire_seconds: int | None = None
    ) -> None:
        self._collection = collection
        self._field = field
        self._timeout = timeout
        self._expire_seconds = expire_seconds
        self._build: _Build | None = None
        self.took_long = False
        """Whether it has been logged that the build takes long."""

    def run_once(self) -> bool:
        """Check whether the index exists, start to build it if not, and wait a little for the end.

        Returns:
            Whether the index exists; False while it is being built.

        Raises:
            As `ensure_index`. The next call tries again.
        """
        deadline = time.monotonic() + self._timeout
        # Checked during a build, too, so that an index which deletes documents that must stay is reported.
        options = _missing(self._collection, self._field, self._timeout, self._expire_seconds)
        if self._build is None:
            # MongoDB also lists an index that another process is still building. It counts as existing.
            if options is None:
                return True
            build = _Build(self._collection, self._field, options)
            build.start()
            self._build = build
        self._build.join(max(0.0, deadline - time.monotonic()))
        if self._build.is_alive():
            if not self.took_long:
                logger.warning(
                    "MongoDB is still building the index on %s.%s after %g s; everything else goes on meanwhile",
                    self._collection.name,
                    self._field,
                    self._timeout,
                )
            self.took_long = True
            return False
        build, self._build = self._build, None
        if build.error is not None:
            raise build.error
        return True
