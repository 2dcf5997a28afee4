"""The thread that keeps a blocklist *ready* while a worker runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cachekeeper.metrics import COUNTERS, log_once, logger
from cachekeeper.protocol import cache_errors
from cachekeeper.reading.blocklist import drops_keys
from cachekeeper.runtime.periodic import PeriodicThread
from cachekeeper.upkeep.blocklist_warming import Passed, rested_key, write_blocks

if TYPE_CHECKING:
    from cachekeeper.model.views import BlocklistView
    from cachekeeper.reading.keeper import Keeper


class BlocklistKeeper(PeriodicThread):
    """Keep *ready* true, in a daemon thread of a worker. Any number of workers may do so at once.

    - *ready* is missing (a first start, a flush, a restart): one of the workers makes a full pass and sets it.
    - The server may evict (its maxmemory-policy is not `noeviction`): *ready* is deleted within about a second, and
      nothing is written until the policy is changed. A Cluster has no *ready*.
    - After each full pass the workers rest for 60 seconds, or for 10 times the length of the pass if that is longer.
      Then one of them makes another pass. It repairs a block that reached only MongoDB, because its writer was killed
      or Redis failed. Such a block was never acknowledged. It is in Redis after that rest and at most two passes; where
      a worker dies in a pass, `LEASE_SECONDS` and one more pass are added.
    - An outage is logged once. The thread retries with backoff, with pauses of at most 5 seconds.

    Args:
        keeper: gives access to the servers.
        view: the blocklist.
    """

    # After a flush, readers ask MongoDB about every absent block for at most this long, plus the time of the pass.
    look_seconds = 1.0
    backoff_seconds = 5.0

    def __init__(self, keeper: Keeper, view: BlocklistView) -> None:
        super().__init__(f"view {view.name}", "keeping its blocks in Redis", "blocklist_pass_failed")
        self._keeper = keeper
        self._view = view

    def run_once(self) -> Passed | None:
        """Look once, and do what is due. The thread only repeats this.

        Returns:
            The end of the pass; None where a pass was not due.

        Raises:
            CacheUnavailable, DatabaseUnavailable: an outage.
        """
        store = self._keeper.store(self._view.server)
        if store.is_cluster:
            self._note_unfit("is a Cluster")
            return None
        with cache_errors(f"checking whether view {self._view.name} is ready", store.source):
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

    def _note_unfit(self, why: str) -> None:
        log_once(
            f"unfit:{self._view.name}",
            "view %s cannot be kept ready, because the %s Redis %s: MongoDB is asked about every id without a block; "
            "use a Redis with maxmemory-policy noeviction that is not a Cluster",
            self._view.name,
            self._view.server,
            why,
        )
