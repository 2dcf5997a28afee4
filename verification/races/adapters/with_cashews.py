"""cashews, with the lock of its decorator."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import cashews

from verification.races.adapters.base import TTL_SECONDS, Contender
from verification.races.adapters.loops import AsyncAside

if TYPE_CHECKING:
    from pymongo.database import Database

    from verification.races.points import Wire


class Cashews(AsyncAside):
    """One `Cache`."""

    def __init__(self, wire: Wire, database: Database[Any]) -> None:
        super().__init__(wire, database)
        self._cache = cache = cashews.Cache()
        cache.setup(wire.url)

        @cache(ttl=TTL_SECONDS, key="user:{part}", lock=True, tags=["user"])
        async def user(part: object) -> Any:
            return await self.load_async("user", part)

        @cache(ttl=TTL_SECONDS, key="session:{part}", lock=True)
        async def session(part: object) -> Any:
            return await self.load_async("session", part)

        @cache(ttl=TTL_SECONDS, key="blocked:{part}", lock=True)
        async def blocked(part: object) -> Any:
            return await self.load_async("blocked", part)

        @cache(ttl=TTL_SECONDS, key="search:{part}", lock=True, tags=["search"])
        async def search(part: object) -> Any:
            return await self.load_async("search", part)

        self._lookups: dict[str, Any] = {"user": user, "session": session, "blocked": blocked, "search": search}

    def key(self, kind: str, part: object) -> str:
        """Return the key, as the decorators have it."""
        return f"{kind}:{part}"

    def lookup(self, kind: str, part: object) -> Any:
        """The decorated function."""
        return self.run(self._ask(kind, part))

    async def _ask(self, kind: str, part: object) -> Any:
        before = len(asyncio.all_tasks())
        asked = asyncio.ensure_future(self._lookups[kind](part=part))
        await asyncio.sleep(0)  # its first step: it makes a task that loads, or awaits one that is loading already
        if len(asyncio.all_tasks()) == before + 1:
            self.wire.note_join()
        return await asked

    def forget(self, kind: str, part: object) -> None:
        """`delete`."""
        self.run(self._cache.delete(self.key(kind, part)))

    def forget_all(self, kind: str) -> None:
        """`delete_tags`."""
        self.run(self._cache.delete_tags(kind))

    async def give_back(self) -> None:
        """Close the cache."""
        await self._cache.close()


CASHEWS = Contender(
    "cashews",
    Cashews,
    "its README, “Simple cache”, with `lock=True` as “Locked” has it, and `protected=True`, the default; “Cache "
    "invalidation”: the key is deleted on a change, all of a kind by tag, `delete_tags`; "
    "None and False are cached, as they are by default (`condition` can forbid it, for a load at each such read)",
)
