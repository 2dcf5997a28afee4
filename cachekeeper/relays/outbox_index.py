"""The outbox's index, by which the relay finds events, of a collection of which MongoDB must delete nothing."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, ClassVar

from cachekeeper.applying.mongo_indexes import BackgroundIndex, ExpiringIndex, IndexRefused
from cachekeeper.metrics import logger

if TYPE_CHECKING:
    from pymongo.collection import Collection


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
        self._where = f"{collection.name}.{field}"
        self._index = BackgroundIndex(collection, field, timeout=timeout)
        self._without = without
        self._look_at = 0.0
        self._said = ""

    def run_once(self) -> None:
        """Make the index if it is missing; once in `look_seconds`, and otherwise nothing.

        Where building it takes longer than `timeout`, this returns, and the build goes on. A refusal is logged once for
        each cause. That documents are being deleted is logged at every look.

        Raises:
            DatabaseUnavailable: an outage.
        """
        now = time.monotonic()
        if now < self._look_at:
            return
        # Of an outage too: the index is for speed, and what fails there must not keep all else waiting.
        self._look_at = now + self.look_seconds
        try:
            made = self._index.run_once()
        except ExpiringIndex as error:
            logger.error("%s. This is looked at every %d s", error, self.look_seconds)
            self._said = str(error)
        except IndexRefused as error:
            if self._said != str(error):
                logger.error("%s. %s", error, self._without)
            self._said = str(error)
        else:
            if made and (self._said or self._index.took_long):
                logger.warning("the index on %s is as it must be now", self._where)
                self._index.took_long = False
            self._said = ""
