"""Bringing all live blocks to Redis and saying so: *ready*, by which an absent block means 'not blocked'."""

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

# Seconds between the end of one full pass and the next, and how many times its own length: a pass is linear in the
# number of blocks, and must not keep the servers busy.
_REST_SECONDS = 60.0
_REST_FACTOR = 10


class Passed(Enum):
    """How a full pass ended."""

    READY = "ready"
    LOST = "lost"  # a flush or restart came between, or the pass was too slow to keep its nonce
    TAKEN = "taken"  # another process is at it
    UNFIT = "unfit"  # this server may evict keys, or is a Cluster: its absent blocks mean nothing
    STOPPED = "stopped"


def write_blocks(
    keeper: Keeper,
    view: BlocklistView,
    *,
    stopped: Callable[[], bool] = lambda: False,
    tell: Callable[[int], None] = lambda written: None,  # noqa: ARG005  # the default tells nobody
) -> Passed:
    """One full pass: bring every live block from MongoDB to Redis, then declare *ready*.

    Blocks only grow, so that a pass may meet new blocks, other passes, and itself, repeated.

    Args:
        keeper: on whose servers.
        view: the blocklist.
        stopped: asked between batches whether to end early.
        tell: called with the number of documents after each batch.

    Raises:
        CacheUnavailable, DatabaseUnavailable: an outage; *ready* was not set. Do it again.
    """
    if keeper.store(view.server).is_cluster:
        return Passed.UNFIT
    return _Pass(keeper, view, stopped, tell).run()


def warm_blocklist(keeper: Keeper, view: BlocklistView, tell: Callable[[int], None] = lambda written: None) -> None:  # noqa: ARG005
    """Write all live blocks and set *ready*; where another process is at it, after that one.

    Args:
        keeper: on whose servers.
        view: the blocklist.
        tell: called with the number of documents after each batch.

    Raises:
        SettingsError: the server may evict keys, or is a Cluster.
        CacheUnavailable, DatabaseUnavailable: an outage, or one flush after the other; nothing but a new pass will do.
    """
    for _ in range(5):
        while (passed := write_blocks(keeper, view, tell=tell)) is Passed.TAKEN:
            time.sleep(random.uniform(0.1, 0.2))  # noqa: S311  # spread, not secrecy
        if passed is Passed.READY:
            return
        if passed is Passed.UNFIT:
            raise SettingsError(
                f"the {view.server} Redis may drop blocks by itself (it is a Cluster, or its maxmemory-policy is not "
                "noeviction), so it cannot be *ready*: absent blocks are asked of MongoDB"
            )
    raise CacheUnavailable("Redis lost the blocks while they were being written, five times in a row")


class _Pass:
    """One full pass.

    A block that is acknowledged before *ready* is set is in Redis by then, whichever way things fall:

        nonce · block in MongoDB · read past its place · block in Redis · ready     written by its writer
        block in MongoDB and Redis · flush · nonce · read · ready                   written by the pass
        nonce · read · block in Redis · flush · ready?                              the nonce went, too: lost, once more

    Hence the order: nonce, read, write, ready; each step answered before the next is sent.
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
                    # Those that are over as well: the script leaves them out, and Redis's clock decides on its keys.
                    blocks.append(block_step(self._keeper, self._view, part, ends_of(self._view, document)))
            self._store.run_all(blocks)
            written += len(documents)
            self._tell(written)
            if self._stopped():
                return Passed.STOPPED
            if not self._renew():
                return Passed.LOST
        # Asked again: CONFIG SET may have come while blocks were being written. If it comes between this and the next
        # line, whoever looks next takes *ready* away.
        if self._may_evict():
            return Passed.UNFIT
        declared = self._store.run(scripts.declare_ready(self._view.warming_key, self._view.ready_key, self._nonce))
        return Passed.READY if declared is Readiness.READY else Passed.LOST

    def _may_evict(self) -> bool:
        with cache_errors("asking for the eviction policy", self._store.source):
            return drops_keys(self._store.client.info("memory"))

    def _begin(self) -> bool:
        """Set the nonce, unless another pass has its own there; that of a dead process ends by itself."""
        with cache_errors("beginning to write the blocks", self._store.source):
            pipe = self._store.client.pipeline(transaction=False)
            pipe.set(self._view.warming_key, self._nonce, px=self._nonce_ms, nx=True)
            # Not the SET's own answer: a client that asks again where an answer was lost has met its own nonce.
            pipe.get(self._view.warming_key)
            return bool(pipe.execute()[1] == self._nonce.encode())

    def _renew(self) -> bool:
        """Keep the nonce alive while there is progress; False where it is gone.

        PEXPIRE makes no key, so a nonce that a flush has taken stays gone. It may lengthen another pass's, which does
        no harm.
        """
        with cache_errors("writing the blocks", self._store.source):
            pipe = self._store.client.pipeline(transaction=False)
            pipe.get(self._view.warming_key)
            pipe.pexpire(self._view.warming_key, self._nonce_ms)
            return bool(pipe.execute()[0] == self._nonce.encode())

    def _give_up(self) -> None:
        """Let another process begin at once.

        Between the two commands the nonce may become another pass's; then that one is LOST, and begins once more.
        """
        client = self._store.client
        with cache_errors("ending a pass", self._store.source):
            if client.get(self._view.warming_key) == self._nonce.encode():
                client.delete(self._view.warming_key)

    def _rest(self, seconds: float) -> None:
        """Tell all processes that no pass is due for a while.

        If a flush comes before, this key does no harm: without *ready* a pass is due all the same.
        """
        rest = max(_REST_SECONDS, _REST_FACTOR * seconds)
        with cache_errors("ending a pass", self._store.source):
            self._store.client.set(rested_key(self._view), "true", px=round(rest * 1000))

    def _note_unspelt(self) -> None:
        COUNTERS.add("block_unspelt")
        log_once(
            f"unspelt:{self._view.name}",
            "view %s: a document's _id is neither text, number, ObjectId nor UUID, so it blocks no token",
            self._view.name,
        )


def rested_key(view: BlocklistView) -> str:
    """There while no further full pass is due."""
    return f"cachekeeper:{view.name}-rested"


def _key_text(document: StoredDocument) -> str | None:
    try:
        return key_text(id_of(document))
    except DamagedDocument:  # a text that is not UTF-8: no token is that
        return None
