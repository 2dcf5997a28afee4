"""aiocache, with the lease of its decorator against a stampede."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, MutableMapping
from typing import TYPE_CHECKING, Any

import aiocache
from aiocache.lock import RedLock
from aiocache.serializers import JsonSerializer

from verification.races.adapters.base import TTL_SECONDS, Contender
from verification.races.adapters.loops import AsyncAside

if TYPE_CHECKING:
    from pymongo.database import Database

    from verification.races.points import Wire

LEASE_SECONDS = 30  # longer than any load here: after a lease that ends early, a second load could begin


class _PerProcess(MutableMapping[str, asyncio.Event]):
    """The events of the leases that aiocache holds. aiocache keeps them in one dict per process.

    Clients here stand for processes, but share this process. So each loop gets its own events. A second process finds
    no event of the first one, and does not wait for its lease: aiocache behaves so with real processes.
    """

    def __init__(self) -> None:
        self._events: dict[tuple[int, str], asyncio.Event] = {}

    def __getitem__(self, key: str) -> asyncio.Event:
        return self._events[id(asyncio.get_running_loop()), key]

    def __setitem__(self, key: str, event: asyncio.Event) -> None:
        self._events[id(asyncio.get_running_loop()), key] = event

    def __delitem__(self, key: str) -> None:
        del self._events[id(asyncio.get_running_loop()), key]

    def __iter__(self) -> Iterator[str]:
        return (key for loop, key in self._events if loop == id(asyncio.get_running_loop()))

    def __len__(self) -> int:
        return sum(1 for _ in self)


RedLock._EVENTS = _PerProcess()  # noqa: SLF001  # see `_PerProcess`


class Aiocache(AsyncAside):
    """One decorated function, and its `RedisCache`."""

    def __init__(self, wire: Wire, database: Database[Any]) -> None:
        super().__init__(wire, database)

        @aiocache.cached_stampede(  # type: ignore[untyped-decorator]  # it ships no types
            lease=LEASE_SECONDS,
            ttl=TTL_SECONDS,
            key_builder=lambda _, kind, part: self.key(kind, part),
            cache=aiocache.RedisCache,
            serializer=JsonSerializer(),
            endpoint="127.0.0.1",
            port=wire.port,
        )
        async def cached(kind: str, part: object) -> Any:
            return await self.load_async(kind, part)

        self._cached: Any = cached
        self._cache: Any = self._cached.cache

    def key(self, kind: str, part: object) -> str:
        """`kind:part`."""
        return f"{kind}:{part}"

    def lookup(self, kind: str, part: object) -> Any:
        """The decorated function."""
        return self.run(self._cached(kind, part))

    def forget(self, kind: str, part: object) -> None:
        """`delete`."""
        self.run(self._cache.delete(self.key(kind, part)))

    def forget_all(self, kind: str) -> None:
        """`clear`, with the beginning of the keys as the namespace."""
        self.run(self._cache.clear(namespace=kind))

    async def give_back(self) -> None:
        """Close the cache."""
        await self._cache.close()


AIOCACHE = Contender(
    "aiocache",
    Aiocache,
    "page “Decorators”: `cached_stampede`, with a lease longer than any load; page “Caches”: `delete` on a change, and "
    "`clear` of all of a kind; its page “Locking” says itself that its locks are not meant for consistency; "
    "its private `RedLock._EVENTS`, one dict for a process, is swapped for one that parts clients as processes are",
)
