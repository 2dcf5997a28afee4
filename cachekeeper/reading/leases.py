"""The three steps around a load: take the lease, fill the key, or release the lease.

Every fill uses them: that of a lookup (`sync`), and those of many keys at once (`filling`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cachekeeper.protocol import Value, scripts

if TYPE_CHECKING:
    from cachekeeper.protocol import Registration, Step
    from cachekeeper.reading.core import Limits
    from cachekeeper.reading.effects import Loaded


def take(
    key: str, nonce: str, limits: Limits, *, refresh: bool = False, registration: Registration | None = None
) -> Step[Any]:
    """Compete for the lease of a key.

    Args:
        key: `K`.
        nonce: nonce of this load.
        limits: how long a lease lives.
        refresh: whether to take it although `K` exists, because `K` is damaged.
        registration: for a view of texts: the entry in the filter, made together with the lease. Else None.
    """
    return scripts.acquire(key, nonce, lease_ms=limits.lease_ms, refresh=refresh, registration=registration)


def bring(key: str, nonce: str, loaded: Loaded, limits: Limits, *, ttl_ms: int, spare: bool) -> Step[Any]:
    """Fill a key with what was loaded under its lease, or note that the document is absent.

    Args:
        key: `K`.
        nonce: nonce of the load.
        loaded: result of the load.
        limits: how long a version, and an absence, is remembered.
        ttl_ms: how long a value lives, in milliseconds.
        spare: whether other services write the key, too. A value that they wrote meanwhile is kept.
    """
    if isinstance(loaded, Value):
        return scripts.fill(key, nonce, loaded, ttl_ms=ttl_ms, marker_ms=limits.marker_ms, spare=spare)
    return scripts.fill_absent(key, nonce, ttl_ms=limits.negative_ms, spare=spare)


def give_back(key: str, nonce: str, *, discard: bool = False) -> list[Step[Any]]:
    """Release the lease of a key.

    Args:
        key: `K`.
        nonce: nonce of the load that does not fill.
        discard: whether to delete the value at the key, too.
    """
    released: list[Step[Any]] = [scripts.release(key, nonce)]
    if discard:
        released.append(scripts.invalidate(key))
    return released
