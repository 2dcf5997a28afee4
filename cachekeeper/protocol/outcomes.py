"""The possible outcomes of the protocol's steps; each has a name."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


@dataclass(frozen=True, slots=True)
class Found:
    """`K` is there, with these bytes."""

    raw: bytes


@dataclass(frozen=True, slots=True)
class LeaseTaken:
    """Another reader loads, under this nonce, for at most `milliseconds` more."""

    nonce: str
    milliseconds: int


@dataclass(frozen=True, slots=True)
class Stale:
    """The fill was older than `known`, the version that an event has announced. Its lease is gone."""

    known: int


class Acquired(Enum):
    """Answers to `acquire` that carry no data."""

    GRANTED = "granted"
    KNOWN_ABSENT = "absent"
    DAMAGED = "damaged"  # K holds another Redis type


class Filled(Enum):
    """Answers to `fill` that carry no data."""

    STORED = "stored"
    LEASE_LOST = "lost"
    ENDED = "ended"  # past the key's deadline or the value's own end: nothing was written


class Changed(Enum):
    """Answers to a change with a version."""

    IGNORED = "ignored"  # the known version is the same or newer
    OVERWRITTEN = "overwritten"
    MARKED = "marked"  # K is deleted, the marker stays
    ENDED = "ended"


class Invalidated(Enum):
    """The answer to an invalidation."""

    INVALIDATED = "invalidated"


class Expired(Enum):
    """Answers to a deadline."""

    ENDED = "ended"
    LIMITED = "limited"


class Peeked(Enum):
    """Answers to `read_until` that carry no data."""

    MISSING = "missing"
    ENDED = "ended"
    DAMAGED = "damaged"


class Blocked(Enum):
    """Answers to a block."""

    BLOCKED = "blocked"
    KEPT = "kept"  # an equal or longer block is there
    OVER = "over"  # its end has already passed


class Readiness(Enum):
    """Answers to `declare_ready`."""

    READY = "ready"
    LOST = "lost"  # a flush or restart came during the warming


class Released(Enum):
    """Answers to `release`."""

    RELEASED = "released"
    LOST = "lost"


class Mended(Enum):
    """Answers to `mend`."""

    MENDED = "mended"
    WHOLE = "whole"  # it was a hash already, or absent
