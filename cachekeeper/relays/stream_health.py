"""Checks that a live process leads the change stream: for health checks."""

from __future__ import annotations

import enum
import time
from typing import TYPE_CHECKING, Any

from cachekeeper.connections.mongodb import majority
from cachekeeper.connections.mongodb_errors import database_errors
from cachekeeper.relays.change_stream_relay import COLLECTION, STATE_ID

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pymongo.database import Database

SIGN_OF_LIFE_SECONDS = 5.0
"""How long a check waits for the leader to renew its lease. A healthy leader renews it about once a second."""

_LOOK_SECONDS = 0.1


class Leader(enum.Enum):
    """The result of a health check of the leader; the value is a sentence for people."""

    ALIVE = "a live process leads the change stream"
    NONE = "no process leads the change stream: start `cachekeeper stream`"
    SILENT = (
        f"no sign of life from the leader of the change stream for {SIGN_OF_LIFE_SECONDS:g} s: "
        "it was killed, hangs, or waits for MongoDB; check that process and MongoDB"
    )


def seek_leader(database: Database[Any], limit_seconds: float) -> Leader:
    """Look for a leader, and wait at most `SIGN_OF_LIFE_SECONDS` for it to renew its lease.

    A lease that has not ended does not show that its owner lives:

        leader: renews its lease · is killed      check: the lease still lasts for seconds

    So only a renewal during the check counts. If the leader was killed before the check, the check fails.

    Args:
        database: where the change stream keeps its state.
        limit_seconds: the time limit for one answer of MongoDB.

    Raises:
        DatabaseUnavailable: MongoDB failed or did not answer, so the state is unknown.
    """
    states = majority(database)[COLLECTION]
    held = {"_id": STATE_ID, "leader": {"$ne": None}, "$expr": {"$gt": ["$until", "$$NOW"]}}

    def lease() -> Mapping[str, Any] | None:
        with database_errors("looking for the leader of the change stream", limit_seconds, COLLECTION):
            found: Mapping[str, Any] | None = states.find_one(held, {"leader": 1, "until": 1})
        return found

    first, give_up = lease(), time.monotonic() + SIGN_OF_LIFE_SECONDS
    now = first
    while now is not None and now == first:
        if time.monotonic() >= give_up:
            return Leader.SILENT
        time.sleep(_LOOK_SECONDS)
        now = lease()
    return Leader.NONE if now is None else Leader.ALIVE
