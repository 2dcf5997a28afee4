"""What the reader's algorithm wants done, as values. A shell does it, and sends the answer."""

from __future__ import annotations

from dataclasses import dataclass

from cachekeeper.model.sources import Absent
from cachekeeper.protocol.scripts import Value

Loaded = Value | Absent


# The shell's answers stand behind each.


@dataclass(frozen=True, slots=True)
class Acquire:
    """Compete for the lease. -> Found, LeaseTaken or Acquired; CacheUnavailable may be thrown in."""

    nonce: str
    refresh: bool


@dataclass(frozen=True, slots=True)
class Load:
    """Load under the lease. -> Loaded; any Unavailable or Damaged, and ViewFailed, may be thrown in."""

    nonce: str
    patience: float


@dataclass(frozen=True, slots=True)
class Fill:
    """Bring the load. -> Filled or Stale; CacheUnavailable may be thrown in."""

    nonce: str
    loaded: Loaded


@dataclass(frozen=True, slots=True)
class Release:
    """Give the lease back; with `discard`, `K` goes too. -> None, also where Redis fails."""

    nonce: str
    discard: bool


@dataclass(frozen=True, slots=True)
class Join:
    """Wait for the load with this nonce, if it is this process's. -> Loaded, or None: not here, or no result."""

    nonce: str
    seconds: float


@dataclass(frozen=True, slots=True)
class LoadShared:
    """Load without filling, under the cap, together with callers that arrived before it began. -> Loaded."""

    patience: float


@dataclass(frozen=True, slots=True)
class Wait:
    """Let time pass. -> None."""

    seconds: float


Effect = Acquire | Load | Fill | Release | Join | LoadShared | Wait
