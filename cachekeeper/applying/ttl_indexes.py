"""The worker's TTL indexes, by which MongoDB removes expired documents."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cachekeeper.applying.mongo_indexes import BackgroundIndex, IndexRefused
from cachekeeper.errors import DatabaseUnavailable
from cachekeeper.metrics import logger
from cachekeeper.runtime.periodic import PeriodicThread

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cachekeeper.model.registry import TtlIndex
    from cachekeeper.reading.keeper import Keeper


class IndexKeeper(PeriodicThread):
    """Creates the TTL indexes of a worker, and retries those that MongoDB refused.

    Events do not wait for them: they only remove expired documents, which readers ignore anyway. After a missing role
    is granted, or an index that is in the way is dropped, the worker needs no restart. `stop` does not wait for builds.

    Args:
        keeper: provides the database.
        indexes: the indexes to create.
    """

    look_seconds = 60.0
    backoff_seconds = 5.0

    def __init__(self, keeper: Keeper, indexes: Iterable[TtlIndex]) -> None:
        super().__init__("MongoDB", "making the TTL indexes", "index_look_failed")
        self._keeper = keeper
        self._missing: dict[TtlIndex, BackgroundIndex | None] = dict.fromkeys(indexes)
        self._refused: dict[TtlIndex, str] = {}

    def run_once(self) -> None:
        """Create the indexes that are still missing. Each is tried, even if others fail.

        Raises:
            DatabaseUnavailable: MongoDB was unavailable for at least one of them; the first such error.
        """
        outage: DatabaseUnavailable | None = None
        for index in [*self._missing]:
            if self._stopping.is_set():
                break  # a stopping worker waits for one index at most
            try:
                self._make(index)
            except DatabaseUnavailable as error:
                outage = outage or error
        if outage is not None:
            raise outage

    def _make(self, index: TtlIndex) -> None:
        making = self._missing[index] = self._missing[index] or self._making(index)
        try:
            made = making.run_once()
        except IndexRefused as error:
            if self._refused.get(index) != str(error):
                logger.error("%s. Events are still applied; expired documents stay until the index exists", error)
            self._refused[index] = str(error)
            return
        if made:
            del self._missing[index]
            if self._refused.pop(index, None) or making.took_long:
                logger.warning("the index on %s.%s has been created", index.collection, index.field)

    def _making(self, index: TtlIndex) -> BackgroundIndex:
        settings = self._keeper.settings
        return BackgroundIndex(
            self._keeper.database[index.collection],
            index.field,
            timeout=settings.load_timeout_seconds,
            expire_seconds=round(index.seconds(settings)),
        )
