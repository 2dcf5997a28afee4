"""The indexes that cachekeeper makes: those that remove what has expired, and the outbox's."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, ClassVar

from pymongo.errors import OperationFailure

from cachekeeper.database import database_errors, is_passing, wrong_login
from cachekeeper.errors import CachekeeperError, DatabaseUnavailable
from cachekeeper.metrics import COUNTERS, logger
from cachekeeper.periodic import PeriodicThread

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pymongo.collection import Collection

    from cachekeeper.keeper import Keeper
    from cachekeeper.registry import TtlIndex


class IndexRefused(CachekeeperError):
    """MongoDB does not make an index. Whoever meets it goes on without the index, and says what that costs."""


class ExpiringIndex(IndexRefused):
    """An index makes MongoDB delete what must stay. It is an operator's, and is not dropped for them."""


def ensure_index(collection: Collection[Any], field: str, *, timeout: float, expire_seconds: int | None = None) -> None:
    """Make an ascending index on one field, or give the one that is there the right time.

    An index on that field which somebody else made serves as well, whatever its name, unique or not, if it holds all
    documents: a partial one does not, and ours is then made beside it. A sparse or hidden one deletes what has expired,
    but answers no query for what has no time yet.

    Args:
        collection: of which database and name.
        field: a top-level field.
        timeout: seconds for all of it.
        expire_seconds: MongoDB removes documents so long after the date in `field`; None: it must remove none of the
            collection, and the index is for queries.

    Raises:
        ExpiringIndex: with `expire_seconds` None: an index of the collection, on whatever field, removes documents.
        IndexRefused: MongoDB refuses it, and would the next time; the message names the cure.
        DatabaseUnavailable: an outage, or a wrong password: nothing else would work either.
    """
    try:
        with database_errors(f"indexing {collection.name}.{field}", timeout, collection.name):
            if expire_seconds is None:
                _ensure_plain(collection, field)
            else:
                _ensure_expiring(collection, field, expire_seconds)
    except IndexRefused:
        COUNTERS.add("index_refused")
        raise
    except DatabaseUnavailable as error:
        cause = error.__cause__
        if not isinstance(cause, OperationFailure) or is_passing(cause) or wrong_login(cause):
            raise
        COUNTERS.add("index_refused")
        raise IndexRefused(str(error)) from cause


def _ensure_expiring(collection: Collection[Any], field: str, seconds: int) -> None:
    existing = list(collection.list_indexes())
    for index in existing:
        if _is_on_all(index, field):
            if index.get("expireAfterSeconds") != seconds:
                change = {"name": index["name"], "expireAfterSeconds": seconds}
                collection.database.command("collMod", collection.name, index=change)
            return
    _create(collection, field, existing, expireAfterSeconds=seconds)


def _ensure_plain(collection: Collection[Any], field: str) -> None:
    existing = list(collection.list_indexes())
    for index in existing:
        if "expireAfterSeconds" in index:
            raise ExpiringIndex(
                f"the index {index['name']} of the collection {collection.name} has expireAfterSeconds: MongoDB "
                "deletes events that were not published: drop that index"
            )
    usable = [index for index in existing if _is_on_all(index, field) and not index.get("sparse")]
    if any(not index.get("hidden") for index in usable):
        return
    if usable:  # MongoDB makes no second one that differs in nothing else
        raise IndexRefused(
            f"the index {usable[0]['name']} of the collection {collection.name} is hidden, and MongoDB makes no other "
            "on the same field: unhide it or drop it"
        )
    _create(collection, field, existing)


def _is_on_all(index: Mapping[str, Any], field: str) -> bool:
    return dict(index["key"]) == {field: 1} and "partialFilterExpression" not in index


def _create(collection: Collection[Any], field: str, existing: Iterable[Mapping[str, Any]], **options: Any) -> None:
    if f"{field}_1" in {index["name"] for index in existing}:  # the name that MongoDB would choose
        collection.create_index(field, name=f"cachekeeper_{field}", **options)
    else:
        collection.create_index(field, **options)


class PlainIndex:
    """The index of a collection of which MongoDB must delete nothing. For one thread.

    It is looked at again and again: an operator may add a time to live, or drop the index, at any time.

    Args:
        collection: of which database and name.
        field: a top-level field.
        timeout: seconds for one look.
        without: what goes on while MongoDB refuses the index, and at what cost; a sentence for the log.
    """

    look_seconds: ClassVar[float] = 60.0

    def __init__(self, collection: Collection[Any], field: str, *, timeout: float, without: str) -> None:
        self._collection = collection
        self._field = field
        self._timeout = timeout
        self._without = without
        self._look_at = 0.0
        self._said = ""

    def look(self) -> None:
        """Make the index if it is missing; once in `look_seconds`, and otherwise nothing.

        A refusal is logged once for each cause. That documents are being deleted is logged at every look.

        Raises:
            DatabaseUnavailable: an outage.
        """
        now = time.monotonic()
        if now < self._look_at:
            return
        # Of an outage too: an index that takes longer than the limit to build must not keep all else waiting.
        self._look_at = now + self.look_seconds
        try:
            ensure_index(self._collection, self._field, timeout=self._timeout)
        except ExpiringIndex as error:
            logger.error("%s. This is looked at every %d s", error, self.look_seconds)
            self._said = str(error)
        except IndexRefused as error:
            if self._said != str(error):
                logger.error("%s. %s", error, self._without)
            self._said = str(error)
        else:
            if self._said:
                logger.warning("the index on %s.%s is as it must be now", self._collection.name, self._field)
            self._said = ""


class IndexKeeper(PeriodicThread):
    """Makes the TTL indexes of a worker, and tries again what MongoDB refused.

    No event waits for them: they only remove what has expired, which no reader takes for living. After a role has been
    granted, or an index in the way dropped, the worker needs no restart.

    Args:
        keeper: whose database.
        indexes: which.
    """

    look_seconds = 60.0
    backoff_seconds = 5.0

    def __init__(self, keeper: Keeper, indexes: Iterable[TtlIndex]) -> None:
        super().__init__("MongoDB", "making the TTL indexes", "index_look_failed")
        self._keeper = keeper
        self._missing = list(indexes)
        self._refused: dict[TtlIndex, str] = {}

    def look(self) -> None:
        """Make the indexes that are still missing.

        Raises:
            DatabaseUnavailable: MongoDB is away.
        """
        for index in [*self._missing]:
            try:
                self._make(index)
            except IndexRefused as error:
                if self._refused.get(index) != str(error):
                    logger.error("%s. Events are applied all the same; expired documents stay until it is made", error)
                self._refused[index] = str(error)
            else:
                self._missing.remove(index)
                if self._refused.pop(index, None):
                    logger.warning("the index on %s.%s is made now", index.collection, index.field)

    def _make(self, index: TtlIndex) -> None:
        settings = self._keeper.settings
        ensure_index(
            self._keeper.database[index.collection],
            index.field,
            timeout=settings.load_timeout_seconds,
            expire_seconds=round(index.seconds(settings)),
        )
