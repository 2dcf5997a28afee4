"""The effects that the reader's algorithm asks for, as values. A shell performs each and sends back the answer."""

from __future__ import annotations

from dataclasses import dataclass

from cachekeeper.model.sources import Absent
from cachekeeper.protocol.scripts import Value

Loaded = Value | Absent


# Each docstring ends with the shell's answer.


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
    """Fill the key with the load. -> Filled or Stale; CacheUnavailable may be thrown in."""

    nonce: str
    loaded: Loaded


@dataclass(frozen=True, slots=True)
class Release:
    """Release the lease; with `discard`, delete `K`, too. -> None, also if Redis fails."""

    nonce: str
    discard: bool


@dataclass(frozen=True, slots=True)
class Join:
    """Wait for the load with this nonce, if this process runs it. -> Loaded; None: not here, or no result."""

    nonce: str
    seconds: float


@dataclass(frozen=True, slots=True)
class LoadShared:
    """Load without filling, within the cap, together with callers that came before the load began. -> Loaded."""

    patience: float


@dataclass(frozen=True, slots=True)
class Wait:
    """Sleep. -> None."""

    seconds: float


Effect = Acquire | Load | Fill | Release | Join | LoadShared | Wait
