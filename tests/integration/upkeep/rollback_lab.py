"""A Redis that comes back older, a database, and workers that look for it."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from cachekeeper.applying.drop_view import drop_view
from cachekeeper.model.views import Server
from cachekeeper.upkeep.blocklist_warming import Passed, write_blocks
from cachekeeper.upkeep.rollback_watch import RollbackWatch
from lookups import (
    BLOCKED,
    SEARCH,
    SESSION,
    USER_NAME,
    block_token,
    is_blocked,
    read_session,
    read_user,
    save_session,
    search_products,
)
from testkit.shop import Shop, changed_user, put_user
from testkit.tokens import TOKEN
from testkit.watching import Reads

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pymongo

    from cachekeeper.devservers import FoundServer, Guardian, MongoServer
    from cachekeeper.reading.keeper import Keeper
    from testkit.older_redis import OlderRedis

ALL = ["user_name", "search", "blocked", "session"]
OLD = {"name": "Ann", "session": {"cart": [1]}, "found": ["Lamp"], "blocked": False}
NEW = {"name": "Bea", "session": {"cart": [2]}, "found": ["Lamp", "Lamp shade"], "blocked": True}


class Worker:
    """What looks for older data in one worker process."""

    def __init__(self, keeper: Keeper) -> None:
        self.watches = [
            RollbackWatch(keeper, Server.CACHE, [USER_NAME, SEARCH]),
            RollbackWatch(keeper, Server.SECURITY, [SESSION, BLOCKED]),
        ]

    def run_once(self) -> list[str]:
        """The views that were dropped."""
        return [name for watch in self.watches for name in watch.run_once()]


class RollbackLab:
    """A Redis that comes back older, a database, and a process that reads and writes."""

    def __init__(self, older: OlderRedis, shop: Shop) -> None:
        self.older = older
        self.shop = shop
        self.keeper = shop.keeper()
        self.worker = Worker(self.keeper)

    @property
    def tells(self) -> bool:
        """Whether the server says how many keys it began with; Redis 6.2 does not."""
        return "rdb_last_load_keys_loaded" in self.shop.redis.info("persistence")

    def seen(self) -> dict[str, object]:
        """What readers are told."""
        return {
            "name": read_user(1, keeper=self.keeper),
            "session": read_session("s1", keeper=self.keeper),
            "found": [product["name"] for product in search_products("lamp", keeper=self.keeper)],
            "blocked": is_blocked(TOKEN, keeper=self.keeper),
        }

    def stock(self) -> None:
        """One of each in the database and in Redis, which is ready."""
        put_user(self.shop, "Ann", 1)
        self.shop.db.products.insert_one({"_id": 1, "name": "Lamp"})
        save_session("s1", {"cart": [1]}, keeper=self.keeper)
        assert write_blocks(self.keeper, BLOCKED) is Passed.READY
        assert self.seen() == OLD

    def change(self) -> None:
        """Change all of it. Every change is acknowledged."""
        put_user(self.shop, "Bea", 2)
        changed_user(self.keeper, "Bea", 2)
        save_session("s1", {"cart": [2]}, keeper=self.keeper)
        self.shop.db.products.insert_one({"_id": 2, "name": "Lamp shade"})
        drop_view(self.keeper, SEARCH, "a new product")
        block_token(TOKEN, None, keeper=self.keeper)
        assert self.seen() == NEW


@contextmanager
def rollback_lab_of(
    kind: type[OlderRedis],
    guardian: Guardian,
    found: FoundServer,
    mongo: MongoServer,
    database: str,
    watched: tuple[pymongo.MongoClient[Any], Reads],
) -> Iterator[RollbackLab]:
    client, reads = watched
    reads.reset()
    with kind(guardian, found) as older:
        shop = Shop(older.server, mongo, database, client, reads)
        try:
            yield RollbackLab(older, shop)
        finally:
            shop.close()


def brought_back(rollback_lab: RollbackLab, *, first_look: bool = True) -> list[str]:
    """Older data comes back, and a worker looks; which views it dropped."""
    if first_look:
        rollback_lab.worker.run_once()
    rollback_lab.stock()
    rollback_lab.older.remember()
    rollback_lab.change()
    rollback_lab.older.come_back()
    assert rollback_lab.seen() == OLD, "the older data is what readers are told"
    return rollback_lab.worker.run_once()


def forget_the_marks(rollback_lab: RollbackLab) -> None:
    """As an eviction does. A note that the server was empty stays."""
    rollback_lab.shop.redis.delete(*rollback_lab.shop.redis.keys("cachekeeper:*-incarnation"))
