"""MongoDB's half of a batch: what it costs, and what becomes of the blocks."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import TYPE_CHECKING

import pymongo
import pytest

from cachekeeper.applying import batch as applying
from cachekeeper.applying import mongo_writes as persisting
from cachekeeper.model.commands import Block, Command, Persist
from lookups import BLOCKED, SESSION, is_blocked
from lookups.sessions import END_SESSION
from testkit.failpoints import delay_writes
from testkit.limits import PATIENT
from testkit.taps import MongoTap
from testkit.tokens import keeping
from tests.integration.applying.logouts import LATER, LATEST, blocks_of, ended, failures, logout, logouts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pymongo import UpdateOne
    from pymongo.monitoring import CommandStartedEvent

    from cachekeeper.devservers import MongoServer, RedisServer
    from cachekeeper.errors import CachekeeperError
    from cachekeeper.reading.keeper import Keeper

EVENTS = 40


def costs(keeper: Keeper, mongo: MongoTap, batch: Sequence[Sequence[Command]]) -> dict[str, list[str]]:
    """The commands that a batch costs, by collection."""
    mongo.commands.clear()
    assert failures(keeper, batch) == []
    return {name: mongo.of(name) for name in ("sessions", "blocked_tokens")}


def a_batch_costs_one_command_a_collection(keeper: Keeper, mongo: MongoTap) -> None:
    batch = logouts(EVENTS)
    assert costs(keeper, mongo, batch) == {"sessions": ["update"], "blocked_tokens": ["update"]}
    assert len(ended(mongo)) == EVENTS
    assert set(blocks_of(mongo).values()) == {LATER.replace(tzinfo=None)}
    assert all(is_blocked(f"t{number}", keeper=keeper) for number in range(EVENTS))


def test_a_batch_costs_one_command_a_collection(keeper: Keeper, mongo: MongoTap) -> None:
    a_batch_costs_one_command_a_collection(keeper, mongo)


def test_one_write_after_the_other_is_found(keeper: Keeper, mongo: MongoTap, monkeypatch: pytest.MonkeyPatch) -> None:
    together = persisting._bulk

    def one_by_one(keeper: Keeper, name: str, writes: Sequence[UpdateOne], doing: str) -> persisting._Written:
        each = [together(keeper, name, [write], doing) for write in writes]
        inserted = frozenset(place for place, written in enumerate(each) if written.inserted)
        return persisting._Written(inserted, sum(written.found for written in each), {})

    monkeypatch.setattr(persisting, "_bulk", one_by_one)
    with pytest.raises(AssertionError, match=r"At index|Left contains|Differing"):
        a_batch_costs_one_command_a_collection(keeper, mongo)


def test_a_large_batch_takes_one_for_each_hundred(keeper: Keeper, mongo: MongoTap) -> None:
    sizes: list[int] = []

    def before(event: CommandStartedEvent) -> None:
        sizes.append(len(event.command["updates"]))

    mongo.before = before
    assert failures(keeper, logouts(250)) == []
    assert sizes == 2 * [100, 100, 50]


def an_event_of_many_commands_is_applied(redis_server: RedisServer, failing: MongoServer) -> None:
    """Three commands of 2 s each, and a time limit of five seconds."""
    event: list[Command] = [Persist(SESSION, f"s{number}", END_SESSION) for number in range(300)]
    with (
        MongoTap(failing, "shop") as mongo,
        keeping(redis_server.url, mongo, **{**PATIENT, "load_timeout_seconds": 5}) as keeper,
    ):
        mongo.database["sessions"].drop()
        delay_writes(failing, 2000)
        assert failures(keeper, [event]) == []
        assert len(ended(mongo)) == 300


def test_an_event_of_many_commands_is_applied(redis_server: RedisServer, failing: MongoServer) -> None:
    an_event_of_many_commands_is_applied(redis_server, failing)


def test_one_time_limit_for_all_of_them_is_found(
    redis_server: RedisServer, failing: MongoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would fail each time, and in the end become a dead letter."""
    persist = persisting.persist

    def within_one(keeper: Keeper, batch: Sequence[Sequence[Command]]) -> list[CachekeeperError | None]:
        with pymongo.timeout(keeper.settings.load_timeout_seconds):
            return persist(keeper, batch)

    monkeypatch.setattr(applying, "persist", within_one)
    with pytest.raises(AssertionError, match=r"\[0\] == \[\]"):
        an_event_of_many_commands_is_applied(redis_server, failing)


def test_blocks_that_are_there_cost_one_command_more(keeper: Keeper, mongo: MongoTap) -> None:
    batch = logouts(EVENTS)
    costs(keeper, mongo, batch[: EVENTS // 2])
    assert costs(keeper, mongo, batch)["blocked_tokens"] == ["update", "update"]
    assert costs(keeper, mongo, batch)["blocked_tokens"] == ["update", "update"]


def test_of_one_batch_each_block_gets_the_longest(keeper: Keeper, mongo: MongoTap) -> None:
    untils = {0: (LATER, LATEST), 1: (LATEST, LATER), 2: (LATER, None), 3: (None, LATER), 4: (LATER, LATER)}
    batch = [logout(number, until) for number, pair in untils.items() for until in pair]
    batch.append([Block(BLOCKED, "over", LATER - timedelta(days=2))])
    assert failures(keeper, batch) == []
    latest, later = LATEST.replace(tzinfo=None), LATER.replace(tzinfo=None)
    assert blocks_of(mongo) == {"t0": latest, "t1": latest, "t2": None, "t3": None, "t4": later}


def test_blocks_of_one_batch_that_the_ttl_index_removes_are_written_again(keeper: Keeper, mongo: MongoTap) -> None:
    """Insert: there already, and shorter · the TTL index removes two of them · lengthen: two are not there."""
    batch = [logout(number, LATEST if number else None) for number in range(4)]
    blocks = mongo.database["blocked_tokens"]
    blocks.insert_many([{"_id": f"t{number}", "expires_at": LATER} for number in range(4)])

    def before(event: CommandStartedEvent) -> None:
        if event.command.get("update") == "blocked_tokens" and "upsert" not in event.command["updates"][0]:
            mongo.before = lambda _event: None
            blocks.delete_many({"_id": {"$in": ["t0", "t1"]}})

    mongo.before = before
    assert failures(keeper, batch) == []
    latest = LATEST.replace(tzinfo=None)
    assert blocks_of(mongo) == {"t0": None, "t1": latest, "t2": latest, "t3": latest}


def test_several_workers_at_once_leave_the_longest_of_each_block(keeper: Keeper, mongo: MongoTap) -> None:
    """They insert the same documents, and lengthen each other's; none of them is refused for that."""
    untils = [LATER + timedelta(minutes=minute) for minute in range(4)]
    batches = [logouts(100, until) for until in untils]
    for _ in range(10):
        mongo.database["blocked_tokens"].delete_many({})
        together = threading.Barrier(len(batches))

        def work(batch: Sequence[Sequence[Command]], together: threading.Barrier = together) -> list[int]:
            together.wait()
            return failures(keeper, batch)

        with ThreadPoolExecutor(len(batches)) as workers:
            assert list(workers.map(work, batches)) == [[], [], [], []]
        assert set(blocks_of(mongo).values()) == {untils[-1].replace(tzinfo=None)}
