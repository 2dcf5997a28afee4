"""Loads of this process that other callers can wait for, instead of asking MongoDB themselves."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from cachekeeper.errors import CachekeeperError, Overloaded

if TYPE_CHECKING:
    from cachekeeper.connections.mongodb import DatabaseReads
    from cachekeeper.reading.effects import Loaded


class Flight:
    """One load, and its result."""

    def __init__(self) -> None:
        self._done = threading.Event()
        self._loaded: Loaded | None = None
        self._error: CachekeeperError | None = None

    def land(self, loaded: Loaded | None = None, error: CachekeeperError | None = None) -> None:
        """End the flight: with the loaded value, an error, or neither (then waiting callers compete again)."""
        self._loaded, self._error = loaded, error
        self._done.set()

    @property
    def landed(self) -> bool:
        """Whether the load has ended."""
        return self._done.is_set()

    def wait(self, seconds: float) -> Loaded | None:
        """Return what was loaded; None if that took longer than `seconds`, or there is no result.

        Raises:
            CachekeeperError: the load's own error. If each caller tried again at once, MongoDB would get a burst.
        """
        if not self._done.wait(max(seconds, 0)):
            return None
        if self._error is not None:
            raise self._error
        return self._loaded


class LeasedFlights:
    """Loads under a lease, by nonce.

    A reader may join a load only if its own acquire answered with that nonce. Then no event was acknowledged between
    the start of the load and the start of the reader, since an event destroys the lease. A flight is put here before
    its lease is requested, so that every reader that is told the nonce finds the flight.
    """

    def __init__(self) -> None:
        self._flights: dict[str, Flight] = {}  # single dict operations are atomic

    def start(self, nonce: str) -> Flight:
        """Start a flight under `nonce`."""
        flight = self._flights[nonce] = Flight()
        return flight

    def end(self, nonce: str) -> None:
        """Remove the flight; callers that still wait compete again."""
        flight = self._flights.pop(nonce)
        if not flight.landed:
            flight.land()

    def join(self, nonce: str, seconds: float) -> Loaded | None:
        """Return what the load with this nonce found; None if another process runs it, or it has no result."""
        flight = self._flights.get(nonce)
        return None if flight is None else flight.wait(seconds)


class SharedFlights:
    """Loads without a lease, by key: during an outage, over the limit, or in the last moment of a lookup.

    A caller joins a load only while the load still waits for a slot, so that it begins after the caller did. A load
    that has begun may have read MongoDB before a change that the caller must see.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[str, Flight] = {}

    def load(self, key: str, database: DatabaseReads, run: Callable[[], Loaded], patience: float) -> Loaded:
        """Load `key`, alone or together with other callers.

        Args:
            key: the key to load.
            database: provides the slots, which limit concurrent reads.
            run: does the load; one of the sharing callers calls it.
            patience: seconds to wait for a slot.

        Raises:
            Overloaded: no slot came free.
            CachekeeperError: any error that `run` raised.
        """
        with self._lock:
            flight = self._waiting.get(key)
            leads = flight is None
            if flight is None:
                flight = self._waiting[key] = Flight()
        if not leads:
            loaded = flight.wait(patience + database.timeout)
            if loaded is None:
                raise Overloaded("another caller reads this from MongoDB, but that took too long: try again later")
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
        """Let no more callers join this flight."""
        with self._lock:
            if self._waiting.get(key) is flight:
                del self._waiting[key]
