"""Making an index of MongoDB: at once or in the background, with a refusal that names its cure."""

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

_NO_LIMIT = 0.0  # of `pymongo.timeout`; it also lifts the one that a client of the caller's own may have


class IndexRefused(CachekeeperError):
    """MongoDB does not make an index. Whoever meets it goes on without the index, and says what that costs."""


class ExpiringIndex(IndexRefused):
    """An index makes MongoDB delete what must stay. It is an operator's, and is not dropped for them."""


def ensure_index(collection: Collection[Any], field: str, *, timeout: float, expire_seconds: int | None = None) -> None:
    """Make an ascending index on one field, or give the one that is there the right time.

    An index on that field which somebody else made serves as well, whatever its name, unique or not, if it holds all
    documents: a partial one does not, and ours is then made beside it. A sparse or hidden one deletes what has expired,
    but answers no query for what has no time yet.

    Returns when the index is built, however long that takes. `BackgroundIndex` does the same without waiting.

    Args:
        collection: of which database and name.
        field: a top-level field.
        timeout: seconds for looking at the indexes that are there. Building has no limit.
        expire_seconds: MongoDB removes documents so long after the date in `field`; None: it must remove none of the
            collection, and the index is for queries.

    Raises:
        ExpiringIndex: with `expire_seconds` None: an index of the collection, on whatever field, removes documents.
        IndexRefused: MongoDB refuses it, and would the next time; the message names the cure.
        DatabaseUnavailable: an outage, or a wrong password: nothing else would work either.
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
    """The options of the index to build; None: there is one, which may still be under construction."""
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
    # A limit would reach the server as maxTimeMS, and end the build: the next attempt would read the collection from
    # its beginning, and never come to its end.
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
                f"the index {index['name']} of the collection {collection.name} has expireAfterSeconds: MongoDB "
                "deletes events that were not published: drop that index"
            )
    usable = [index for index in existing if _is_on_all(index, field) and not index.get("sparse")]
    # MongoDB makes no second index that differs in nothing else.
    if usable and all(index.get("hidden") for index in usable):
        raise IndexRefused(
            f"the index {usable[0]['name']} of the collection {collection.name} is hidden, and MongoDB makes no other "
            "on the same field: unhide it or drop it"
        )
    return bool(usable)


def _is_on_all(index: Mapping[str, Any], field: str) -> bool:
    return dict(index["key"]) == {field: 1} and "partialFilterExpression" not in index


class _Build(threading.Thread):
    """One `createIndexes`, in a daemon thread: the end of the process does not wait for it."""

    def __init__(self, collection: Collection[Any], field: str, options: Mapping[str, Any]) -> None:
        super().__init__(name=f"cachekeeper: index {collection.name}.{field}", daemon=True)
        self._make = partial(_create, collection, field, options)
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self._make()
        except BaseException as error:  # noqa: BLE001  # raised by the look that finds the build ended
            self.error = error


class BackgroundIndex:
    """Makes an index, as `ensure_index`, and lets the caller go on while it is built. For one thread.

    A build that is under way is not begun a second time. That it takes long is logged once.

    Args:
        collection: of which database and name.
        field, expire_seconds: as for `ensure_index`.
        timeout: seconds for one look.
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
        """Whether the log says that it is being built."""

    def run_once(self) -> bool:
        """Look whether the index is there; begin to build it if not; and wait a little for the end.

        Returns:
            Whether it is there; False: it is still being built.

        Raises:
            As `ensure_index`. The next look tries again.
        """
        deadline = time.monotonic() + self._timeout
        # Also during a build: an index that deletes what must stay is told then, too.
        options = _missing(self._collection, self._field, self._timeout, self._expire_seconds)
        if self._build is None:
            # MongoDB also lists an index that another process is building. That one is taken for made.
            if options is None:
                return True
            build = _Build(self._collection, self._field, options)
            build.start()
            self._build = build
        self._build.join(max(0.0, deadline - time.monotonic()))
        if self._build.is_alive():
            if not self.took_long:
                logger.warning(
                    "MongoDB still builds the index on %s.%s after %g s; nothing waits for it",
                    *(self._collection.name, self._field, self._timeout),
                )
            self.took_long = True
            return False
        build, self._build = self._build, None
        if build.error is not None:
            raise build.error
        return True
