"""The sync shell of the reader: sends the plain `GET`, and drives the core if that was not a hit."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, TypeVar

from bson.errors import BSONError
from redis.exceptions import RedisClusterException, RedisError, ResponseError

from cachekeeper.connections.mongodb_errors import QueryRefused
from cachekeeper.connections.redis_pool import waiting_until
from cachekeeper.errors import CachekeeperError, CacheUnavailable, ViewFailed
from cachekeeper.metrics import COUNTERS
from cachekeeper.model.sources import ABSENT, Absent
from cachekeeper.model.views import Staleness
from cachekeeper.protocol import scripts
from cachekeeper.protocol.outcomes import Acquired, Found, Peeked, Stale
from cachekeeper.protocol.refusals import server_name
from cachekeeper.reading import core, effects, leases
from cachekeeper.reading.breaker import Breaker
from cachekeeper.reading.singleflight import Flight, LeasedFlights, SharedFlights

if TYPE_CHECKING:
    from cachekeeper.connections.mongodb import DatabaseReads
    from cachekeeper.model.sources import Find, StoredDocument
    from cachekeeper.protocol import Store
    from cachekeeper.reading.core import Limits, Target
    from cachekeeper.reading.effects import Effect, Loaded

T = TypeVar("T")


# Errors that pymongo raises for a query that BSON cannot express. Not `Exception`: a signal may raise an error
# meanwhile, such as Celery's soft time limit, and that is not an error of the view.
_UNSENDABLE = (BSONError, TypeError, ValueError, OverflowError)


class SyncReader:
    """Reads Redis first and MongoDB second, for one Redis server.

    Args:
        store: the protocol on that server.
        database: reads of MongoDB. All readers of a process share it, and with it the cap.
        limits: limits of one lookup.
        pause: seconds for which a Redis that failed is not asked.
    """

    def __init__(self, store: Store, database: DatabaseReads, limits: Limits, *, pause: float) -> None:
        self.store = store
        self.database = database
        self.limits = limits
        self.breaker = Breaker(pause, server_name(store.source))
        self._get = store.getter()
        self.leased = LeasedFlights()
        self._shared = SharedFlights()

    def get(self, key: str) -> bytes | core.Start:
        """Send the plain `GET`. Return the bytes, or why it was not a hit."""
        if not self.breaker.allows():
            return core.Start.CACHE_DOWN
        try:
            raw = self._get(key)
        except ResponseError as error:
            if str(error).startswith("WRONGTYPE"):
                self.breaker.succeeded()
                return core.Start.DAMAGED
            self.breaker.failed(error)
            return core.Start.CACHE_DOWN
        except (RedisError, RedisClusterException, CacheUnavailable) as error:  # last: no Cluster connection
            self.breaker.failed(error)
            return core.Start.CACHE_DOWN
        self.breaker.succeeded()
        return core.Start.MISS if raw is None else raw

    def peek(self, key: str) -> bytes | core.Start | Absent:
        """Read a key that other services write, too, and check its deadline."""
        if not self.breaker.allows():
            return core.Start.CACHE_DOWN
        try:
            outcome = self.store.run(scripts.read_until(key))
        except CacheUnavailable as error:
            self.breaker.failed(error)
            return core.Start.CACHE_DOWN
        self.breaker.succeeded()
        if isinstance(outcome, Found):
            return outcome.raw
        if outcome is Peeked.ENDED:
            return ABSENT
        return core.Start.MISS if outcome is Peeked.MISSING else core.Start.DAMAGED

    def find(self, target: Target[T], ttl_ms: int, start: core.Start, began: float) -> T | Absent:
        """Answer a lookup that began at `began` and whose first look was not a hit. Raises as `core.read`."""
        reading: core.Reading[T | Absent] = core.read(target, self.limits, start, time.monotonic, began)
        with waiting_until(began + self.limits.lookup):
            return self._drive(reading, target, ttl_ms)

    def find_uncached(self, target: Target[T], began: float) -> T | Absent:
        """Return MongoDB's answer without caching it; `began` as for `find`. Raises as `core.read`."""
        left = began + self.limits.lookup - time.monotonic()
        loaded = self.load_shared(target, max(left - self.limits.load, 0))
        return core.value_of(target, loaded)

    def _drive(self, reading: core.Reading[T | Absent], target: Target[T], ttl_ms: int) -> T | Absent:
        """Perform the effects that the core asks for, until it returns."""
        lookup = _Lookup(self, target, ttl_ms)
        try:
            effect = next(reading)
            while True:
                try:
                    answer = lookup.perform(effect)
                except CachekeeperError as error:
                    effect = reading.throw(error)
                else:
                    effect = reading.send(answer)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]  # the generator returns T | Absent
        finally:
            lookup.close()

    def load_shared(self, target: Target[Any], patience: float) -> Loaded:
        """Load without a lease, alone or with other callers. Wait up to `patience` seconds for a slot."""
        COUNTERS.add("uncached_load")
        return self._shared.load(target.key, self.database, lambda: self.run(target), patience)

    def run(self, target: Target[Any]) -> Loaded:
        """Ask MongoDB. The caller holds a slot."""
        COUNTERS.add("load")
        return target.interpret(self.ask(target.name, target.find))

    def ask(self, view: str, find: Find) -> list[StoredDocument]:
        """Ask MongoDB for a view's documents. The caller holds a slot.

        Raises:
            DatabaseUnavailable: MongoDB failed.
            ViewFailed: it refuses the view's query, or the query cannot be sent.
        """
        try:
            return self.database.find(find)
        except _UNSENDABLE as error:
            raise ViewFailed(
                f"view {view}: its query cannot be sent to MongoDB ({type(error).__name__}): correct the view"
            ) from error
        except QueryRefused as error:
            raise ViewFailed(f"view {view}: {error}") from error.__cause__


class _Lookup:
    """Performs the effects of one lookup, and leads at most one flight."""

    def __init__(self, reader: SyncReader, target: Target[Any], ttl_ms: int) -> None:
        self._reader = reader
        self._target = target
        self._ttl_ms = ttl_ms
        self._nonce: str | None = None
        self._flight: Flight | None = None
        self._loaded: Loaded | None = None
        self._lease: str | None = None

    def perform(self, effect: Effect) -> object:  # noqa: PLR0911  # one return per effect
        match effect:
            case effects.Acquire():
                return self._acquire(effect)
            case effects.Load():
                return self._load(effect)
            case effects.Fill():
                return self._fill(effect)
            case effects.Release():
                self._release(effect.nonce, discard=effect.discard)
                self._land(self._loaded)
                return None
            case effects.Join():
                return self._reader.leased.join(effect.nonce, effect.seconds)
            case effects.LoadShared():
                return self._reader.load_shared(self._target, effect.patience)
            case effects.Wait():
                time.sleep(effect.seconds)
                return None

    def close(self) -> None:
        """End the flight and the lease, so that no caller waits for a lookup that has ended, whatever ended it.

        A lease is still held if an effect ended without an answer: by a signal, or by the end of a greenlet.
        """
        self._land(None)
        if self._lease is not None:
            self._release(self._lease, discard=False)

    def _acquire(self, effect: effects.Acquire) -> object:
        self._land(None)
        self._nonce, self._flight = effect.nonce, self._reader.leased.start(effect.nonce)
        self._lease = effect.nonce
        answer: object = None
        store = self._reader.store
        try:
            answer = store.run(
                leases.take(
                    self._target.key,
                    effect.nonce,
                    self._reader.limits,
                    refresh=effect.refresh,
                    # A Cluster's keys lie in many slots, where the filter of texts cannot help.
                    registration=None if store.is_cluster else self._target.registration,
                )
            )
        except CacheUnavailable as error:
            self._lease = None  # if Redis granted it after all, it expires by itself
            self._reader.breaker.failed(error)
            raise
        finally:
            if answer is not Acquired.GRANTED:
                self._land(None)
        if answer is not Acquired.GRANTED:
            self._lease = None
        return answer

    def _load(self, effect: effects.Load) -> Loaded:
        try:
            with self._reader.database.slot(effect.patience):
                self._loaded = self._reader.run(self._target)
        except CachekeeperError as error:
            # Waiting callers get this error: if each of them tried again, MongoDB would get a burst of reads. Any other
            # error concerns this caller alone (see `close`).
            self._land(None, error)
            # Otherwise all other readers would wait until the lease expires.
            self._release(effect.nonce, discard=False)
            raise
        return self._loaded

    def _fill(self, effect: effects.Fill) -> object:
        reader, key = self._reader, self._target.key
        spare = self._target.staleness is Staleness.SHARED
        step = leases.bring(key, effect.nonce, effect.loaded, reader.limits, ttl_ms=self._ttl_ms, spare=spare)
        filled: object = None
        try:
            filled = reader.store.run(step)
            self._lease = None  # the fill has dropped it
        except CacheUnavailable as error:
            self._lease = None
            reader.breaker.failed(error)
            raise
        finally:
            # Waiters get every result except a stale load. That is safe: they were told this nonce after they began.
            self._land(None if isinstance(filled, Stale) else effect.loaded)
        return filled

    def _release(self, nonce: str, *, discard: bool) -> None:
        self._lease = None
        try:
            self._reader.store.run_all(leases.give_back(self._target.key, nonce, discard=discard))
        except CacheUnavailable as error:
            # The lease expires by itself. The answer or error of this lookup does not depend on Redis any more.
            self._reader.breaker.failed(error)

    def _land(self, loaded: Loaded | None, error: CachekeeperError | None = None) -> None:
        if self._flight is None or self._nonce is None:
            return
        self._flight.land(loaded, error)
        self._reader.leased.end(self._nonce)
        self._nonce = self._flight = None
