"""The full pass, which copies all live blocks to Redis and sets *ready*: an absent block then means 'not blocked'."""

from __future__ import annotations

import random
import time
from contextlib import suppress
from enum import Enum
from typing import TYPE_CHECKING

from cachekeeper.applying.batch import block_step
from cachekeeper.errors import CachekeeperError, CacheUnavailable, DamagedDocument, SettingsError
from cachekeeper.metrics import COUNTERS, log_once
from cachekeeper.protocol import cache_errors, new_nonce, scripts
from cachekeeper.protocol.outcomes import Readiness
from cachekeeper.reading.blocklist import drops_keys, ends_of, key_text
from cachekeeper.upkeep.paging import id_of, in_order

if TYPE_CHECKING:
    from collections.abc import Callable

    from cachekeeper.model.sources import StoredDocument
    from cachekeeper.model.views import BlocklistView
    from cachekeeper.reading.keeper import Keeper

BATCH = 1000

# The rest after a full pass, in seconds and in lengths of that pass; the longer one counts. A pass is linear in the
# number of blocks, and passes must not keep the servers busy.
_REST_SECONDS = 60.0
_REST_FACTOR = 10


class Passed(Enum):
    """How a full pass ended."""

    READY = "ready"
    LOST = "lost"  # a flush or restart came in between, or the pass was too slow to keep its nonce
    TAKEN = "taken"  # another process is making a pass
    UNFIT = "unfit"  # this server may evict keys, or is a Cluster: an absent block proves nothing
    STOPPED = "stopped"


def write_blocks(
    keeper: Keeper,
    view: BlocklistView,
    *,
    stopped: Callable[[], bool] = lambda: False,
    tell: Callable[[int], None] = lambda written: None,  # noqa: ARG005  # the default does nothing
) -> Passed:
    """Make one full pass: copy every live block from MongoDB to Redis, then set *ready*.

    Blocks only grow, so a pass can be repeated, and can run beside new blocks and other passes.

    Args:
        keeper: gives access to the servers.
        view: the blocklist.
        stopped: asked between batches whether to end early.
        tell: called after each batch with the number of documents so far.

    Raises:
        CacheUnavailable, DatabaseUnavailable: an outage; *ready* was not set. Call this again.
    """
    if keeper.store(view.server).is_cluster:
        return Passed.UNFIT
    return _Pass(keeper, view, stopped, tell).run()


def warm_blocklist(keeper: Keeper, view: BlocklistView, tell: Callable[[int], None] = lambda written: None) -> None:  # noqa: ARG005
    """Write all live blocks and set *ready*. While another process is making a pass, wait for it first.

    Args:
        keeper: gives access to the servers.
        view: the blocklist.
        tell: called after each batch with the number of documents so far.

    Raises:
        SettingsError: the server may evict keys, or is a Cluster.
        CacheUnavailable, DatabaseUnavailable: an outage, or Redis lost the blocks in each of five passes. Only another
            call can set *ready*.
    """
    for _ in range(5):
        while (passed := write_blocks(keeper, view, tell=tell)) is Passed.TAKEN:
            time.sleep(random.uniform(0.1, 0.2))  # noqa: S311  # to spread the retries; not a secret
        if passed is Passed.READY:
            return
        if passed is Passed.UNFIT:
            raise SettingsError(
                f"the {view.server} Redis may lose blocks (it is a Cluster, or its maxmemory-policy is not "
                "noeviction), so the view's ready key cannot be set, and MongoDB is asked about every id without a "
                "block: use a Redis with maxmemory-policy noeviction that is not a Cluster"
            )
    raise CacheUnavailable(
        "Redis lost the blocks five times in a row while they were being written: it was flushed or restarted, or a "
        "batch took longer than CACHEKEEPER_LEASE_SECONDS; find the cause, then try again"
    )


class _Pass:
    """One full pass.

    A block that is acknowledged before *ready* is set is in Redis when *ready* is set, in every order of the steps:

        nonce · block in MongoDB · read past its place · block in Redis · ready     written by its writer
        block in MongoDB and Redis · flush · nonce · read · ready                   written by the pass
        nonce · read · block in Redis · flush · ready?                              the nonce is gone: LOST, repeated

    So the order is: nonce, read, write, ready. Each step is answered before the next one is sent.
    """

    def __init__(
        self, keeper: Keeper, view: BlocklistView, stopped: Callable[[], bool], tell: Callable[[int], None]
    ) -> None:
        self._keeper = keeper
        self._view = view
        self._store = keeper.store(view.server)
        self._stopped = stopped
        self._tell = tell
        self._nonce = new_nonce()
        self._nonce_ms = keeper.settings.lease_ms

    def run(self) -> Passed:
        began = time.monotonic()
        if self._may_evict():
            return Passed.UNFIT
        try:
            passed = self._write() if self._begin() else Passed.TAKEN
        except CachekeeperError:
            with suppress(CacheUnavailable):
                self._give_up()
            raise
        if passed is Passed.READY:
            self._rest(time.monotonic() - began)
        elif passed in (Passed.UNFIT, Passed.STOPPED):
            self._give_up()
        return passed

    def _write(self) -> Passed:
        written = 0
        for documents in in_order(self._keeper, self._view.collection, (self._view.ends,), size=BATCH):
            blocks = []
            for document in documents:
                part = _key_text(document)
                if part is None:
                    self._note_unspelt()
                else:
                    # Also a block that is over: the script leaves it out, since Redis's clock decides on Redis's keys.
                    blocks.append(block_step(self._keeper, self._view, part, ends_of(self._view, document)))
            self._store.run_all(blocks)
            written += len(documents)
            self._tell(written)
            if self._stopped():
                return Passed.STOPPED
            if not self._renew():
                return Passed.LOST
        # Asked again: a CONFIG SET may have changed the policy while blocks were written. If it comes between this and
        # the next line, a worker's next look deletes *ready*.
        if self._may_evict():
            return Passed.UNFIT
        declared = self._store.run(scripts.declare_ready(self._view.warming_key, self._view.ready_key, self._nonce))
        return Passed.READY if declared is Readiness.READY else Passed.LOST

    def _may_evict(self) -> bool:
        with cache_errors("asking for the eviction policy", self._store.source):
            return drops_keys(self._store.client.info("memory"))

    def _begin(self) -> bool:
        """Set the nonce, unless another pass has set its own. The nonce of a dead process expires."""
        with cache_errors("beginning to write the blocks", self._store.source):
            pipe = self._store.client.pipeline(transaction=False)
            pipe.set(self._view.warming_key, self._nonce, px=self._nonce_ms, nx=True)
            # Not the SET's own answer: a client that repeats a SET whose answer was lost meets its own nonce.
            pipe.get(self._view.warming_key)
            return bool(pipe.execute()[1] == self._nonce.encode())

    def _renew(self) -> bool:
        """Extend the life of the nonce while there is progress; False where the nonce is gone.

        PEXPIRE creates no key, so a nonce that a flush has removed stays gone. It may extend another pass's nonce,
        which is harmless.
        """
        with cache_errors("writing the blocks", self._store.source):
            pipe = self._store.client.pipeline(transaction=False)
            pipe.get(self._view.warming_key)
            pipe.pexpire(self._view.warming_key, self._nonce_ms)
            return bool(pipe.execute()[0] == self._nonce.encode())

    def _give_up(self) -> None:
        """Delete the nonce, so that another process can begin at once.

        Between the two commands another pass may set its nonce. Then that nonce is deleted: its pass is LOST, and
        begins again.
        """
        client = self._store.client
        with cache_errors("deleting the nonce of a pass", self._store.source):
            if client.get(self._view.warming_key) == self._nonce.encode():
                client.delete(self._view.warming_key)

    def _rest(self, seconds: float) -> None:
        """Tell all processes that no pass is due for a while.

        If a flush comes before, this key is harmless: without *ready* a pass is due anyway.
        """
        rest = max(_REST_SECONDS, _REST_FACTOR * seconds)
        with cache_errors("noting the end of a pass", self._store.source):
            self._store.client.set(rested_key(self._view), "true", px=round(rest * 1000))

    def _note_unspelt(self) -> None:
        COUNTERS.add("block_unspelt")
        log_once(
            f"unspelt:{self._view.name}",
            "view %s: the _id of a document is not text, a number, an ObjectId or a UUID, so it blocks no token; "
            "correct the _id",
            self._view.name,
        )


def rested_key(view: BlocklistView) -> str:
    """The key that exists while no further full pass is due."""
    return f"cachekeeper:{view.name}-rested"


def _key_text(document: StoredDocument) -> str | None:
    try:
        return key_text(id_of(document))
    except DamagedDocument:  # text that is not UTF-8, which is not a token's id
        return None
