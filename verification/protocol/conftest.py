"""Fixtures of the tests of the store."""

from collections.abc import Iterator

import pytest

from cachekeeper.devservers import RedisServer
from verification.protocol.store_lab import StoreLab


@pytest.fixture
def store_lab(any_redis: RedisServer) -> Iterator[StoreLab]:
    """The protocol's scripts on every Redis that is installed."""
    with any_redis.client() as client:
        yield StoreLab(client)
