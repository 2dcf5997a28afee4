"""MongoDB's half of a batch: one command a collection, and each event fails for itself."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pymongo
import pytest

from cachekeeper import applying, persisting
from cachekeeper.applying import apply
from cachekeeper.commands import Block, Command, Expire, Persist
from cachekeeper.embedded import MongoServer
from cachekeeper.errors import DatabaseUnavailable
from lookups import BLOCKED, SESSION, USER_NAME, is_blocked
from lookups.sessions import END_SESSION
from tests.real.taps import MongoTap
from tests.real.tokens import keeping
from tests.shop import PATIENT

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pymongo import UpdateOne
    from pymongo.monitoring import CommandStartedEvent

    from cachekeeper.embedded import FoundServer, Guardian, RedisServer
    from cachekeeper.keeper import Keeper

EVENTS = 40
LATER = datetime.now(UTC).replace(microsecond=0) + timedelta(days=1)
LATEST = LATER + timedelta(days=1)


def logout(number: int, until: datetime | None = LATER) -> list[Command]:
    name = f"s{number}"
    return [Persist(SESSION, name, END_SESSION), Expire(SESSION, name), Block(BLOCKED, f"t{number}", until)]


@pytest.fixture
def keeper(redis_server: RedisServer, mongo: MongoTap) -> Iterator[Keeper]:
    with keeping(redis_server.url, mongo, **PATIENT) as keeper:
        yield keeper


@pytest.fixture
def slow_mongo(guardian: Guardian, mongo_found: FoundServer) -> Iterator[MongoServer]:
    """A MongoDB that may be told to take its time."""
    server = MongoServer(guardian, mongo_found, parameters={"enableTestCommands": 1})
    server.start()
    yield server
    server.kill()


def failures(keeper: Keeper, batch: Sequence[Sequence[Command]]) -> list[int]:
    """Which of the events fail, each for MongoDB's sake."""
    errors = [result.error for result in apply(keeper, batch)]
    assert all(error is None or isinstance(error, DatabaseUnavailable) for error in errors)
    return [place for place, error in enumerate(errors) if error is not None]


def blocks_of(mongo: MongoTap) -> dict[str, datetime | None]:
    return {found["_id"]: found.get("expires_at") for found in mongo.database["blocked_tokens"].find()}


def costs(keeper: Keeper, mongo: MongoTap, batch: Sequence[Sequence[Command]]) -> dict[str, list[str]]:
    """The commands that a batch costs, by collection."""
    mongo.commands.clear()
    assert failures(keeper, batch) == []
    return {name: mongo.of(name) for name in ("sessions", "blocked_tokens")}


def a_batch_costs_one_command_a_collection(keeper: Keeper, mongo: MongoTap) -> None:
    batch = [logout(number) for number in range(EVENTS)]
    assert costs(keeper, mongo, batch) == {"sessions": ["update"], "blocked_tokens": ["update"]}
    assert mongo.database["sessions"].count_documents({"ended_at": {"$type": "date"}}) == EVENTS
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
    assert failures(keeper, [logout(number) for number in range(250)]) == []
    assert sizes == 2 * [100, 100, 50]


def an_event_of_many_commands_is_applied(redis_server: RedisServer, slow_mongo: MongoServer) -> None:
    """Four commands of 0.7 s each, and a time limit of two seconds."""
    event: list[Command] = [Persist(SESSION, f"s{number}", END_SESSION) for number in range(400)]
    slow = {"failCommands": ["update"], "blockConnection": True, "blockTimeMS": 700}
    with (
        slow_mongo.client() as client,
        MongoTap(slow_mongo, "shop") as mongo,
        keeping(redis_server.url, mongo, **{**PATIENT, "load_timeout_seconds": 2}) as keeper,
    ):
        client.admin.command({"configureFailPoint": "failCommand", "mode": "alwaysOn", "data": slow})
        try:
            assert failures(keeper, [event]) == []
        finally:
            client.admin.command({"configureFailPoint": "failCommand", "mode": "off"})
        assert mongo.database["sessions"].count_documents({"ended_at": {"$type": "date"}}) == 400


def test_an_event_of_many_commands_is_applied(redis_server: RedisServer, slow_mongo: MongoServer) -> None:
    an_event_of_many_commands_is_applied(redis_server, slow_mongo)


def test_one_time_limit_for_all_of_them_is_found(
    redis_server: RedisServer, slow_mongo: MongoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would fail each time, and in the end become a dead letter."""
    persist = persisting.persist

    def within_one(keeper: Keeper, batch: Sequence[Sequence[Command]]) -> list[DatabaseUnavailable | None]:
        with pymongo.timeout(keeper.settings.load_timeout_seconds):
            return persist(keeper, batch)

    monkeypatch.setattr(applying, "persist", within_one)
    with pytest.raises(AssertionError):
        an_event_of_many_commands_is_applied(redis_server, slow_mongo)


def test_blocks_that_are_there_cost_one_command_more(keeper: Keeper, mongo: MongoTap) -> None:
    batch = [logout(number) for number in range(EVENTS)]
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


@pytest.mark.parametrize(("collection", "which"), [("sessions", "s1"), ("blocked_tokens", "t1")])
def test_a_write_that_is_refused_leaves_out_its_event_only(
    keeper: Keeper, mongo: MongoTap, collection: str, which: str
) -> None:
    """By a rule that somebody has given the collection."""
    mongo.database.create_collection(collection, validator={"_id": {"$ne": which}})
    batch = [logout(number) for number in range(3)]
    assert failures(keeper, batch) == [1]
    (error,) = [result.error for result in apply(keeper, batch) if result.error]
    assert "Document failed validation" in str(error.__cause__)
    assert "validation" not in str(error)  # it might quote a token
    assert [is_blocked(f"t{number}", keeper=keeper) for number in (0, 2)] == [True, True]
    assert keeper.store(BLOCKED.server).client.exists("blocked:t1") == 0
    if collection == "sessions":
        assert "t1" not in blocks_of(mongo)


def test_where_nothing_is_left_to_be_written_nothing_is_asked(keeper: Keeper, mongo: MongoTap) -> None:
    """Of one collection all is refused, and its events are all that want another; which is no outage."""
    mongo.database.create_collection("sessions", validator={"_id": {"$ne": "s1"}})
    both: list[Command] = [Persist(SESSION, "s1", END_SESSION), Persist(USER_NAME, "1", ({"$set": {"name": "Ada"}},))]
    assert failures(keeper, [both, [Block(BLOCKED, "t1", None)]]) == [0]
    assert mongo.of("users") == []
    assert blocks_of(mongo) == {"t1": None}


def test_events_whose_blocks_fail_are_left_out_of_redis(keeper: Keeper, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their documents were written; without the block, the logout is not done."""
    written = persisting._bulk

    def no_blocks(keeper: Keeper, name: str, writes: Sequence[UpdateOne], doing: str) -> persisting._Written:
        if name == BLOCKED.collection:
            raise DatabaseUnavailable("away")
        return written(keeper, name, writes, doing)

    batch: list[list[Command]] = [logout(0), [Persist(SESSION, "s1", END_SESSION), Expire(SESSION, "s1")]]
    with monkeypatch.context() as patched:
        patched.setattr(persisting, "_bulk", no_blocks)
        assert failures(keeper, batch) == [0]
    client = keeper.store(SESSION.server).client
    assert client.keys() == [b"{session:s1}:meta"]
    assert failures(keeper, batch) == []
    assert set(client.keys()) == {b"{session:s0}:meta", b"{session:s1}:meta", b"blocked:t0"}


def test_a_lengthening_that_is_refused_leaves_out_its_event_only(keeper: Keeper, mongo: MongoTap) -> None:
    assert failures(keeper, [logout(number) for number in range(3)]) == []
    rule = {"$or": [{"_id": {"$ne": "t1"}}, {"expires_at": LATER}]}
    mongo.database.command("collMod", "blocked_tokens", validator=rule)
    assert failures(keeper, [logout(number, LATEST) for number in range(3)]) == [1]
    latest, later = LATEST.replace(tzinfo=None), LATER.replace(tzinfo=None)
    assert blocks_of(mongo) == {"t0": latest, "t1": later, "t2": latest}
    mongo.commands.clear()
    failures(keeper, [logout(number, LATEST) for number in range(3)])
    assert mongo.of("blocked_tokens") == ["update", "update"]  # not once more for the others


def test_mongodb_that_has_failed_is_asked_for_nothing_more(keeper: Keeper, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or a batch would wait for it as often as it has collections."""
    batch: list[list[Command]] = [
        *(logout(number) for number in range(3)),
        [Block(BLOCKED, "t3", None)],
        [Expire(SESSION, "s4")],
    ]

    def away(_: Keeper, name: str, *_more: object) -> persisting._Written:
        asked.append(name)
        raise DatabaseUnavailable("away")

    asked: list[str] = []
    with monkeypatch.context() as patched:
        patched.setattr(persisting, "_bulk", away)
        assert failures(keeper, batch) == [0, 1, 2, 3]
    assert asked == ["sessions"]
    assert failures(keeper, batch) == []
