"""The TTL indexes that remove what has expired, made or adjusted when a worker starts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pymongo.errors import OperationFailure

from cachekeeper.database import database_errors

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cachekeeper.keeper import Keeper
    from cachekeeper.registry import TtlIndex

_OPTIONS_CONFLICT = 85  # MongoDB's code for an index that is there with other options


def ensure_indexes(keeper: Keeper, indexes: Iterable[TtlIndex]) -> None:
    """Make these TTL indexes; one that is there with another time is given the new one.

    Raises:
        DatabaseUnavailable: MongoDB failed.
    """
    for index in indexes:
        seconds = round(index.seconds(keeper.settings))
        with database_errors(f"indexing {index.collection}", keeper.settings.load_timeout_seconds):
            try:
                keeper.database[index.collection].create_index(index.field, expireAfterSeconds=seconds)
            except OperationFailure as error:
                if error.code != _OPTIONS_CONFLICT:
                    raise
                change = {"keyPattern": {index.field: 1}, "expireAfterSeconds": seconds}
                keeper.database.command("collMod", index.collection, index=change)
