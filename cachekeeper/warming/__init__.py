"""Filling the cache ahead of its readers: views on request, blocklists all the time."""

from cachekeeper.warming.blocklist import Passed, warm_blocklist, write_blocks
from cachekeeper.warming.keeping import BlocklistKeeper
from cachekeeper.warming.views import Fate, Progress, warm_keys, warm_view

__all__ = ["BlocklistKeeper", "Fate", "Passed", "Progress", "warm_blocklist", "warm_keys", "warm_view", "write_blocks"]
