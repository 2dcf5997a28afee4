"""Dropping a view: every key of it, and every lease, cached or in flight."""

from __future__ import annotations

import logging
from itertools import islice
from typing import TYPE_CHECKING

from cachekeeper.connections.mongodb_errors import database_errors
from cachekeeper.metrics import logger
from cachekeeper.model.views import AnyView, Drop
from cachekeeper.protocol import cache_errors, scripts

if TYPE_CHECKING:
    from cachekeeper.reading.keeper import Keeper

_BATCH = 500


def drop_view(keeper: Keeper, view: AnyView, reason: str) -> int:
    """Invalidate every key of a view. Of a blocklist the blocks stay; only *ready* goes, and a pass that would set it.

    Two complete passes, over values and metadata: a fill that lands during the first may sit in a bucket of the
    keyspace that the scan has already passed; but its lease was taken before, so after the first pass only fills of
    leases taken during it can be missing, and those the second finds. Linear in the size of the keyspace.

    Args:
        keeper: on whose servers.
        view: what to drop.
        reason: for the log.

    Returns:
        How many keys were invalidated, over both passes.

    Raises:
        CacheUnavailable, DatabaseUnavailable: it is not done; do it again.
    """
    if view.drop is Drop.READY:
        _unready(keeper, view)
        logger.warning("view %s is not ready any more, until all blocks were read again: %s", view.name, reason)
        return 0
    store = keeper.store(view.server)
    dropped = 0
    for _ in range(2):
        parts = store.parts(view.template)
        while batch := list(islice(parts, _BATCH)):
            mine = dict.fromkeys(batch)
            if view.drop is Drop.KEYS_OF_DOCUMENTS:
                mine = _with_document(keeper, view, mine)
            store.run_all([scripts.invalidate(view.template.key(part)) for part in mine])
            dropped += len(mine)
    # At every start on an empty server there is nothing to drop: that is no cause for alarm.
    level = logging.WARNING if dropped else logging.INFO
    logger.log(level, "view %s was dropped, %d keys in two passes: %s", view.name, dropped, reason)
    return dropped


def _unready(keeper: Keeper, view: AnyView) -> None:
    """From now on MongoDB says which blocks Redis lacks, until a pass that begins now has read all of them."""
    store = keeper.store(view.server)
    if store.is_cluster:
        return  # it has no *ready*
    with cache_errors("taking *ready* from a blocklist", store.source):
        # Both at once. A pass under way may have read past the place of a block that nobody told of; without its nonce
        # it cannot set *ready* afterwards.
        store.client.delete(*view.ready_keys)


def _with_document(keeper: Keeper, view: AnyView, parts: dict[str, None]) -> dict[str, None]:
    """Those with a document behind them. The others only Redis knows: dropping them would lose them."""
    ids = keeper.binding(view).ids
    wanted = ids.parse_all(parts)
    with database_errors(f"reading {view.collection}", keeper.settings.load_timeout_seconds, view.collection):
        found = keeper.database[view.collection].find({"_id": {"$in": list(wanted.values())}}, {"_id": 1})
        # By the id's text: not every _id can be in a set.
        known = {ids.text(document["_id"]) for document in found}
    return {part: None for part in wanted if part in known}
