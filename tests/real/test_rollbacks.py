"""A Redis that comes back with older data: what it brought back is dropped, and nothing is dropped without need."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from benchmarks.older_redis import KINDS, FromSnapshot, OlderRedis
from cachekeeper import metrics, rollbacks
from cachekeeper.dropping import drop_view
from cachekeeper.embedded import FoundServer, Guardian, MongoServer, RedisServer
from cachekeeper.errors import CacheUnavailable, DatabaseUnavailable
from cachekeeper.rollbacks import Incarnation, RollbackWatch
from cachekeeper.views import BlocklistView, Server
from cachekeeper.warming import Passed, write_blocks
from lookups import (
    BLOCKED,
    SEARCH,
    SESSION,
    USER_NAME,
    block_token,
    is_blocked,
    read_session,
    read_user,
    save_session,
    search_products,
)
from producers import UserUpdated
from tests.real.delivering import Site
from tests.real.tokens import NOWHERE_MONGO, READY, TOKEN
from tests.shop import Gate, Reads, Shop, changed_user, put_user, threads
from tests.waiting import wait_until

if TYPE_CHECKING:
    import pymongo

    from cachekeeper.keeper import Keeper

ALL = ["user_name", "search", "blocked", "session"]
OLD = {"name": "Ann", "session": {"cart": [1]}, "found": ["Lamp"], "blocked": False}
NEW = {"name": "Bea", "session": {"cart": [2]}, "found": ["Lamp", "Lamp shade"], "blocked": True}


class Worker:
    """What looks for older data in one worker process."""

    def __init__(self, keeper: Keeper) -> None:
        self.watches = [
            RollbackWatch(keeper, Server.CACHE, [USER_NAME, SEARCH]),
            RollbackWatch(keeper, Server.SECURITY, [SESSION, BLOCKED]),
        ]

    def look(self) -> list[str]:
        """The views that were dropped."""
        return [name for watch in self.watches for name in watch.look()]


class Place:
    """A Redis that comes back older, a database, and a process that reads and writes."""

    def __init__(self, older: OlderRedis, shop: Shop) -> None:
        self.older = older
        self.shop = shop
        self.keeper = shop.keeper()
        self.worker = Worker(self.keeper)

    def seen(self) -> dict[str, object]:
        """What readers are told."""
        return {
            "name": read_user(1, keeper=self.keeper),
            "session": read_session("s1", keeper=self.keeper),
            "found": [product["name"] for product in search_products("lamp", keeper=self.keeper)],
            "blocked": is_blocked(TOKEN, keeper=self.keeper),
        }

    def stock(self) -> None:
        """One of each in the database and in Redis, which is ready."""
        put_user(self.shop, "Ann", 1)
        self.shop.db.products.insert_one({"_id": 1, "name": "Lamp"})
        save_session("s1", {"cart": [1]}, keeper=self.keeper)
        assert write_blocks(self.keeper, BLOCKED) is Passed.READY
        assert self.seen() == OLD

    def change(self) -> None:
        """Change all of it. Every change is acknowledged."""
        put_user(self.shop, "Bea", 2)
        changed_user(self.keeper, "Bea", 2)
        save_session("s1", {"cart": [2]}, keeper=self.keeper)
        self.shop.db.products.insert_one({"_id": 2, "name": "Lamp shade"})
        drop_view(self.keeper, SEARCH, "a new product")
        block_token(TOKEN, None, keeper=self.keeper)
        assert self.seen() == NEW


def place_of(
    kind: type[OlderRedis],
    guardian: Guardian,
    found: FoundServer,
    mongo: MongoServer,
    database: str,
    watched: tuple[pymongo.MongoClient[Any], Reads],
) -> Iterator[Place]:
    client, reads = watched
    reads.reset()
    with kind(guardian, found) as older:
        shop = Shop(older.server, mongo, database, client, reads)
        try:
            yield Place(older, shop)
        finally:
            shop.close()


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
    yield from place_of(request.param, guardian, redis_found, mongo_server, database, watched_mongo)


@pytest.fixture
def place(
    guardian: Guardian,
    redis_found: FoundServer,
    mongo_server: MongoServer,
    database: str,
    watched_mongo: tuple[pymongo.MongoClient[Any], Reads],
) -> Iterator[Place]:
    """With snapshots."""
    yield from place_of(FromSnapshot, guardian, redis_found, mongo_server, database, watched_mongo)


# --- what is brought back is dropped ----------------------------------------------------------------------------------


def brought_back(place: Place) -> list[str]:
    """Older data comes back, and a worker looks; which views it dropped."""
    place.worker.look()
    place.stock()
    place.older.remember()
    place.change()
    place.older.come_back()
    assert place.seen() == OLD, "the older data is what readers are told"
    return place.worker.look()


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
    assert place.worker.look() == []
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


def test_a_server_that_began_empty_is_left_alone(
    any_redis: RedisServer,
    guardian: Guardian,
    mongo_server: MongoServer,
    database: str,
    watched_mongo: tuple[pymongo.MongoClient[Any], Reads],
) -> None:
    with any_redis.client() as client:
        tells = "rdb_last_load_keys_loaded" in client.info("persistence")
    server = RedisServer(guardian, any_redis.found, name="empty")
    server.start()
    watched_mongo[1].reset()  # another test may have left somebody at a gate
    shop = Shop(server, mongo_server, database, *watched_mongo)
    try:
        keeper = shop.keeper()
        put_user(shop, "Ann", 1)
        worker = Worker(keeper)
        for _ in range(2):
            assert read_user(1, keeper=keeper) == "Ann"  # readers may come before the first look
            assert worker.look() == ([] if tells else ALL)  # Redis 6.2 does not tell what it began with
            assert read_user(1, keeper=keeper) == "Ann"
            assert (worker.look(), Worker(keeper).look()) == ([], []), "whoever looks"
            assert shop.redis.exists("user:1:name")
            server.restart()
    finally:
        shop.close()
        server.kill()


def test_a_flush_or_an_eviction_of_the_marks_is_no_rollback(place: Place) -> None:
    place.shop.redis.set("something", "loaded")
    place.older.remember()
    place.older.come_back()
    assert place.worker.look() == ALL, "it began with something"
    place.shop.flush()
    assert read_user(1, keeper=place.keeper) is None
    assert place.worker.look() == []
    assert place.worker.look() == []
    place.shop.redis.delete(*place.shop.redis.keys("cachekeeper:*-incarnation"))
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
