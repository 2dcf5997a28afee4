"""dogpile.cache, with its distributed lock."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import redis
from dogpile.cache import make_region

from verification.races.adapters.base import TTL_SECONDS, Aside, Contender

if TYPE_CHECKING:
    from pymongo.database import Database

    from verification.races.points import Wire


class Dogpile(Aside):
    """One region. Another process has its own region."""

    def __init__(self, wire: Wire, database: Database[Any]) -> None:
        super().__init__(wire, database)
        self._redis = redis.Redis.from_url(wire.url)
        self._region = make_region().configure(
            "dogpile.cache.redis",
            expiration_time=TTL_SECONDS,
            arguments={
                "connection_pool": self._redis.connection_pool,
                "redis_expiration_time": 2 * TTL_SECONDS,
                "distributed_lock": True,
                "thread_local_lock": False,
            },
        )

    def key(self, kind: str, part: object) -> str:
        """`kind:part`."""
        return f"{kind}:{part}"

    def lookup(self, kind: str, part: object) -> Any:
        """`get_or_create`."""
        return self._region.get_or_create(self.key(kind, part), lambda: self.load(kind, part))

    def forget(self, kind: str, part: object) -> None:
        """`delete`."""
        self._region.delete(self.key(kind, part))

    def forget_all(self, kind: str) -> None:
        """`delete_multi` of the existing keys, because `invalidate` is documented to reach only its own process."""
        keys = [key.decode() for key in self._redis.scan_iter(match=self.key(kind, "*"))]
        if keys:
            self._region.delete_multi(keys)

    def close(self) -> None:
        """Close the client."""
        self._redis.close()


DOGPILE = Contender(
    "dogpile.cache",
    Dogpile,
    "page “API”: `CacheRegion.get_or_create`, and `delete` on a change; the Redis backend with `distributed_lock=True` "
    "and `thread_local_lock=False`, for several processes; all of a kind by `delete_multi`, since "
    "`CacheRegion.invalidate` is documented as local to its process; None and False are cached, as they are by default "
    "(`should_cache_fn` can forbid it, for a load at each such read)",
)
