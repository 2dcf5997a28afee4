"""The reader's algorithm, without I/O: a generator that yields effects and receives their answers.

The sync shell (`sync.py`) drives it; an async shell can drive the same generator. It begins after a plain `GET` that
was not a hit. Three rules make it safe: a reader takes a lease before it loads; every change of the key destroys the
lease; a fill without its lease is refused.

    reader: GET (miss)                      event: commit, …
    reader: acquire -> lease n
    reader: load (old value)
                                            event: delete K, drop lease n, acknowledge
    reader: fill(n) -> lost                 a later reader finds K absent, and loads the new value
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Generic, TypeVar

from cachekeeper.errors import CacheUnavailable, DamagedValue, DatabaseBehind
from cachekeeper.metrics import COUNTERS, log_once
from cachekeeper.model.sources import ABSENT, Absent, Find, StoredDocument
from cachekeeper.model.view_code import decoded, not_awaitable
from cachekeeper.model.views import Staleness
from cachekeeper.protocol.outcomes import Acquired, Filled, Found, LeaseTaken, Stale
from cachekeeper.protocol.scripts import Registration, Value, new_nonce
from cachekeeper.reading.effects import Acquire, Effect, Fill, Join, Load, Loaded, LoadShared, Release, Wait
from cachekeeper.runtime.backoff import growing
from cachekeeper.values.codecs import Codec

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Target(Generic[T_co]):
    """The key that one lookup reads, and how to load it.

    Attributes:
        name: name of the view.
        key: `K`.
        find: the query that loads the value.
        interpret: turns the query's answer into the value to cache.
        codec: converts between bytes and value.
        staleness: who writes the key.
        registration: for a view of texts: the entry in the filter, made together with the lease. Else None.
    """

    name: str
    key: str
    find: Find
    interpret: Callable[[Sequence[StoredDocument]], Loaded]
    codec: Codec[T_co]
    staleness: Staleness = Staleness.OURS
    registration: Registration | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """Time limits in seconds, or in milliseconds if the name says so; sizes in bytes.

    Attributes:
        lookup: limit of the whole lookup.
        load: limit of one load and the Redis calls around it.
        read: limit of the read of MongoDB in that load.
        value_bytes: larger values are not cached.
        lease_ms: how long a lease lives.
        negative_ms: how long 'does not exist' is remembered.
        marker_ms: how long a version is remembered without its value.
    """

    lookup: float
    load: float
    read: float
    value_bytes: int
    lease_ms: int
    negative_ms: int
    marker_ms: int


class Start(Enum):
    """How the plain `GET` ended."""

    MISS = "miss"
    UNASKED = "unasked"  # no `GET` was sent: the caller wants the key filled, not just an answer
    DAMAGED = "damaged"
    CACHE_DOWN = "cache down"


Reading = Generator[Effect, Any, T]


def read(  # noqa: C901, PLR0912  # one branch per outcome
    target: Target[T], limits: Limits, start: Start, now: Callable[[], float], began: float
) -> Reading[T | Absent]:
    """Find the value of `target`.

    Args:
        target: what to find.
        limits: how long it may take.
        start: how the plain `GET` ended.
        now: a monotonic clock, in seconds.
        began: when the lookup began, on that clock: the time of the plain `GET` counts, too.

    Raises:
        DatabaseUnavailable, Overloaded: no answer within the limits.
        DatabaseBehind: every load was older than the version that an event has announced.
        CacheUnavailable: Redis is unavailable, and either the caller wants the key filled (`UNASKED`), or the view is
            shared and MongoDB does not have the document.
        DamagedValue: the view is shared, and the value at the key cannot be read.
        DamagedDocument: the document cannot be cached.
        ViewFailed: the view's own loader or codec raised.
    """
    state = _State(began + limits.lookup, now, cache_down=start is Start.CACHE_DOWN)
    if start is Start.DAMAGED:
        _note_damage(target, state)
    while not state.cache_down and state.left() > limits.load:
        nonce = new_nonce()
        try:
            answer = yield Acquire(nonce, state.damaged)
        except CacheUnavailable:
            if start is Start.UNASKED:
                raise
            state.cache_down = True
            break
        if isinstance(answer, Found):
            try:
                return not_awaitable(target.name, "codec's decode", target.codec.decode(answer.raw))
            except Exception as error:  # noqa: BLE001  # any error of a decoder means that the value is damaged
                decoder_failed(target.name, error)
                _note_damage(target, state)
        elif answer is Acquired.DAMAGED:
            _note_damage(target, state)
        elif answer is Acquired.KNOWN_ABSENT:
            return ABSENT
        else:
            if isinstance(answer, LeaseTaken):
                loaded = yield from _wait_for(answer, limits, state)
            else:
                loaded = yield from _load(nonce, limits, state)
            if loaded is not None and state.suits(loaded):
                return value_of(target, loaded)
    # After a refused load there may be too little time left for another one.
    behind = state.known >= 0 and state.left() < limits.read
    loaded = ABSENT if behind else (yield LoadShared(max(state.left() - limits.load, 0)))
    if behind or not state.suits(loaded):
        raise DatabaseBehind(
            f"view {target.name}: an event announced version {state.known:.0f}, but MongoDB has {state.found:.0f}. If"
            " this lasts (a restored backup, a document created again), publish an event for it without a version"
        )
    if state.cache_down and loaded is ABSENT and target.staleness is Staleness.SHARED:
        # Another service may have written it to Redis alone: 'not in MongoDB' does not mean 'does not exist'.
        raise CacheUnavailable(
            f"view {target.name}: MongoDB does not have the document. Redis may have it but is unavailable; try again"
        )
    return value_of(target, loaded)


@dataclass(slots=True)
class _State:
    """The state of one lookup."""

    deadline: float
    now: Callable[[], float]
    cache_down: bool = False
    damaged: bool = False
    known: int = -1  # the highest announced version that a refused fill has reported
    found: float = -1  # the version of the last load that was older than that
    attempts: int = 0

    def suits(self, loaded: Loaded) -> bool:
        """Return whether a load is as new as the version known to exist, or newer."""
        version = _version(loaded)
        if version < self.known:
            self.found = version
        return version >= self.known

    def left(self) -> float:
        return self.deadline - self.now()

    def pause(self, first: float, longest: float) -> Wait:
        """Return the next wait: doubled each time up to a limit, with jitter so that waiting callers spread out."""
        seconds = growing(self.attempts, first=first, longest=longest)
        self.attempts += 1
        return Wait(max(min(seconds, self.left()), 0))


def _wait_for(taken: LeaseTaken, limits: Limits, state: _State) -> Reading[Loaded | None]:
    """Another reader loads: join its load if it runs in this process, else wait a moment before looking again."""
    joined: Loaded | None = yield Join(taken.nonce, min(taken.milliseconds / 1000, state.left() - limits.load))
    if joined is None:
        yield state.pause(0.002, 0.05)
        # The value may have been repaired by now: only a new look tells whether it is still damaged.
        state.damaged = False
    return joined


def _load(nonce: str, limits: Limits, state: _State) -> Reading[Loaded | None]:
    """Load under the lease, and fill. Return None if the load was older than the version an event has announced."""
    loaded: Loaded = yield Load(nonce, state.left() - limits.load)
    if isinstance(loaded, Value) and len(loaded.raw) > limits.value_bytes:
        COUNTERS.add("value_over_limit")
        yield Release(nonce, discard=state.damaged)
        return loaded
    try:
        filled = yield Fill(nonce, loaded)
    except CacheUnavailable:
        filled = Filled.LEASE_LOST
    if not isinstance(filled, Stale):
        # LEASE_LOST included: the load began after this read did, so it is as new as this read must be.
        return loaded
    # MongoDB is behind: a deposed primary, or one that the change reaches in a moment.
    state.known = max(state.known, filled.known)
    state.found = _version(loaded)
    COUNTERS.add("stale_load")
    yield state.pause(0.01, 0.2)
    return None


def _version(loaded: Loaded) -> float:
    """Return a load's version for comparison; infinity if it has none, since it cannot be shown to be older."""
    return loaded.version if isinstance(loaded, Value) and loaded.version is not None else float("inf")


def value_of(target: Target[T], loaded: Loaded) -> T | Absent:
    """Return the answer that a load gives. Raises ViewFailed: the codec cannot decode its own bytes."""
    # Decoded from the bytes, so that a load gives exactly the same value as the next hit, in an outage, too.
    return ABSENT if isinstance(loaded, Absent) else decoded(target.name, target.codec, loaded.raw)


def decoder_failed(view: str, error: Exception) -> Start:
    """Treat an error of a decoder as damage. Log its class once, unless it is `DamagedValue`, which is expected."""
    if not isinstance(error, DamagedValue):
        name = type(error).__name__
        log_once(
            f"decoder:{view}:{name}",
            "view %s: its codec raised %s for the value at a key; the value counts as damaged",
            view,
            name,
        )
    return Start.DAMAGED


def _note_damage(target: Target[Any], state: _State) -> None:
    state.damaged = True
    COUNTERS.add("damaged_value")
    if target.staleness is Staleness.SHARED:
        raise DamagedValue(
            f"view {target.name}: the value at the key cannot be read. Another service may have written it, so it is"
            " left unchanged: correct or delete it"
        )
    log_once(
        f"damaged:{target.name}",
        "view %s: a key held a value that this view never writes; it is replaced from MongoDB",
        target.name,
    )
