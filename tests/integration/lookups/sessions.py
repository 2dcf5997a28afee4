"""What tests of sessions share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cachekeeper.applying.batch import apply
from cachekeeper.model.commands import Command, Expire, Persist
from lookups import SESSION, read_session
from lookups.sessions import END_SESSION

if TYPE_CHECKING:
    from cachekeeper.reading.keeper import Keeper
    from testkit.shop import Shop

KEY = "session:s1"
ENDED = Persist(SESSION, "s1", END_SESSION)
LOGOUT: list[Command] = [ENDED, Expire(SESSION, "s1")]


def log_out(keeper: Keeper) -> None:
    assert [result.error for result in apply(keeper, [LOGOUT])] == [None]


def document(shop: Shop) -> dict[str, Any]:
    found = shop.db.sessions.find_one({"_id": "s1"})
    assert found is not None
    return found


def nobody_is_logged_in(shop: Shop, keeper: Keeper) -> None:
    assert shop.redis.get(KEY) is None
    assert read_session("s1", keeper=keeper) is None
    shop.flush()
    assert read_session("s1", keeper=keeper) is None
