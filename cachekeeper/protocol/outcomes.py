"""What a step of the protocol can answer: every outcome has a name."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


@dataclass(frozen=True, slots=True)
class Found:
    """`K` is there, with these bytes."""

    raw: bytes


@dataclass(frozen=True, slots=True)
class LeaseTaken:
    """Somebody else loads, under this nonce, for at most `milliseconds` more."""

    nonce: str
    milliseconds: int


@dataclass(frozen=True, slots=True)
class Stale:
    """The fill was older than `known`, the version an event has announced; its lease is gone."""

    known: int


class Acquired(Enum):
    """Answers to `acquire` that carry nothing more."""

    GRANTED = "granted"
    KNOWN_ABSENT = "absent"
    DAMAGED = "damaged"  # another Redis type lies at K


class Filled(Enum):
    """Answers to `fill` that carry nothing more."""

    STORED = "stored"
    LEASE_LOST = "lost"
    ENDED = "ended"  # past the key's deadline or the value's own end: nothing was written


class Changed(Enum):
    """Answers to a versioned change."""

    IGNORED = "ignored"  # the version known is as new, or newer
    OVERWRITTEN = "overwritten"
    MARKED = "marked"  # K is gone, the marker stands
    ENDED = "ended"


class Invalidated(Enum):
    """The answer to an invalidation."""

    INVALIDATED = "invalidated"


class Expired(Enum):
    """Answers to a deadline."""

    ENDED = "ended"
    LIMITED = "limited"


class Peeked(Enum):
    """Answers to `read_until` that carry nothing more."""

    MISSING = "missing"
    ENDED = "ended"
    DAMAGED = "damaged"


class Blocked(Enum):
    """Answers to a block."""

    BLOCKED = "blocked"
    KEPT = "kept"  # an equal or longer block stands
    OVER = "over"  # it ended before it began


class Readiness(Enum):
    """Answers to `declare_ready`."""

    READY = "ready"
    LOST = "lost"  # a flush or restart came between


class Released(Enum):
    """Answers to `release`."""

    RELEASED = "released"
    LOST = "lost"


class Mended(Enum):
    """Answers to `mend`."""

    MENDED = "mended"
    WHOLE = "whole"  # it was of the right type, or not there
