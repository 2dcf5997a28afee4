"""Fixtures of the tests of consuming."""

from collections.abc import Iterator

import pytest

from cachekeeper.devservers import FoundServer, Guardian, MongoServer, RedisServer
from testkit.delivering import Site
from tests.integration.consuming.dead_letter_desk import desk
from tests.integration.consuming.redis_consuming import broker_client

__all__ = ["broker_client", "desk"]


@pytest.fixture
def redis_site(
    guardian: Guardian, redis_found: FoundServer, own_redis: RedisServer, mongo_server: MongoServer, database: str
) -> Iterator[Site]:
    """A Redis broker and a cache of the test's own."""
    broker = RedisServer(guardian, redis_found, name="broker")
    broker.start()
    with Site(guardian, broker, own_redis, mongo_server, database) as site:
        yield site
    broker.kill()
