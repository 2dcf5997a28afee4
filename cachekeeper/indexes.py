"""The indexes that cachekeeper makes: those that remove what has expired, and the outbox's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pymongo.errors import OperationFailure

from cachekeeper.database import database_errors, is_passing, wrong_login
from cachekeeper.errors import CachekeeperError, DatabaseUnavailable
from cachekeeper.metrics import COUNTERS, logger
from cachekeeper.periodic import PeriodicThread

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pymongo.collection import Collection

    from cachekeeper.keeper import Keeper
    from cachekeeper.registry import TtlIndex


class IndexRefused(CachekeeperError):
    """MongoDB does not make an index. Whoever meets it goes on without the index, and says what that costs."""


def ensure_index(collection: Collection[Any], field: str, *, timeout: float, expire_seconds: int | None = None) -> None:
    """Make an ascending index on one field, or give the one that is there the right time.

    An index on that field which somebody else made serves as well, whatever its name, unique or not, if it holds all
    documents: a partial one does not, and ours is then made beside it.

    Args:
        collection: of which database and name.
        field: a top-level field.
        timeout: seconds for all of it.
        expire_seconds: MongoDB removes documents so long after the date in `field`; None: never.

    Raises:
        IndexRefused: MongoDB refuses it, and would the next time; the message names the cure.
        DatabaseUnavailable: an outage, or a wrong password: nothing else would work either.
    """
    try:
        with database_errors(f"indexing {collection.name}.{field}", timeout):
            _ensure(collection, field, expire_seconds)
    except DatabaseUnavailable as error:
        cause = error.__cause__
        if not isinstance(cause, OperationFailure) or is_passing(cause) or wrong_login(cause):
            raise
        COUNTERS.add("index_refused")
        raise IndexRefused(str(error)) from cause


def _ensure(collection: Collection[Any], field: str, expire_seconds: int | None) -> None:
    existing = list(collection.list_indexes())
    for index in existing:
        if dict(index["key"]) != {field: 1} or "partialFilterExpression" in index:
            continue
        if expire_seconds is not None and index.get("expireAfterSeconds") != expire_seconds:
            change = {"name": index["name"], "expireAfterSeconds": expire_seconds}
            collection.database.command("collMod", collection.name, index=change)
        return
    options: dict[str, Any] = {} if expire_seconds is None else {"expireAfterSeconds": expire_seconds}
    if f"{field}_1" in {index["name"] for index in existing}:  # the name that MongoDB would choose
        collection.create_index(field, name=f"cachekeeper_{field}", **options)
    else:
        collection.create_index(field, **options)


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
