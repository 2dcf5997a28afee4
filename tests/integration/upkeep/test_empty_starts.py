"""A Redis without a mark: what is known of how it began, and what is dropped where nothing is known."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from cachekeeper.consuming.processor import Processor
from cachekeeper.devservers import FoundServer, Guardian, MongoServer, RedisServer
from cachekeeper.metrics import COUNTERS
from cachekeeper.upkeep.rollback_watch import Incarnation, RollbackWatch
from lookups import read_user
from testkit.delivering import REGISTRY
from testkit.older_redis import KINDS, FromAppendOnlyFile
from testkit.shop import Shop, put_user
from testkit.tokens import READY
from testkit.waiting import wait_until
from testkit.watching import Reads
from tests.integration.upkeep.rollback_lab import (
    ALL,
    NEW,
    OLD,
    RollbackLab,
    Worker,
    brought_back,
    forget_the_marks,
    rollback_lab_of,
)

if TYPE_CHECKING:
    import pymongo

NOTE = "cachekeeper:was-empty"


@pytest.mark.parametrize("first", ["a worker", "a reader"])
def test_a_server_that_began_empty_is_left_alone(
    any_redis: RedisServer,
    guardian: Guardian,
    mongo_server: MongoServer,
    database: str,
    watched_mongo: tuple[pymongo.MongoClient[Any], Reads],
    first: str,
) -> None:
    server = RedisServer(guardian, any_redis.found, name="empty")
    server.start()
    watched_mongo[1].reset()  # another test may have left somebody at a gate
    shop = Shop(server, mongo_server, database, *watched_mongo)
    try:
        with server.client() as client:
            tells = "rdb_last_load_keys_loaded" in client.info("persistence")
        assert tells == (not any_redis.found.version.startswith("6.2.")), (
            "or a test of Redis 6.2 has become one of others"
        )
        keeper = shop.keeper()
        put_user(shop, "Ann", 1)
        worker = Worker(keeper)
        for _ in range(2):
            if first == "a reader":
                assert read_user(1, keeper=keeper) == "Ann"
                # Redis 6.2 does not tell what it began with: the key may be of a snapshot.
                assert worker.run_once() == ([] if tells else ALL)
            else:
                assert worker.run_once() == []
            assert read_user(1, keeper=keeper) == "Ann"
            assert (worker.run_once(), Worker(keeper).run_once()) == ([], []), "whoever looks"
            assert shop.redis.exists("user:1:name")
            server.restart()
    finally:
        shop.close()
        server.kill()


@pytest.fixture(params=list(KINDS.values()), ids=list(KINDS))
def rollback_lab(
    request: pytest.FixtureRequest,
    guardian: Guardian,
    redis_found: FoundServer,
    mongo_server: MongoServer,
    database: str,
    watched_mongo: tuple[pymongo.MongoClient[Any], Reads],
) -> Iterator[RollbackLab]:
    with rollback_lab_of(request.param, guardian, redis_found, mongo_server, database, watched_mongo) as rollback_lab:
        yield rollback_lab


def needs_a_note(rollback_lab: RollbackLab) -> bool:
    """Whether the server itself does not tell that it began empty."""
    return not rollback_lab.tells or isinstance(rollback_lab.older, FromAppendOnlyFile)


def test_what_one_worker_saw_of_an_empty_server_all_know(rollback_lab: RollbackLab) -> None:
    assert rollback_lab.worker.run_once() == []
    assert rollback_lab.shop.redis.exists(NOTE) == needs_a_note(rollback_lab)
    rollback_lab.stock()
    forget_the_marks(rollback_lab)
    assert Worker(rollback_lab.keeper).run_once() == []
    assert rollback_lab.shop.redis.exists(READY), "nothing was dropped"
    assert rollback_lab.seen() == OLD


# With such a file no server tells what it began with.
@pytest.mark.parametrize("rollback_lab", [FromAppendOnlyFile], indirect=True)
def test_a_worker_s_own_first_keys_are_not_taken_for_older_data(
    rollback_lab: RollbackLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = RollbackWatch.run_once

    def late_look(watch: RollbackWatch) -> list[str]:
        """As on a busy machine: the worker's other threads write first, unless they wait for this one."""
        deadline = time.monotonic() + 1
        while not rollback_lab.shop.redis.exists(READY) and time.monotonic() < deadline:
            time.sleep(0.01)
        return look(watch)

    monkeypatch.setattr(RollbackWatch, "run_once", late_look)
    rollback_lab.shop.redis.flushall()
    dropped = COUNTERS["rollback_dropped"]
    delivery = Processor(rollback_lab.keeper.settings, REGISTRY)
    delivery.start()
    try:
        wait_until(lambda: rollback_lab.shop.redis.exists(READY), "the blocklist written")
        wait_until(
            lambda: len(rollback_lab.shop.redis.keys("cachekeeper:*-incarnation")) == len(ALL), "all views marked"
        )
    finally:
        delivery.stop()
        delivery.keeper.close()
    assert COUNTERS["rollback_dropped"] == dropped


@pytest.mark.parametrize("rollback_lab", [FromAppendOnlyFile], indirect=True)
def test_a_redis_that_hangs_delays_a_worker_s_start_by_its_time_limits_only(rollback_lab: RollbackLab) -> None:
    delivery = Processor(rollback_lab.shop.settings(redis_timeout_seconds=0.1), REGISTRY)
    rollback_lab.older.server.pause()
    try:
        began = time.monotonic()
        delivery.start()
        assert time.monotonic() - began < 10, "much more than the limits, much less than for ever"
        assert not delivery.pause.is_over
    finally:
        rollback_lab.older.server.resume()
        delivery.stop()
        delivery.keeper.close()


@pytest.mark.parametrize("rollback_lab", [FromAppendOnlyFile], indirect=True)
def test_a_server_with_nothing_but_a_worker_s_probe_and_note_is_empty(rollback_lab: RollbackLab) -> None:
    """A worker's gate may open before its watch has seen a server that was away."""
    rollback_lab.shop.redis.flushall()
    rollback_lab.shop.redis.mset({"cachekeeper:probe": "true", NOTE: "of an earlier life"})
    assert rollback_lab.worker.run_once() == []


@pytest.mark.parametrize("rollback_lab", [FromAppendOnlyFile], indirect=True)
def test_a_server_with_one_key_more_is_not(rollback_lab: RollbackLab) -> None:
    rollback_lab.shop.redis.flushall()
    rollback_lab.shop.redis.mset({"cachekeeper:probe": "true", NOTE: "of an earlier life", "user:1:name": "Ann"})
    assert rollback_lab.worker.run_once() == ALL


def test_a_note_that_was_evicted_with_the_marks_is_missed_once(rollback_lab: RollbackLab) -> None:
    assert rollback_lab.worker.run_once() == []
    rollback_lab.stock()
    forget_the_marks(rollback_lab)
    rollback_lab.shop.redis.delete(NOTE)
    assert Worker(rollback_lab.keeper).run_once() == (ALL if needs_a_note(rollback_lab) else [])
    assert Worker(rollback_lab.keeper).run_once() == []
    assert rollback_lab.seen() == OLD, "from the database"


def noted_and_brought_back(rollback_lab: RollbackLab) -> list[str]:
    """The older data has a note of its own life, which began empty, and no marks; what the first look drops."""
    assert rollback_lab.worker.run_once() == []
    forget_the_marks(rollback_lab)
    return brought_back(rollback_lab, first_look=False)


def test_an_older_note_of_an_empty_server_fits_no_later_life(rollback_lab: RollbackLab) -> None:
    assert noted_and_brought_back(rollback_lab) == ALL
    assert rollback_lab.seen() == NEW


# With such a file no server tells what it began with.
@pytest.mark.parametrize("rollback_lab", [FromAppendOnlyFile], indirect=True)
def test_a_watch_to_which_it_does_fit_is_caught(rollback_lab: RollbackLab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Incarnation, "wrote", lambda *_: True)
    assert noted_and_brought_back(rollback_lab) == []
    assert rollback_lab.seen() == OLD
