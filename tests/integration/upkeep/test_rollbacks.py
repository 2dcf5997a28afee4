"""A Redis that comes back with older data: what it brought back is dropped, and nothing is dropped without need."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from cachekeeper import metrics
from cachekeeper.applying.drop_view import drop_view
from cachekeeper.devservers import FoundServer, Guardian, MongoServer, RedisServer
from cachekeeper.errors import CacheUnavailable, DatabaseUnavailable
from cachekeeper.model.views import BlocklistView
from cachekeeper.upkeep import rollback_watch as rollbacks
from cachekeeper.upkeep.blocklist_warming import Passed, write_blocks
from cachekeeper.upkeep.rollback_watch import Incarnation
from lookups import (
    BLOCKED,
    USER_NAME,
    block_token,
    is_blocked,
    read_session,
    read_user,
)
from producers import UserUpdated
from testkit.delivering import Site
from testkit.gates import Gate, threads
from testkit.older_redis import KINDS, FromSnapshot
from testkit.shop import changed_user, put_user
from testkit.tokens import NOWHERE_MONGO, READY, TOKEN
from testkit.waiting import wait_until
from testkit.watching import Reads
from tests.integration.upkeep.rollback_lab import ALL, NEW, OLD, Place, Worker, brought_back, forget_the_marks, place_of

if TYPE_CHECKING:
    import pymongo

    from cachekeeper.reading.keeper import Keeper


@pytest.fixture(autouse=True)
def _forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "_said", set())


@pytest.fixture(params=list(KINDS.values()), ids=list(KINDS))
def any_place(
    request: pytest.FixtureRequest,
    guardian: Guardian,
    redis_found: FoundServer,
    mongo_server: MongoServer,
    database: str,
    watched_mongo: tuple[pymongo.MongoClient[Any], Reads],
) -> Iterator[Place]:
    with place_of(request.param, guardian, redis_found, mongo_server, database, watched_mongo) as place:
        yield place


@pytest.fixture
def place(
    guardian: Guardian,
    redis_found: FoundServer,
    mongo_server: MongoServer,
    database: str,
    watched_mongo: tuple[pymongo.MongoClient[Any], Reads],
) -> Iterator[Place]:
    """With snapshots."""
    with place_of(FromSnapshot, guardian, redis_found, mongo_server, database, watched_mongo) as place:
        yield place


# --- what is brought back is dropped ----------------------------------------------------------------------------------


def test_older_data_is_dropped(any_place: Place) -> None:
    assert brought_back(any_place) == ALL
    assert any_place.shop.redis.exists(READY) == 0
    assert any_place.seen() == NEW
    assert any_place.worker.look() == [], "once"
    assert write_blocks(any_place.keeper, BLOCKED) is Passed.READY
    reads = any_place.shop.reads.count
    assert any_place.seen() == NEW
    assert any_place.shop.reads.count == reads, "all of it from Redis"


def test_it_can_come_back_again_with_the_same_data_and_be_found_by_another_worker(place: Place) -> None:
    assert brought_back(place) == ALL
    place.older.come_back()
    assert place.seen() == OLD
    assert Worker(place.keeper).look() == ALL
    assert place.seen() == NEW
    assert place.worker.look() == []


def test_a_snapshot_from_before_the_mark_is_dropped(place: Place) -> None:
    place.stock()
    place.older.remember()
    place.change()
    # Its keys were there before anybody looked. One that does not tell what it began with may have loaded them.
    assert place.worker.look() == ([] if place.tells else ALL)
    assert place.worker.look() == []
    assert place.seen() == NEW
    place.older.come_back()
    assert place.worker.look() == ALL
    assert place.seen() == NEW


def demoted_and_promoted(place: Place, guardian: Guardian) -> None:
    """The same process has, for a moment, been the replica of one that had missed changes."""
    place.stock()
    other = RedisServer(guardian, place.older.found, replica_of=place.older.server, name="other")
    other.start()
    try:
        assert place.worker.look() == [], "a replica has come: that is no rollback"
        with place.older.server.client() as mine, other.client() as theirs:
            assert mine.wait(1, 10_000) == 1
            theirs.replicaof("NO", "ONE")
            place.change()
            mine.execute_command("REPLICAOF", "127.0.0.1", other.port)
            assert Worker(place.keeper).look() == [], "a replica takes no writes"
            wait_until(lambda: mine.info("replication")["master_link_status"] == "up", "the older data")
            mine.replicaof("NO", "ONE")
    finally:
        other.kill()
    assert place.seen() == OLD


def test_a_process_that_was_a_replica_for_a_while_has_older_data(place: Place, guardian: Guardian) -> None:
    assert place.worker.look() == []
    demoted_and_promoted(place, guardian)
    assert place.worker.look() == ALL
    assert place.seen() == NEW


def test_what_only_redis_knows_is_spared(place: Place) -> None:
    place.shop.redis.set("session:theirs", '{"by": "node"}', ex=1800)
    assert brought_back(place) == ALL
    assert read_session("theirs", keeper=place.keeper) == {"by": "node"}


def test_a_lease_that_the_snapshot_brought_back_fills_nothing(place: Place) -> None:
    assert place.worker.look() == []
    put_user(place.shop, "Ann", 1)
    gate = Gate()
    place.shop.reads.after.append(gate)
    with threads() as go:
        slow = go(read_user, 1, keeper=place.keeper)
        gate.wait_for_arrival()  # it has loaded the old name, under a lease
        place.older.remember()
        put_user(place.shop, "Bea", 2)
        changed_user(place.keeper, "Bea", 2)
        place.older.come_back()
        assert "user_name" in place.worker.look()
        gate.open()
        assert slow.result() == "Ann"  # it began before the change
    assert read_user(1, keeper=place.keeper) == "Bea"


def test_ready_said_by_a_pass_that_the_restart_has_cut_in_two_is_taken_back(place: Place) -> None:
    """nonce · snapshot · blocks written · restart from the snapshot, with the nonce and without the blocks · ready"""
    assert place.worker.look() == []
    place.shop.db.blocked_tokens.insert_one({"_id": TOKEN, "expires_at": None})
    renew = place.shop.redis

    def restart(written: int) -> None:
        assert written == 1
        assert renew.exists(f"blocked:{TOKEN}")
        renew.delete(f"blocked:{TOKEN}")  # as of the moment before
        place.older.remember()
        place.older.come_back()

    assert write_blocks(place.keeper, BLOCKED, tell=restart) is Passed.READY
    assert not is_blocked(TOKEN, keeper=place.keeper), "until somebody looks"
    assert "blocked" in place.worker.look()
    assert is_blocked(TOKEN, keeper=place.keeper)


# --- and would not be -------------------------------------------------------------------------------------------------


def nothing_is_dropped(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(rollbacks, "drop_view", lambda *_: 0)


def ready_stays(patch: pytest.MonkeyPatch) -> None:
    def drop(keeper: Keeper, view: Any, reason: str) -> int:
        return 0 if isinstance(view, BlocklistView) else drop_view(keeper, view, reason)

    patch.setattr(rollbacks, "drop_view", drop)


def only_one_server_is_watched(patch: pytest.MonkeyPatch) -> None:
    look = Worker.look
    patch.setattr(Worker, "look", lambda self: (self.watches.pop() if len(self.watches) > 1 else None, look(self))[1])


@pytest.mark.parametrize("mutant", [nothing_is_dropped, ready_stays, only_one_server_is_watched])
def test_a_watch_that_leaves_something_is_caught(place: Place, monkeypatch: pytest.MonkeyPatch, mutant: Any) -> None:
    mutant(monkeypatch)
    brought_back(place)
    assert place.seen() != NEW


def test_a_watch_that_takes_data_without_a_mark_for_new_is_caught(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    of = Incarnation.of
    monkeypatch.setattr(Incarnation, "of", lambda info: replace(of(info), was_empty=True))
    place.stock()
    place.older.remember()
    place.change()
    place.older.come_back()
    place.worker.look()
    assert place.seen() == OLD


def test_a_watch_that_compares_the_run_id_alone_is_caught(
    place: Place, guardian: Guardian, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Incarnation, "wrote", lambda self, mark: mark.startswith(self.run_id))
    assert place.worker.look() == []
    demoted_and_promoted(place, guardian)
    assert place.worker.look() == []
    assert place.seen() == OLD


# --- nothing is dropped without need ----------------------------------------------------------------------------------


def test_a_flush_or_an_eviction_of_the_marks_is_no_rollback(place: Place) -> None:
    place.shop.redis.set("something", "loaded")
    place.older.remember()
    place.older.come_back()
    assert place.worker.look() == ALL, "it began with something"
    place.shop.flush()
    assert read_user(1, keeper=place.keeper) is None
    assert place.worker.look() == []
    assert place.worker.look() == []
    forget_the_marks(place)
    assert place.worker.look() == []
    assert Worker(place.keeper).look() == [], "the marks are there again"


# --- several workers, outages -----------------------------------------------------------------------------------------


def test_of_two_workers_one_drops_a_view_and_the_other_when_that_one_has_died(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Worker(place.shop.keeper())
    gate, dropped = Gate(), []

    def drop(keeper: Keeper, view: Any, reason: str) -> int:
        if view is USER_NAME:
            dropped.append(threading.current_thread())
            gate.stop()
        return drop_view(keeper, view, reason)

    monkeypatch.setattr(rollbacks, "drop_view", drop)
    assert place.worker.look() == other.look() == []
    place.stock()
    place.older.remember()
    place.change()
    place.older.come_back()
    with threads() as go:
        first = go(place.worker.look)
        gate.wait_for_arrival()
        assert "user_name" not in other.look(), "somebody is at it"
        # For all the others know, the first one has died: its lease ends.
        (lease,) = place.shop.redis.keys("cachekeeper:user_name-dropping-*")
        place.shop.redis.delete(lease)
        gate.open()
        assert "user_name" in other.look() + first.result()
    assert place.seen() == NEW
    assert place.worker.look() == other.look() == []


def test_an_outage_leaves_the_rest_to_the_next_look(place: Place) -> None:
    with_nobody = Worker(place.shop.keeper(watched=False, mongodb_url=NOWHERE_MONGO, load_timeout_seconds=0.2))
    assert place.worker.look() == []
    place.stock()
    place.older.remember()
    place.change()
    place.older.come_back()
    with pytest.raises(DatabaseUnavailable):
        with_nobody.look()
    assert place.shop.redis.exists(READY) == 0, "what needs no database has gone"
    assert read_user(1, keeper=place.keeper) == "Bea"
    place.older.server.pause()
    with pytest.raises(CacheUnavailable):
        Worker(place.shop.keeper(redis_timeout_seconds=0.1)).look()
    place.older.server.resume()
    assert place.worker.look() == ["session"]
    assert place.seen() == NEW


def test_worker_processes_drop_it_by_themselves(
    guardian: Guardian, redis_found: FoundServer, redis_server: RedisServer, mongo_server: MongoServer, database: str
) -> None:
    with FromSnapshot(guardian, redis_found) as older:
        site = Site(guardian, redis_server, older.server, mongo_server, database)
        try:
            with site.working() as first, site.working() as second:
                site.db.users.insert_one({"_id": 1, "name": "Ann", "version": 1})
                wait_until(lambda: site.client.exists(READY), "ready")
                assert read_user(1, keeper=site.keeper) == "Ann"
                older.remember()
                site.db.users.update_one({"_id": 1}, {"$set": {"name": "Bea", "version": 2}})
                site.publish(UserUpdated(user_id="1", name="Bea", version=2))
                wait_until(lambda: read_user(1, keeper=site.keeper) == "Bea", "the event applied")
                block_token(TOKEN, None, keeper=site.keeper)
                older.come_back()
                wait_until(lambda: read_user(1, keeper=site.keeper) == "Bea", "the older name dropped")
                wait_until(lambda: is_blocked(TOKEN, keeper=site.keeper), "the older blocks not believed")
                wait_until(lambda: site.client.exists(READY, f"blocked:{TOKEN}") == 2, "ready again")
            said = first.log.read_text() + second.log.read_text()
            assert said.count("view user_name was dropped") == 1
        finally:
            site.close()
