"""Loads of this process that others may wait for, instead of asking MongoDB themselves."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from cachekeeper.errors import CachekeeperError, Overloaded

if TYPE_CHECKING:
    from cachekeeper.connections.mongodb import DatabaseReads
    from cachekeeper.reading.effects import Loaded


class Flight:
    """One load, and how it ended."""

    def __init__(self) -> None:
        self._done = threading.Event()
        self._loaded: Loaded | None = None
        self._error: CachekeeperError | None = None

    def land(self, loaded: Loaded | None = None, error: CachekeeperError | None = None) -> None:
        """End the flight: with what was loaded, an error, or neither (those who wait compete again)."""
        self._loaded, self._error = loaded, error
        self._done.set()

    @property
    def landed(self) -> bool:
        """Whether it has ended."""
        return self._done.is_set()

    def wait(self, seconds: float) -> Loaded | None:
        """What was loaded; None where that took longer, or there is no result.

        Raises:
            CachekeeperError: the load's own error. Trying again at once would be the herd.
        """
        if not self._done.wait(max(seconds, 0)):
            return None
        if self._error is not None:
            raise self._error
        return self._loaded


class LeasedFlights:
    """Loads under a lease, by nonce.

    A reader may join one only if its own acquire answered with that nonce: then no event was acknowledged between the
    start of the load and the start of the reader, since an event destroys the lease. A flight is put here before its
    lease is asked for, so that nobody who is told the nonce comes too early.
    """

    def __init__(self) -> None:
        self._flights: dict[str, Flight] = {}  # single operations of a dict are atomic

    def start(self, nonce: str) -> Flight:
        """A new flight under `nonce`."""
        flight = self._flights[nonce] = Flight()
        return flight

    def end(self, nonce: str) -> None:
        """Forget the flight; whoever still waits competes again."""
        flight = self._flights.pop(nonce)
        if not flight.landed:
            flight.land()

    def join(self, nonce: str, seconds: float) -> Loaded | None:
        """What the load with this nonce found; None where it is another process's, or has no result."""
        flight = self._flights.get(nonce)
        return None if flight is None else flight.wait(seconds)


class SharedFlights:
    """Loads without a lease, by key: during an outage, over the limit, or in the last moment of a lookup.

    Callers share one only if it began after they did: those who find it still waiting for a slot. A load that has begun
    may have read before a change that its late joiner must see.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[str, Flight] = {}

    def load(self, key: str, database: DatabaseReads, run: Callable[[], Loaded], patience: float) -> Loaded:
        """Load `key`, alone or together.

        Args:
            key: what is loaded.
            database: whose slots bound it.
            run: does it; called by one of those who share.
            patience: seconds to wait for a slot.

        Raises:
            Overloaded: no slot came free.
            CachekeeperError: whatever `run` raised.
        """
        with self._lock:
            flight = self._waiting.get(key)
            leads = flight is None
            if flight is None:
                flight = self._waiting[key] = Flight()
        if not leads:
            loaded = flight.wait(patience + database.timeout)
            if loaded is None:
                raise Overloaded("waited in vain for a database read that others of this process had asked for")
            return loaded
        try:
            with database.slot(patience):
                self._begin(key, flight)
                loaded = run()
            flight.land(loaded)
        except CachekeeperError as error:
            flight.land(error=error)
            raise
        finally:
            self._begin(key, flight)
            if not flight.landed:
                flight.land()
        return loaded

    def _begin(self, key: str, flight: Flight) -> None:
        """From now on nobody joins this flight."""
        with self._lock:
            if self._waiting.get(key) is flight:
                del self._waiting[key]
