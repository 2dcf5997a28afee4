"""One event loop per client, in a thread of its own, as in one process of an asyncio service."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from testkit.limits import LONG
from verification.races.adapters.base import Aside

if TYPE_CHECKING:
    from pymongo.database import Database

    from verification.races.points import Wire

T = TypeVar("T")


class AsyncAside(Aside):
    """A client whose library runs on a loop of its own.

    MongoDB is read in a thread, so that a held read does not block the rest of the process.
    """

    def __init__(self, wire: Wire, database: Database[Any]) -> None:
        super().__init__(wire, database)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the loop. Call this from another thread."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(LONG)

    async def load_async(self, kind: str, part: object) -> Any:
        """Read the true value from MongoDB."""
        return await asyncio.to_thread(self.load, kind, part)

    def close(self) -> None:
        """Close the library's connections, then end the loop."""
        self.run(self.give_back())
        self.run(self._loop.shutdown_default_executor())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def give_back(self) -> None:
        """Close the library's connections. Runs on the loop."""
