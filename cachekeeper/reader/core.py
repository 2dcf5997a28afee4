"""The reader's algorithm, without I/O: a generator that yields what it wants done and is sent the answers.

The sync shell (`sync.py`) drives it; an async shell can drive the very same generator. It begins where a plain `GET` was
no hit. The rule that makes it safe: whoever loads has a lease first, whatever changes the key destroys that lease, and a
fill without its lease does not land.

    reader: GET (miss)                      event: commit, …
    reader: acquire -> lease n
    reader: load (old value)
                                            event: delete K, drop lease n, acknowledge
    reader: fill(n) -> lost                 a later reader finds K absent, and loads the new value
"""

from __future__ import annotations

import random
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Generic, TypeVar

from cachekeeper.codecs import Codec
from cachekeeper.errors import CacheUnavailable, DamagedValue, DatabaseBehind
from cachekeeper.loaders import ABSENT, Absent, Find, StoredDocument
from cachekeeper.metrics import COUNTERS, log_once
from cachekeeper.store.outcomes import Acquired, Filled, Found, LeaseTaken, Stale
from cachekeeper.store.steps import Value, new_nonce
from cachekeeper.views import Staleness

T = TypeVar("T")
Loaded = Value | Absent


@dataclass(frozen=True, slots=True)
class Target(Generic[T]):
    """What one lookup is after.

    Attributes:
        name: the view's.
        key: `K`.
        find: the query behind it.
        interpret: from the query's answer to what is cached.
        codec: between the bytes and the value.
        staleness: who writes the key.
    """

    name: str
    key: str
    find: Find
    interpret: Callable[[Sequence[StoredDocument]], Loaded]
    codec: Codec[T]
    staleness: Staleness = Staleness.OURS


@dataclass(frozen=True, slots=True)
class Limits:
    """Times in seconds, sizes in bytes.

    Attributes:
        lookup: for the whole lookup.
        load: what one load and the calls around it may take.
        value_bytes: larger values are not cached.
    """

    lookup: float
    load: float
    value_bytes: int


class Start(Enum):
    """How the plain `GET` ended."""

    MISS = "miss"
    DAMAGED = "damaged"
    CACHE_DOWN = "cache down"


# What the core wants done. The shell's answers stand behind each.


@dataclass(frozen=True, slots=True)
class Acquire:
    """Compete for the lease. -> Found, LeaseTaken or Acquired; CacheUnavailable may be thrown in."""

    nonce: str
    refresh: bool


@dataclass(frozen=True, slots=True)
class Load:
    """Load under the lease. -> Loaded; any Unavailable or Damaged may be thrown in."""

    nonce: str
    patience: float


@dataclass(frozen=True, slots=True)
class Fill:
    """Bring the load. -> Filled or Stale; CacheUnavailable may be thrown in."""

    nonce: str
    loaded: Loaded


@dataclass(frozen=True, slots=True)
class Release:
    """Give the lease back; with `discard`, `K` goes too. -> None. A Redis that fails here is none of the reader's business."""

    nonce: str
    discard: bool


@dataclass(frozen=True, slots=True)
class Join:
    """Wait for the load with this nonce, if it is one of this process. -> Loaded, or None for 'not here, or no result'."""

    nonce: str
    seconds: float


@dataclass(frozen=True, slots=True)
class LoadShared:
    """Load without filling, under the cap, together with callers that arrived before it began. -> Loaded."""

    patience: float


@dataclass(frozen=True, slots=True)
class Wait:
    """Let time pass. -> None"""

    seconds: float


Effect = Acquire | Load | Fill | Release | Join | LoadShared | Wait


def read(
    target: Target[T], limits: Limits, start: Start, now: Callable[[], float]
) -> Generator[Effect, Any, T | Absent]:
    """Find the value of `target`.

    Args:
        target: what to find.
        limits: how long it may take.
        start: how the plain `GET` ended.
        now: a monotonic clock, in seconds.

    Raises:
        DatabaseUnavailable, Overloaded: no answer within the limits.
        DatabaseBehind: every load was older than what an event has announced.
        DamagedValue: the key is shared with others and cannot be read.
        DamagedDocument: the document cannot be cached.
    """
    deadline = now() + limits.lookup
    damaged = start is Start.DAMAGED
    if damaged:
        _note_damage(target)
    known = -1  # the highest version that a refused fill has told us of
    attempt = 0
    while start is not Start.CACHE_DOWN and (left := deadline - now()) > limits.load:
        nonce = new_nonce()
        try:
            answer = yield Acquire(nonce, damaged)
        except CacheUnavailable:
            break
        if isinstance(answer, Found):
            try:
                return target.codec.decode(answer.raw)
            except DamagedValue:
                damaged = True
                _note_damage(target)
        elif answer is Acquired.DAMAGED:
            damaged = True
            _note_damage(target)
        elif answer is Acquired.KNOWN_ABSENT:
            return ABSENT
        elif isinstance(answer, LeaseTaken):
            joined = yield Join(answer.nonce, min(answer.milliseconds / 1000, left - limits.load))
            if joined is not None and _version(joined) >= known:
                return _value(target, joined)
            if joined is None:
                # Another process loads. Ask again soon, then less often: its fill usually takes a few milliseconds.
                yield Wait(min(random.uniform(0.5, 1) * min(0.002 * 2**attempt, 0.05), left))
                attempt += 1
                # The value may be there, whole, by now: only a new look says whether it is still damaged.
                damaged = False
        else:
            loaded = yield Load(nonce, left - limits.load)
            if isinstance(loaded, Value) and len(loaded.raw) > limits.value_bytes:
                COUNTERS.add("value_over_limit")
                yield Release(nonce, discard=damaged)
                return target.codec.decode(loaded.raw)
            try:
                filled = yield Fill(nonce, loaded)
            except CacheUnavailable:
                filled = Filled.LEASE_LOST
            if not isinstance(filled, Stale):
                # LEASE_LOST included: the load began after this read did, so nothing older than this read is returned.
                if _version(loaded) >= known:
                    return _value(target, loaded)
            else:
                # An event has announced more than the database gave: it is behind (a deposed primary), or will be there soon.
                known = max(known, filled.known)
                COUNTERS.add("stale_load")
                yield Wait(min(random.uniform(0.5, 1) * min(0.01 * 2**attempt, 0.2), left))
                attempt += 1
    loaded = yield LoadShared(max(deadline - now() - limits.load, 0))
    if _version(loaded) < known:
        raise DatabaseBehind(f"view {target.name}: MongoDB answers with less than an event has announced")
    return _value(target, loaded)


def _version(loaded: Loaded) -> float:
    """For holding a load against a version that is known to exist; what has no version cannot be told to be older."""
    return loaded.version if isinstance(loaded, Value) and loaded.version is not None else float("inf")


def _value(target: Target[T], loaded: Loaded) -> T | Absent:
    # Decoded from the bytes, so that a fill and an outage give exactly what the next hit will.
    return ABSENT if isinstance(loaded, Absent) else target.codec.decode(loaded.raw)


def _note_damage(target: Target[Any]) -> None:
    COUNTERS.add("damaged_value")
    if target.staleness is Staleness.SHARED:
        raise DamagedValue(f"view {target.name}: what lies at the key cannot be read; it is left as found")
    log_once(f"damaged:{target.name}", "view %s: a key held what this view never writes; repaired from MongoDB", target.name)
