"""The shipped lookups over real servers.

A second `Keeper` stands for a second process: the two share only the servers. All keepers' reads of MongoDB can be held
at gates, and so can the commands that a watched client sends to Redis.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pymongo
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from cachekeeper.applying.batch import apply
from cachekeeper.model.commands import Invalidate, Write
from cachekeeper.reading.keeper import Keeper
from cachekeeper.settings import Settings
from cachekeeper.values.keys import meta_key
from lookups import USER_NAME, read_session, read_user, search_products
from testkit.limits import LONG, PATIENT, SLACK
from testkit.watching import Reads, WatchedRedis

if TYPE_CHECKING:
    from collections.abc import Callable

    from pymongo.database import Database

    from cachekeeper.devservers import MongoServer, RedisServer
    from cachekeeper.values.keys import Template

LOOKUPS: dict[str, tuple[Callable[[Keeper], object], object]] = {
    "name": (lambda keeper: read_user(1, keeper=keeper), "Ann"),
    "session": (lambda keeper: read_session("s1", keeper=keeper), {"cart": [1]}),
    "search": (lambda keeper: [each["name"] for each in search_products("lamp", keeper=keeper)], ["Lamp"]),
}
"""Every kind of lookup, and its answer in a stocked shop."""


class Shop:
    """One test's Redis and database, and keepers on them.

    Attributes:
        redis: a plain client of the Redis.
        db: the plain database, for changes by upstream services.
        reads: the reads of all keepers that this shop makes.
    """

    def __init__(
        self, server: RedisServer, mongo: MongoServer, name: str, client: pymongo.MongoClient[Any], reads: Reads
    ) -> None:
        self.server = server
        self.mongo = mongo
        self.name = name
        self.reads = reads
        self.redis = server.client()
        self._plain = mongo.client(uuidRepresentation="standard", tz_aware=True)
        self.db: Database[dict[str, Any]] = self._plain[name]
        self._watched: Database[Any] = client[name]
        self._keepers: list[Keeper] = []
        self._clients: list[WatchedRedis] = []

    def settings(self, **changes: Any) -> Settings:
        """Return settings for these servers, with long time limits unless changed."""
        urls = {"redis_url": self.server.url, "mongodb_url": self.mongo.url_of(self.name)}
        return Settings(**{**urls, **PATIENT, **changes})

    def keeper(self, *, cache: redis.Redis | None = None, watched: bool = True, **changes: Any) -> Keeper:
        """Return a new keeper, closed at the end of the test. `watched=False`: it makes its own client of MongoDB."""
        made = Keeper(self.settings(**changes), cache=cache, database=self._watched if watched else None)
        self._keepers.append(made)
        return made

    def client(self) -> WatchedRedis:
        """Return a watched client for a keeper."""
        client = WatchedRedis(
            host="127.0.0.1", port=self.server.port, protocol=2, socket_timeout=LONG, retry=Retry(NoBackoff(), 0)
        )
        self._clients.append(client)
        return client

    def flush(self) -> None:
        """Make Redis lose everything."""
        self.redis.flushall()

    def dump(self) -> dict[bytes, bytes]:
        """Return everything that Redis holds, by key."""
        return {key: self.redis.dump(key) or b"" for key in self.redis.scan_iter()}

    def close(self) -> None:
        for keeper in self._keepers:
            keeper.close()
        for client in (*self._clients, self.redis):
            client.close()
        self._plain.close()


def meta(shop: Shop, template: Template, part: str) -> dict[bytes, bytes]:
    """Return the metadata beside a key."""
    found: Any = shop.redis.hgetall(meta_key(template.key(part)))
    return dict(found)


def answers_in_time(keeper: Keeper) -> None:
    """Assert that every lookup has the right answer within the keeper's time limit."""
    limit = keeper.settings.lookup_timeout_seconds + SLACK
    for name, (look_up, wanted) in LOOKUPS.items():
        started = time.monotonic()
        assert look_up(keeper) == wanted, name
        assert time.monotonic() - started < limit, name


def put_user(shop: Shop, name: str, version: int | None = None) -> None:
    """Change the document of user 1, as an upstream service does."""
    fields: dict[str, Any] = {"name": name} if version is None else {"name": name, "version": version}
    shop.db.users.replace_one({"_id": 1}, fields, upsert=True)


def changed_user(keeper: Keeper, name: str, version: int | None = None) -> None:
    """Apply the event for a change of user 1. It is acknowledged when this returns."""
    command = Invalidate(USER_NAME, "1") if version is None else Write(USER_NAME, "1", name, version)
    assert [result.error for result in apply(keeper, [[command]])] == [None]
