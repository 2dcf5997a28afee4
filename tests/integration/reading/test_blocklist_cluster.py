"""A Redis Cluster: blocks are found there, but no absence means anything, and views are warmed like anywhere."""

import logging
from collections.abc import Iterator

import pytest
import redis

from cachekeeper import Keeper
from cachekeeper.devservers import RedisServer
from cachekeeper.upkeep.blocklist_keeper import BlocklistKeeper
from cachekeeper.upkeep.blocklist_warming import Passed, write_blocks
from cachekeeper.upkeep.warming import Fate, warm_view
from lookups import BLOCKED, USER_NAME, block_token, is_blocked, read_user
from testkit.taps import MongoTap
from testkit.tokens import KEY, READY, TOKEN, keeping
from testkit.users import names, users


@pytest.fixture
def cluster_client(cluster: RedisServer) -> Iterator[redis.Redis]:
    with cluster.client() as client:
        yield client


@pytest.fixture
def cluster_keeper(cluster: RedisServer, mongo: MongoTap) -> Iterator[Keeper]:
    with keeping(cluster.url.replace("redis:", "redis+cluster:"), mongo) as keeper:
        yield keeper


def test_every_absent_block_is_asked_of_mongodb(
    cluster_keeper: Keeper,
    cluster_client: redis.Redis,
    mongo: MongoTap,
    caplog: pytest.LogCaptureFixture,
) -> None:
    block_token(TOKEN, None, keeper=cluster_keeper)
    mongo.commands.clear()
    assert is_blocked(TOKEN, keeper=cluster_keeper) is True
    assert mongo.commands == []
    cluster_client.set(READY, "true")
    cluster_client.delete(KEY)
    with caplog.at_level(logging.WARNING, "cachekeeper"):
        assert [is_blocked(token, keeper=cluster_keeper) for token in (TOKEN, "free", "free")] == [True, False, False]
    assert mongo.of("blocked_tokens") == ["find"] * 3
    assert len([record for record in caplog.records if "is a Cluster" in record.message]) == 1


def test_it_is_never_ready(cluster_keeper: Keeper, cluster_client: redis.Redis) -> None:
    assert write_blocks(cluster_keeper, BLOCKED) is Passed.UNFIT
    assert BlocklistKeeper(cluster_keeper, BLOCKED).run_once() is None
    assert cluster_client.keys() == []


def test_a_view_is_warmed(cluster_keeper: Keeper, cluster_client: redis.Redis, mongo: MongoTap) -> None:
    users(mongo, 50)
    assert warm_view(cluster_keeper, USER_NAME).fates == {Fate.FILLED: 50}
    assert len(names(cluster_client)) == 50
    mongo.commands.clear()
    assert read_user(49, keeper=cluster_keeper) == "user 49"
    assert mongo.commands == []
