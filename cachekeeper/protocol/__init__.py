"""The protocol: every step that reads or changes a key or its metadata, one Lua script each.

May import `values`, `errors` and `metrics`. It knows Redis, but not MongoDB, events or a broker.
"""

from cachekeeper.protocol import scripts
from cachekeeper.protocol.lazy_cluster import LazyCluster
from cachekeeper.protocol.scripts import Registration, Step, Value, new_nonce
from cachekeeper.protocol.store import Store, cache_errors

__all__ = ["LazyCluster", "Registration", "Step", "Store", "Value", "cache_errors", "new_nonce", "scripts"]
