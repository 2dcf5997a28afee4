"""The protocol: every step that touches a key or its metadata, one Lua script each."""

from cachekeeper.store import steps
from cachekeeper.store.late import LateCluster
from cachekeeper.store.steps import Registration, Step, Value, new_nonce
from cachekeeper.store.store import Store, cache_errors

__all__ = ["LateCluster", "Registration", "Step", "Store", "Value", "cache_errors", "new_nonce", "steps"]
