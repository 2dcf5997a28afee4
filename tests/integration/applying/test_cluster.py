"""Commands applied to a Redis Cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cachekeeper.applying.batch import apply
from cachekeeper.model.commands import InvalidateWithin
from lookups import SEARCH, search_products

if TYPE_CHECKING:
    from cachekeeper.devservers import RedisServer
    from testkit.shop import Shop


def test_the_searches_of_a_name_are_invalidated(stocked: Shop, cluster: RedisServer) -> None:
    """redis-py's pipeline of a Cluster has an `unlink` that refuses a key together with its metadata."""
    keeper = stocked.keeper(redis_url=cluster.url.replace("redis:", "redis+cluster:"), security_redis_url=cluster.url)
    for text in ("lamp", "la", "chair"):
        search_products(text, keeper=keeper)
    (result,) = apply(keeper, [[InvalidateWithin(SEARCH, ("Lamp", "a" * 100))]])
    assert result.error is None
    with cluster.client() as client:
        assert list(client.scan_iter()) == [b"search:chair"]
