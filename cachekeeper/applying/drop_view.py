"""Drop a view: invalidate each of its keys and leases, cached or in flight."""

from __future__ import annotations

import logging
from itertools import islice
from typing import TYPE_CHECKING

from cachekeeper.connections.mongodb_errors import database_errors
from cachekeeper.metrics import logger
from cachekeeper.model.view_kinds import Drop
from cachekeeper.model.views import AnyView
from cachekeeper.protocol import cache_errors, scripts

if TYPE_CHECKING:
    from cachekeeper.reading.keeper import Keeper

_BATCH = 500


def drop_view(keeper: Keeper, view: AnyView, reason: str) -> int:
    """Invalidate every key of a view. For a blocklist, the blocks stay and only *ready* is removed.

    For a blocklist: MongoDB is asked for blocks that Redis does not have, until a pass that begins after this sets
    *ready* again. A pass that is already under way can no longer set it.

    For other views: makes two complete passes over values and metadata. A fill that lands during the first pass may
    land in a bucket of the keyspace that the scan has already passed. Its lease was taken before the fill, so after the
    first pass only fills whose lease was taken during that pass can be left. The second pass finds them. The cost is
    linear in the size of the keyspace.

    Args:
        keeper: provides the servers.
        view: the view to drop.
        reason: the reason, for the log.

    Returns:
        The number of keys that were invalidated, over both passes.

    Raises:
        CacheUnavailable, DatabaseUnavailable: the drop is not complete; call it again.
    """
    if view.drop is Drop.READY:
        _unready(keeper, view)
        logger.warning(
            "view %s is not ready: MongoDB is asked about every id without a block, until all blocks are read again. "
            "Reason: %s",
            view.name,
            reason,
        )
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
    # At each start on an empty server there is nothing to drop. That is normal, so it is not a warning.
    level = logging.WARNING if dropped else logging.INFO
    logger.log(level, "view %s was dropped, %d invalidations in two passes: %s", view.name, dropped, reason)
    return dropped


def _unready(keeper: Keeper, view: AnyView) -> None:
    """Let readers ask MongoDB about each id without a block, until a pass that begins after this has read all."""
    store = keeper.store(view.server)
    if store.is_cluster:
        return  # a Cluster has no *ready*
    with cache_errors(f"deleting the ready key of view {view.name}", store.source):
        # Both keys at once. A pass under way may have read past the place of a block for which no event came; without
        # its nonce it cannot set *ready* afterwards.
        store.client.delete(*view.ready_keys)


def _with_document(keeper: Keeper, view: AnyView, parts: dict[str, None]) -> dict[str, None]:
    """Return the parts that have a document. The others exist only in Redis: dropping them would lose them."""
    ids = keeper.binding(view).ids
    wanted = ids.parse_all(parts)
    with database_errors(f"reading {view.collection}", keeper.settings.load_timeout_seconds, view.collection):
        found = keeper.database[view.collection].find({"_id": {"$in": list(wanted.values())}}, {"_id": 1})
        # Compared by the id's text: not every _id can be in a set.
        known = {ids.text(document["_id"]) for document in found}
    return {part: None for part in wanted if part in known}
