"""The reader's algorithm, without I/O: a generator that yields what it wants done and is sent the answers.

The sync shell (`sync.py`) drives it; an async shell can drive the very same generator. It begins where a plain `GET`
was no hit. The rule that makes it safe: whoever loads has a lease first, whatever changes the key destroys that lease,
and a fill without its lease does not land.

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
    """What one lookup is after.

    Attributes:
        name: the view's.
        key: `K`.
        find: the query behind it.
        interpret: from the query's answer to what is cached.
        codec: between the bytes and the value.
        staleness: who writes the key.
        registration: of a text, what goes with a lease on it.
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
    """Times in seconds, or milliseconds where the name says so; sizes in bytes.

    Attributes:
        lookup: for the whole lookup.
        load: what one load and the calls around it may take.
        read: what the read of MongoDB in it may take.
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
    UNASKED = "unasked"  # there was none: the caller wants the key filled, and needs no answer that leaves it empty
    DAMAGED = "damaged"
    CACHE_DOWN = "cache down"


Reading = Generator[Effect, Any, T]


def read(  # noqa: C901, PLR0912  # one branch an outcome
    target: Target[T], limits: Limits, start: Start, now: Callable[[], float], began: float
) -> Reading[T | Absent]:
    """Find the value of `target`.

    Args:
        target: what to find.
        limits: how long it may take.
        start: how the plain `GET` ended.
        now: a monotonic clock, in seconds.
        began: when the lookup began, on that clock: what the plain `GET` took is part of its time.

    Raises:
        DatabaseUnavailable, Overloaded: no answer within the limits.
        DatabaseBehind: every load was older than what an event has announced.
        CacheUnavailable: the key is shared with others, Redis is away, and MongoDB does not have it; or Redis is away
            from a caller who wants the key filled.
        DamagedValue: the key is shared with others and cannot be read.
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
            except Exception as error:  # noqa: BLE001  # whatever a decoder raises, what lies there is damaged
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
    # A refused load may have used up all the time there was; then another cannot end before the deadline.
    behind = state.known >= 0 and state.left() < limits.read
    loaded = ABSENT if behind else (yield LoadShared(max(state.left() - limits.load, 0)))
    if behind or not state.suits(loaded):
        raise DatabaseBehind(
            f"view {target.name}: an event has announced version {state.known:.0f}, MongoDB has {state.found:.0f}. If"
            " it stays so (a restored backup, a document made again), publish an event for it without a version"
        )
    if state.cache_down and loaded is ABSENT and target.staleness is Staleness.SHARED:
        # Somebody else may have written it to Redis alone: 'not in MongoDB' does not mean 'does not exist'.
        raise CacheUnavailable(f"view {target.name}: it is not in MongoDB, and Redis, which may have it, is away")
    return value_of(target, loaded)


@dataclass(slots=True)
class _State:
    """What one lookup has learnt so far."""

    deadline: float
    now: Callable[[], float]
    cache_down: bool = False
    damaged: bool = False
    known: int = -1  # the highest version that a refused fill has told of
    found: float = -1  # the version of the last load that was older than that
    attempts: int = 0

    def suits(self, loaded: Loaded) -> bool:
        """Whether a load is not older than what is known to exist."""
        version = _version(loaded)
        if version < self.known:
            self.found = version
        return version >= self.known

    def left(self) -> float:
        return self.deadline - self.now()

    def pause(self, first: float, longest: float) -> Wait:
        """Doubled every time, up to a limit, with jitter so that those who wait do not move in step."""
        seconds = growing(self.attempts, first=first, longest=longest)
        self.attempts += 1
        return Wait(max(min(seconds, self.left()), 0))


def _wait_for(taken: LeaseTaken, limits: Limits, state: _State) -> Reading[Loaded | None]:
    """Somebody else loads: join where that is this process, else let a moment pass before the next look."""
    joined: Loaded | None = yield Join(taken.nonce, min(taken.milliseconds / 1000, state.left() - limits.load))
    if joined is None:
        yield state.pause(0.002, 0.05)
        # The value may be there, whole, by now: only a new look says whether it is still damaged.
        state.damaged = False
    return joined


def _load(nonce: str, limits: Limits, state: _State) -> Reading[Loaded | None]:
    """Load under the lease, and fill. None where the load was refused as older than an event has announced."""
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
        # LEASE_LOST included: the load began after this read did, so it is not older than what this read must see.
        return loaded
    # The database is behind: a deposed primary, or one that will be there in a moment.
    state.known = max(state.known, filled.known)
    state.found = _version(loaded)
    COUNTERS.add("stale_load")
    yield state.pause(0.01, 0.2)
    return None


def _version(loaded: Loaded) -> float:
    """For holding a load against a version that is known to exist; what has no version cannot be told to be older."""
    return loaded.version if isinstance(loaded, Value) and loaded.version is not None else float("inf")


def value_of(target: Target[T], loaded: Loaded) -> T | Absent:
    """The answer that a load gives. Raises ViewFailed: the codec cannot read what it wrote."""
    # Decoded from the bytes, so that a fill and an outage give exactly what the next hit will.
    return ABSENT if isinstance(loaded, Absent) else decoded(target.name, target.codec, loaded.raw)


def decoder_failed(view: str, error: Exception) -> Start:
    """A decoder raised at a key: say once which error it was, unless it is the one that codecs raise for damage."""
    if not isinstance(error, DamagedValue):
        name = type(error).__name__
        log_once(f"decoder:{view}:{name}", "view %s: its codec raised %s for what a key held", view, name)
    return Start.DAMAGED


def _note_damage(target: Target[Any], state: _State) -> None:
    state.damaged = True
    COUNTERS.add("damaged_value")
    if target.staleness is Staleness.SHARED:
        raise DamagedValue(f"view {target.name}: what lies at the key cannot be read; it is left as found")
    log_once(
        f"damaged:{target.name}", "view %s: a key held what this view never writes; repaired from MongoDB", target.name
    )
