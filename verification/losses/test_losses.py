"""A small `make losses`: processes are killed at every gap, and only a known-bad variant loses a committed change."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from cachekeeper.devservers import RedisServer
from verification.losses.run import COMMITTED, FILLED, RESTARTED, SHORTEST_TTL, STOPPED, Run, gaps
from verification.losses.service import Path

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cachekeeper.devservers import FoundServer, Guardian, MongoServer
    from testkit.servers import RabbitServer

SEED = 3


@pytest.fixture
def broker(guardian: Guardian, redis_found: FoundServer) -> Iterator[RedisServer]:
    """A Redis that writes each command to disk before it confirms it."""
    server = RedisServer(guardian, redis_found, config={"appendonly": "yes", "appendfsync": "always"}, name="broker")
    server.start()
    yield server
    server.kill()


def test_the_change_stream_loses_nothing_on_redis(
    guardian: Guardian, broker: RedisServer, redis_server: RedisServer, mongo_server: MongoServer
) -> None:
    path = Path.STREAM
    with Run(guardian, broker, redis_server, mongo_server, path) as run:
        outcome = run.result(300, 1, SEED)
    assert dict(outcome.kills) == dict.fromkeys((*gaps(path, is_rabbit=False), STOPPED, RESTARTED, FILLED), 1)
    assert (outcome.lost, outcome.left) == (set(), 0)
    assert (outcome.silent, outcome.dropped) == (set(), 0)  # otherwise the empty `lost` would prove nothing
    assert outcome.changes == 301
    assert 0 < outcome.slowest < outcome.seconds < SHORTEST_TTL


def test_the_plain_call_loses_nothing_behind_the_confirmation_of_rabbitmq(
    guardian: Guardian, own_rabbit: RabbitServer, redis_server: RedisServer, mongo_server: MongoServer
) -> None:
    with Run(guardian, own_rabbit, redis_server, mongo_server, Path.PLAIN) as run:
        at = (COMMITTED, "service-confirmed", "worker-received", "worker-applied")
        outcome = run.result(100, 1, SEED, at=at)
    assert dict(outcome.kills) == dict.fromkeys((*at, STOPPED, RESTARTED), 1)
    assert (outcome.silent, outcome.dropped, outcome.left) == (set(), 0, 0)
    assert outcome.lost - outcome.unsaid == set()
    assert len(outcome.unsaid) == 1  # the one gap of this path: killed after the commit, before the publication


def test_the_plain_call_loses_nothing_behind_the_confirmation_of_a_redis_that_fills_up(
    guardian: Guardian, broker: RedisServer, redis_server: RedisServer, mongo_server: MongoServer
) -> None:
    with Run(guardian, broker, redis_server, mongo_server, Path.PLAIN) as run:
        outcome = run.result(100, 1, SEED, at=["worker-popped"])
    assert dict(outcome.kills) == dict.fromkeys(("worker-popped", STOPPED, RESTARTED, FILLED), 1)
    assert (outcome.silent, outcome.dropped, outcome.left) == (set(), 0, 0)
    assert outcome.lost == set()


def test_a_worker_that_acknowledges_early_loses_what_the_outbox_keeps(
    guardian: Guardian, broker: RedisServer, redis_server: RedisServer, mongo_server: MongoServer
) -> None:
    with Run(guardian, broker, redis_server, mongo_server, Path.OUTBOX, "early") as run:
        outcome = run.result(100, 1, SEED, restarts=0, at=["worker-received"])
    assert outcome.lost
    assert outcome.left == 0  # the loss leaves no trace
