"""The index by which the relay finds events, in a collection from which MongoDB must never delete documents."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, ClassVar

from cachekeeper.applying.mongo_indexes import BackgroundIndex, ExpiringIndex, IndexRefused
from cachekeeper.metrics import logger

if TYPE_CHECKING:
    from pymongo.collection import Collection


class PlainIndex:
    """An index without a time to live, on a collection from which MongoDB must delete nothing. For one thread.

    It is checked regularly: an operator may add a time to live, or drop the index, at any time.

    Args:
        collection: the collection, in its database.
        field: a top-level field.
        timeout: seconds for one check.
        without: a sentence for the log: what continues while MongoDB refuses the index, and at what cost.
    """

    look_seconds: ClassVar[float] = 60.0

    def __init__(self, collection: Collection[Any], field: str, *, timeout: float, without: str) -> None:
        self._where = f"{collection.name}.{field}"
        self._index = BackgroundIndex(collection, field, timeout=timeout)
        self._without = without
        self._look_at = 0.0
        self._said = ""

    def run_once(self) -> None:
        """Make the index if it is missing. Checks once every `look_seconds`; calls in between do nothing.

        If the build takes longer than `timeout`, this returns and the build continues. A refusal is logged once for
        each cause. An index by which MongoDB deletes documents is logged at every check.

        Raises:
            DatabaseUnavailable: an outage.
        """
        now = time.monotonic()
        if now < self._look_at:
            return
        # Also after an outage: the index is only for speed, and its failures must not delay everything else.
        self._look_at = now + self.look_seconds
        try:
            made = self._index.run_once()
        except ExpiringIndex as error:
            logger.error("%s. This is checked again every %d s", error, self.look_seconds)
            self._said = str(error)
        except IndexRefused as error:
            if self._said != str(error):
                logger.error("%s. %s", error, self._without)
            self._said = str(error)
        else:
            if made and (self._said or self._index.took_long):
                logger.warning("the index on %s is correct now", self._where)
                self._index.took_long = False
            self._said = ""
