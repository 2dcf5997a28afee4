"""Keeping a blocklist *ready*, for as long as a worker runs."""

from __future__ import annotations

import random
import threading
import traceback
from typing import TYPE_CHECKING

from cachekeeper.blocklist import drops_keys
from cachekeeper.errors import Unavailable
from cachekeeper.metrics import COUNTERS, log_once, logger
from cachekeeper.store import cache_errors
from cachekeeper.warming.blocklist import Passed, rested_key, write_blocks

if TYPE_CHECKING:
    from cachekeeper.keeper import Keeper
    from cachekeeper.views import BlocklistView

# Seconds between two looks: how long a flush leaves every absent block to MongoDB, beside the pass itself.
_LOOK_SECONDS = 1.0
_LONGEST_BACKOFF_SECONDS = 5.0


class BlocklistKeeper:
    """Keeps *ready* true, in a daemon thread of a worker; any number of workers may do so at once.

    - *ready* is missing (a first start, a flush, a restart): one of the workers makes a full pass and sets it.
    - The server may evict (its maxmemory-policy is not `noeviction`): *ready* is deleted within about a second, and
      nothing is written until that is changed. A Cluster has no *ready*.
    - Again and again, 60 seconds after the last full pass (10 times its length, where that is longer), one of the
      workers makes another. So a block that reached only MongoDB, because its writer was killed or Redis failed it, and
      which therefore nobody acknowledged, is in Redis after that rest and at most two passes; where a worker dies in a
      pass, after `LEASE_SECONDS` and another pass more.
    - An outage is logged once, and waited for with growing pauses of at most 5 seconds.

    Args:
        keeper: on whose servers.
        view: the blocklist.
    """

    def __init__(self, keeper: Keeper, view: BlocklistView) -> None:
        self._keeper = keeper
        self._view = view
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._failures = 0

    def start(self) -> None:
        """Begin. Returns at once; nothing needs to be up."""
        if self._thread is not None:
            raise RuntimeError("runs already")
        self._stopping.clear()
        self._thread = threading.Thread(target=self._run, name=f"cachekeeper-{self._view.name}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End, within the time limits of one batch. Does nothing where it does not run."""
        if self._thread is not None:
            self._stopping.set()
            self._thread.join()
            self._thread = None

    def look(self) -> Passed | None:
        """Look once, and do what is due; the thread does nothing else.

        Returns:
            How a pass ended; None where none was due.

        Raises:
            CacheUnavailable, DatabaseUnavailable: an outage.
        """
        store = self._keeper.store(self._view.server)
        if store.is_cluster:
            self._note_unfit("is a Cluster")
            return None
        with cache_errors("looking at the blocklist"):
            pipe = store.client.pipeline(transaction=False)
            pipe.exists(self._view.ready_key)
            pipe.exists(rested_key(self._view))
            pipe.info("memory")
            ready, rested, memory = pipe.execute()
            if drops_keys(memory):
                store.client.delete(self._view.ready_key)
                self._note_unfit("may evict keys (maxmemory-policy is not noeviction)")
                return Passed.UNFIT
        if ready and rested:
            return None
        passed = write_blocks(self._keeper, self._view, stopped=self._stopping.is_set)
        COUNTERS.add(f"blocklist_pass_{passed.value}")
        if passed is Passed.READY and not ready:
            logger.info("view %s is ready: Redis holds all live blocks", self._view.name)
        return passed

    def _run(self) -> None:
        pause = 0.0
        while not self._stopping.wait(pause):
            try:
                self.look()
            except Exception as error:  # noqa: BLE001  # without this thread every absent block costs a database read
                self._note_failure(error)
                pause = min(_LOOK_SECONDS * 2 ** min(self._failures - 1, 10), _LONGEST_BACKOFF_SECONDS)
            else:
                if self._failures:
                    logger.warning("view %s: keeping its blocks in Redis again", self._view.name)
                self._failures = 0
                pause = _LOOK_SECONDS
            pause *= random.uniform(0.5, 1)  # noqa: S311  # spread, so that workers do not move in step

    def _note_unfit(self, why: str) -> None:
        log_once(
            f"unfit:{self._view.name}",
            "view %s cannot be kept ready, since the %s Redis %s: absent blocks are asked of MongoDB",
            self._view.name,
            self._view.server,
            why,
        )

    def _note_failure(self, error: Exception) -> None:
        self._failures += 1
        COUNTERS.add("blocklist_pass_failed")
        if self._failures > 1:
            return
        if isinstance(error, Unavailable):
            logger.warning("view %s: its blocks are not kept in Redis for now: %s", self._view.name, error)
        else:
            # Without the error's own text, which may quote a token.
            where = "".join(traceback.format_tb(error.__traceback__))
            logger.error(
                "view %s: its blocks are not kept in Redis: %s\n%s", self._view.name, type(error).__name__, where
            )
