"""A Redis that comes back with older data: what it brought back is dropped, and nothing is dropped without need."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

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

    from cachekeeper.reading.keeper import Keeper


@pytest.fixture(params=list(KINDS.values()), ids=list(KINDS))
def any_rollback_lab(
    request: pytest.FixtureRequest,
    guardian: Guardian,
    redis_found: FoundServer,
    mongo_server: MongoServer,
    database: str,
    watched_mongo: tuple[pymongo.MongoClient[Any], Reads],
) -> Iterator[RollbackLab]:
    with rollback_lab_of(request.param, guardian, redis_found, mongo_server, database, watched_mongo) as rollback_lab:
        yield rollback_lab


@pytest.fixture
def rollback_lab(
    guardian: Guardian,
    redis_found: FoundServer,
    mongo_server: MongoServer,
    database: str,
    watched_mongo: tuple[pymongo.MongoClient[Any], Reads],
) -> Iterator[RollbackLab]:
    """With snapshots."""
    with rollback_lab_of(FromSnapshot, guardian, redis_found, mongo_server, database, watched_mongo) as rollback_lab:
        yield rollback_lab


# --- what is brought back is dropped ----------------------------------------------------------------------------------


def test_older_data_is_dropped(any_rollback_lab: RollbackLab) -> None:
    assert brought_back(any_rollback_lab) == ALL
    assert any_rollback_lab.shop.redis.exists(READY) == 0
    assert any_rollback_lab.seen() == NEW
    assert any_rollback_lab.worker.run_once() == [], "once"
    assert write_blocks(any_rollback_lab.keeper, BLOCKED) is Passed.READY
    reads = any_rollback_lab.shop.reads.count
    assert any_rollback_lab.seen() == NEW
    assert any_rollback_lab.shop.reads.count == reads, "all of it from Redis"


def test_it_can_come_back_again_with_the_same_data_and_be_found_by_another_worker(rollback_lab: RollbackLab) -> None:
    assert brought_back(rollback_lab) == ALL
    rollback_lab.older.come_back()
    assert rollback_lab.seen() == OLD
    assert Worker(rollback_lab.keeper).run_once() == ALL
    assert rollback_lab.seen() == NEW
    assert rollback_lab.worker.run_once() == []


def test_a_snapshot_from_before_the_mark_is_dropped(rollback_lab: RollbackLab) -> None:
    rollback_lab.stock()
    rollback_lab.older.remember()
    rollback_lab.change()
    # Its keys were there before anybody looked. One that does not tell what it began with may have loaded them.
    assert rollback_lab.worker.run_once() == ([] if rollback_lab.tells else ALL)
    assert rollback_lab.worker.run_once() == []
    assert rollback_lab.seen() == NEW
    rollback_lab.older.come_back()
    assert rollback_lab.worker.run_once() == ALL
    assert rollback_lab.seen() == NEW


def demoted_and_promoted(rollback_lab: RollbackLab, guardian: Guardian) -> None:
    """The same process has, for a moment, been the replica of one that had missed changes."""
    rollback_lab.stock()
    other = RedisServer(guardian, rollback_lab.older.found, replica_of=rollback_lab.older.server, name="other")
    other.start()
    try:
        assert rollback_lab.worker.run_once() == [], "a replica has come: that is no rollback"
        with rollback_lab.older.server.client() as mine, other.client() as theirs:
            assert mine.wait(1, 10_000) == 1
            theirs.replicaof("NO", "ONE")
            rollback_lab.change()
            mine.execute_command("REPLICAOF", "127.0.0.1", other.port)
            assert Worker(rollback_lab.keeper).run_once() == [], "a replica takes no writes"
            wait_until(lambda: mine.info("replication")["master_link_status"] == "up", "the older data")
            mine.replicaof("NO", "ONE")
    finally:
        other.kill()
    assert rollback_lab.seen() == OLD


def test_a_process_that_was_a_replica_for_a_while_has_older_data(rollback_lab: RollbackLab, guardian: Guardian) -> None:
    assert rollback_lab.worker.run_once() == []
    demoted_and_promoted(rollback_lab, guardian)
    assert rollback_lab.worker.run_once() == ALL
    assert rollback_lab.seen() == NEW


def test_what_only_redis_knows_is_spared(rollback_lab: RollbackLab) -> None:
    rollback_lab.shop.redis.set("session:theirs", '{"by": "node"}', ex=1800)
    assert brought_back(rollback_lab) == ALL
    assert read_session("theirs", keeper=rollback_lab.keeper) == {"by": "node"}


def test_a_lease_that_the_snapshot_brought_back_fills_nothing(rollback_lab: RollbackLab) -> None:
    assert rollback_lab.worker.run_once() == []
    put_user(rollback_lab.shop, "Ann", 1)
    gate = Gate()
    rollback_lab.shop.reads.after.append(gate)
    with threads() as go:
        slow = go(read_user, 1, keeper=rollback_lab.keeper)
        gate.wait_for_arrival()  # it has loaded the old name, under a lease
        rollback_lab.older.remember()
        put_user(rollback_lab.shop, "Bea", 2)
        changed_user(rollback_lab.keeper, "Bea", 2)
        rollback_lab.older.come_back()
        assert "user_name" in rollback_lab.worker.run_once()
        gate.open()
        assert slow.result() == "Ann"  # it began before the change
    assert read_user(1, keeper=rollback_lab.keeper) == "Bea"


def test_ready_said_by_a_pass_that_the_restart_has_cut_in_two_is_taken_back(rollback_lab: RollbackLab) -> None:
    """nonce · snapshot · blocks written · restart from the snapshot, with the nonce and without the blocks · ready"""
    assert rollback_lab.worker.run_once() == []
    rollback_lab.shop.db.blocked_tokens.insert_one({"_id": TOKEN, "expires_at": None})
    renew = rollback_lab.shop.redis

    def restart(written: int) -> None:
        assert written == 1
        assert renew.exists(f"blocked:{TOKEN}")
        renew.delete(f"blocked:{TOKEN}")  # as of the moment before
        rollback_lab.older.remember()
        rollback_lab.older.come_back()

    assert write_blocks(rollback_lab.keeper, BLOCKED, tell=restart) is Passed.READY
    assert not is_blocked(TOKEN, keeper=rollback_lab.keeper), "until somebody looks"
    assert "blocked" in rollback_lab.worker.run_once()
    assert is_blocked(TOKEN, keeper=rollback_lab.keeper)


# --- and would not be -------------------------------------------------------------------------------------------------


def nothing_is_dropped(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(rollbacks, "drop_view", lambda *_: 0)


def ready_stays(patch: pytest.MonkeyPatch) -> None:
    def drop(keeper: Keeper, view: Any, reason: str) -> int:
        return 0 if isinstance(view, BlocklistView) else drop_view(keeper, view, reason)

    patch.setattr(rollbacks, "drop_view", drop)


def only_one_server_is_watched(patch: pytest.MonkeyPatch) -> None:
    look = Worker.run_once
    patch.setattr(
        Worker, "run_once", lambda self: (self.watches.pop() if len(self.watches) > 1 else None, look(self))[1]
    )


@pytest.mark.parametrize("mutant", [nothing_is_dropped, ready_stays, only_one_server_is_watched])
def test_a_watch_that_leaves_something_is_caught(
    rollback_lab: RollbackLab, monkeypatch: pytest.MonkeyPatch, mutant: Any
) -> None:
    mutant(monkeypatch)
    brought_back(rollback_lab)
    assert rollback_lab.seen() != NEW


def test_a_watch_that_takes_data_without_a_mark_for_new_is_caught(
    rollback_lab: RollbackLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    of = Incarnation.of
    monkeypatch.setattr(Incarnation, "of", lambda info: replace(of(info), was_empty=True))
    rollback_lab.stock()
    rollback_lab.older.remember()
    rollback_lab.change()
    rollback_lab.older.come_back()
    rollback_lab.worker.run_once()
    assert rollback_lab.seen() == OLD


def test_a_watch_that_compares_the_run_id_alone_is_caught(
    rollback_lab: RollbackLab, guardian: Guardian, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Incarnation, "wrote", lambda self, mark: mark.startswith(self.run_id))
    assert rollback_lab.worker.run_once() == []
    demoted_and_promoted(rollback_lab, guardian)
    assert rollback_lab.worker.run_once() == []
    assert rollback_lab.seen() == OLD


# --- nothing is dropped without need ----------------------------------------------------------------------------------


def test_a_flush_or_an_eviction_of_the_marks_is_no_rollback(rollback_lab: RollbackLab) -> None:
    rollback_lab.shop.redis.set("something", "loaded")
    rollback_lab.older.remember()
    rollback_lab.older.come_back()
    assert rollback_lab.worker.run_once() == ALL, "it began with something"
    rollback_lab.shop.flush()
    assert read_user(1, keeper=rollback_lab.keeper) is None
    assert rollback_lab.worker.run_once() == []
    assert rollback_lab.worker.run_once() == []
    forget_the_marks(rollback_lab)
    assert rollback_lab.worker.run_once() == []
    assert Worker(rollback_lab.keeper).run_once() == [], "the marks are there again"


# --- several workers, outages -----------------------------------------------------------------------------------------


def test_of_two_workers_one_drops_a_view_and_the_other_when_that_one_has_died(
    rollback_lab: RollbackLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Worker(rollback_lab.shop.keeper())
    gate, dropped = Gate(), []

    def drop(keeper: Keeper, view: Any, reason: str) -> int:
        if view is USER_NAME:
            dropped.append(threading.current_thread())
            gate.stop()
        return drop_view(keeper, view, reason)

    monkeypatch.setattr(rollbacks, "drop_view", drop)
    assert rollback_lab.worker.run_once() == other.run_once() == []
    rollback_lab.stock()
    rollback_lab.older.remember()
    rollback_lab.change()
    rollback_lab.older.come_back()
    with threads() as go:
        first = go(rollback_lab.worker.run_once)
        gate.wait_for_arrival()
        assert "user_name" not in other.run_once(), "somebody is at it"
        # For all the others know, the first one has died: its lease ends.
        (lease,) = rollback_lab.shop.redis.keys("cachekeeper:user_name-dropping-*")
        rollback_lab.shop.redis.delete(lease)
        gate.open()
        assert "user_name" in other.run_once() + first.result()
    assert rollback_lab.seen() == NEW
    assert rollback_lab.worker.run_once() == other.run_once() == []


def test_an_outage_leaves_the_rest_to_the_next_look(rollback_lab: RollbackLab) -> None:
    with_nobody = Worker(rollback_lab.shop.keeper(watched=False, mongodb_url=NOWHERE_MONGO, load_timeout_seconds=0.2))
    assert rollback_lab.worker.run_once() == []
    rollback_lab.stock()
    rollback_lab.older.remember()
    rollback_lab.change()
    rollback_lab.older.come_back()
    with pytest.raises(DatabaseUnavailable):
        with_nobody.run_once()
    assert rollback_lab.shop.redis.exists(READY) == 0, "what needs no database has gone"
    assert read_user(1, keeper=rollback_lab.keeper) == "Bea"
    rollback_lab.older.server.pause()
    with pytest.raises(CacheUnavailable):
        Worker(rollback_lab.shop.keeper(redis_timeout_seconds=0.1)).run_once()
    rollback_lab.older.server.resume()
    assert rollback_lab.worker.run_once() == ["session"]
    assert rollback_lab.seen() == NEW


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
