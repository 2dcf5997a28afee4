"""An index that takes longer to build than a call may: it is built once, to its end, and nothing waits for it."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest
from pymongo.monitoring import CommandListener

from cachekeeper import Keeper
from cachekeeper.applying import mongo_indexes, ttl_indexes
from cachekeeper.applying.ttl_indexes import IndexKeeper
from cachekeeper.errors import DatabaseUnavailable
from cachekeeper.model.registry import TtlIndex
from cachekeeper.relays.outbox_index import PlainIndex
from cachekeeper.relays.outbox_relay import Relay
from cachekeeper.settings import RelaySettings, Settings
from testkit.failpoints import be_well, fail_indexing, hold_index_builds
from testkit.mutating import mutated
from testkit.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pymongo.database import Database
    from pymongo.monitoring import CommandFailedEvent, CommandStartedEvent, CommandSucceededEvent

    from cachekeeper.devservers import MongoServer

NOWHERE = "redis://127.0.0.1:1/0"
LIMIT = 1.0
"""Seconds of a call. The builds that the tests hold take longer than any number of them."""
HANG_SECONDS = 30.0
SECONDS = 60
COLLECTIONS = ("first", "second", "third")
SLOW = "is still building the index on first.at"


class Builds(CommandListener):
    """The `createIndexes` that a client has sent.

    Attributes:
        sent: the commands.
        ended: of which collections they were answered, well or not.
    """

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []
        self.ended: list[str] = []
        self._under_way: dict[int, str] = {}

    def of(self, collection: str) -> list[dict[str, Any]]:
        return [command for command in self.sent if command["createIndexes"] == collection]

    def started(self, event: CommandStartedEvent) -> None:
        if event.command_name == "createIndexes":
            self.sent.append(dict(event.command))
            self._under_way[event.request_id] = event.command["createIndexes"]

    def _end(self, event: CommandSucceededEvent | CommandFailedEvent) -> None:
        if event.request_id in self._under_way:
            self.ended.append(self._under_way.pop(event.request_id))

    succeeded = failed = _end


@pytest.fixture
def builds() -> Builds:
    return Builds()


@pytest.fixture
def db(failing: MongoServer, builds: Builds) -> Iterator[Database[Any]]:
    """Its collection `first` and its outbox have documents; MongoDB makes the index of an empty one at once."""
    with failing.client(event_listeners=[builds]) as client:
        database = client["builds"]
        client.drop_database(database)
        for name in ("first", "outbox"):
            database[name].insert_one({"_id": 1})
        yield database


@pytest.fixture
def mongo_keeper(db: Database[Any]) -> Iterator[Keeper]:
    made = Keeper(
        Settings(redis_url=NOWHERE, mongodb_url="mongodb://127.0.0.1:1/x", load_timeout_seconds=LIMIT), database=db
    )
    yield made
    made.close()


def keeping(keeper: Keeper) -> IndexKeeper:
    return IndexKeeper(keeper, [TtlIndex(name, "at", lambda _: SECONDS) for name in COLLECTIONS])


def check_a_slow_build(failing: MongoServer, keeper: Keeper, builds: Builds, caplog: pytest.LogCaptureFixture) -> None:
    """The others are made meanwhile, and the slow one is begun once and ends well."""
    index_keeper = keeping(keeper)
    with hold_index_builds(failing):
        for _ in range(3):
            index_keeper.run_once()
        for name in COLLECTIONS[1:]:
            assert keeper.database[name].index_information()["at_1"]["expireAfterSeconds"] == SECONDS
        assert caplog.text.count(SLOW) == 1, "said once"
    wait_until(lambda: "first" in builds.ended, "the end of the build")
    index_keeper.run_once()
    assert [len(builds.of(name)) for name in COLLECTIONS] == [1, 1, 1], "each begun once"
    assert not any("maxTimeMS" in command for command in builds.sent)
    assert keeper.database["first"].index_information()["at_1"]["expireAfterSeconds"] == SECONDS
    assert caplog.text.count("the index on first.at has been created") == 1
    assert "second.at" not in caplog.text


def test_a_slow_build_is_begun_once_and_nothing_waits_for_it(
    failing: MongoServer, mongo_keeper: Keeper, builds: Builds, caplog: pytest.LogCaptureFixture
) -> None:
    check_a_slow_build(failing, mongo_keeper, builds, caplog)


def test_mutant_that_builds_within_the_limit_of_a_call(
    failing: MongoServer,
    mongo_keeper: Keeper,
    builds: Builds,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wrong = mutated(mongo_indexes, "_NO_LIMIT = 0.0", "_NO_LIMIT = 0.5")
    monkeypatch.setattr(ttl_indexes, "BackgroundIndex", wrong.BackgroundIndex)
    with pytest.raises(DatabaseUnavailable, match=r"indexing first\.at"):
        check_a_slow_build(failing, mongo_keeper, builds, caplog)


def test_a_client_with_a_time_limit_of_its_own_builds_without(failing: MongoServer, builds: Builds) -> None:
    with failing.client(event_listeners=[builds], timeoutMS=5000) as client:
        client["builds"].drop_collection("first")
        mongo_indexes.ensure_index(client["builds"]["first"], "at", timeout=LIMIT, expire_seconds=SECONDS)
    (command,) = builds.sent
    assert "maxTimeMS" not in command


def test_what_fails_keeps_no_other_index_waiting(failing: MongoServer, mongo_keeper: Keeper) -> None:
    index_keeper = keeping(mongo_keeper)
    fail_indexing(failing, {"errorCode": 112, "namespace": "builds.first"})
    for _ in range(2):
        with pytest.raises(DatabaseUnavailable, match=r"^MongoDB failed while indexing first\.at \(WriteConflict"):
            index_keeper.run_once()
        for name in COLLECTIONS[1:]:
            assert "at_1" in mongo_keeper.database[name].index_information()
    be_well(failing)
    index_keeper.run_once()
    assert "at_1" in mongo_keeper.database["first"].index_information()


def check_all_are_tried(failing: MongoServer, keeper: Keeper, builds: Builds) -> None:
    """And the first outage is raised."""
    fail_indexing(failing, {"errorCode": 112})
    with pytest.raises(DatabaseUnavailable, match=r"first\.at"):
        keeping(keeper).run_once()
    assert {command["createIndexes"] for command in builds.sent} == {*COLLECTIONS}


def test_an_outage_of_one_index_leaves_no_other_untried(
    failing: MongoServer, mongo_keeper: Keeper, builds: Builds
) -> None:
    check_all_are_tried(failing, mongo_keeper, builds)


def test_mutant_that_ends_its_look_at_the_first_outage(
    failing: MongoServer, mongo_keeper: Keeper, builds: Builds, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = mutated(ttl_indexes, "outage = outage or error", "raise")
    monkeypatch.setattr(f"{__name__}.IndexKeeper", wrong.IndexKeeper)
    with pytest.raises(AssertionError):
        check_all_are_tried(failing, mongo_keeper, builds)


def is_dropped(database: Database[Any]) -> bool:
    operations = database.client.admin.aggregate([{"$currentOp": {}}, {"$match": {"command.dropIndexes": "first"}}])
    return bool(list(operations))


def test_a_build_that_is_ended_is_begun_again(
    failing: MongoServer, mongo_keeper: Keeper, builds: Builds, caplog: pytest.LogCaptureFixture
) -> None:
    index_keeper = keeping(mongo_keeper)
    with hold_index_builds(failing):
        index_keeper.run_once()
        wait_until(lambda: "at_1" in mongo_keeper.database["first"].index_information(), "the build that begins")
        # It ends the build, once that goes on.
        dropping = threading.Thread(target=mongo_keeper.database["first"].drop_index, args=("at_1",))
        dropping.start()
        # Where the build has not come to its fail point yet, the command ends it at once.
        wait_until(lambda: is_dropped(mongo_keeper.database) or not dropping.is_alive(), "the command that drops it")
    dropping.join(HANG_SECONDS)
    wait_until(lambda: "first" in builds.ended, "the end of the build")
    with pytest.raises(DatabaseUnavailable, match=r"^MongoDB failed while indexing first\.at \(IndexBuildAborted"):
        index_keeper.run_once()
    index_keeper.run_once()
    assert len(builds.of("first")) == 2
    assert "at_1" in mongo_keeper.database["first"].index_information()
    assert caplog.text.count(SLOW) == 1


def test_the_end_of_a_worker_does_not_wait_for_a_build(
    failing: MongoServer, mongo_keeper: Keeper, builds: Builds, caplog: pytest.LogCaptureFixture
) -> None:
    index_keeper = keeping(mongo_keeper)
    with hold_index_builds(failing):
        index_keeper.start()
        wait_until(lambda: SLOW in caplog.text, "the log")
        ending = threading.Thread(target=index_keeper.stop, daemon=True)
        ending.start()
        ending.join(HANG_SECONDS)
        assert not ending.is_alive()
        mongo_keeper.close()
        assert "first" not in builds.ended
    assert "making the TTL indexes failed" not in caplog.text


def test_a_relay_goes_on_while_its_index_is_built(
    failing: MongoServer,
    db: Database[Any],
    builds: Builds,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(PlainIndex, "look_seconds", 0)
    settings = RelaySettings(mongodb_url="mongodb://127.0.0.1:1/x", broker_url=NOWHERE, load_timeout_seconds=LIMIT)
    db["outbox"].update_one({"_id": 1}, {"$set": {"due_at": "never"}})
    relay = Relay(settings, db)
    try:
        with hold_index_builds(failing):
            for _ in range(3):
                assert relay.run_once() == 0
            assert caplog.text.count("is still building the index on outbox.due_at") == 1
        wait_until(lambda: "outbox" in builds.ended, "the end of the build")
        for _ in range(2):
            assert relay.run_once() == 0
        assert len(builds.of("outbox")) == 1
        assert "maxTimeMS" not in builds.sent[0]
        assert caplog.text.count("the index on outbox.due_at is correct now") == 1
    finally:
        relay.close()
