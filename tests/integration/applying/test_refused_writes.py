"""What MongoDB refuses, or does not answer, of a batch: who is left out, and that nobody else is."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from pymongo.collection import Collection
from pymongo.errors import AutoReconnect

from cachekeeper.applying import batch as applying
from cachekeeper.applying import mongo_writes as persisting
from cachekeeper.applying.batch import apply
from cachekeeper.connections.mongodb_errors import refusal
from cachekeeper.errors import DatabaseUnavailable, WriteRefused
from cachekeeper.model.commands import Block, Command, Expire, Persist
from lookups import BLOCKED, SESSION, USER_NAME, block_token, is_blocked, read_session, save_session
from lookups.sessions import END_SESSION, SessionEnded
from testkit.failpoints import DUPLICATE_KEY, refuse_saves
from testkit.limits import PATIENT
from testkit.mutating import mutated
from testkit.tokens import keeping
from tests.integration.applying.logouts import LATER, LATEST, blocks_of, ended, failures, logout, logouts

if TYPE_CHECKING:
    from pymongo.monitoring import CommandStartedEvent

    from cachekeeper.devservers import MongoServer, RedisServer
    from cachekeeper.reading.keeper import Keeper
    from testkit.taps import MongoTap

Check = Callable[["Keeper", "MongoTap"], None]


def forbid(mongo: MongoTap, collection: str, document_id: str) -> None:
    """By a rule that somebody has given the collection."""
    mongo.database.create_collection(collection, validator={"_id": {"$ne": document_id}})


@contextmanager
def away_after(commands: int, collection: str) -> Iterator[None]:
    """So many commands to that collection are answered; from then on none is, and one is tried."""
    answered = tried = 0
    bulk_write = Collection.bulk_write

    def bulk(self: Collection[Any], *args: Any, **options: Any) -> Any:
        nonlocal answered, tried
        if answered == commands and (tried or self.name == collection):
            tried += 1
            raise AutoReconnect
        answered += self.name == collection
        return bulk_write(self, *args, **options)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Collection, "bulk_write", bulk)
        yield
    assert tried == 1  # a batch must not wait for it as often as it has commands


# --- each event fails for itself -------------------------------------------------------------------------------------


def a_document(keeper: Keeper, mongo: MongoTap) -> None:
    """The place among the documents is not the place in the batch."""
    forbid(mongo, "sessions", "s2")
    batch: list[list[Command]] = [[Block(BLOCKED, "x", None)], logout(2), [], logout(3)]
    assert failures(keeper, batch, WriteRefused) == [1]
    assert blocks_of(mongo).keys() == {"x", "t3"}
    assert [is_blocked(token, keeper=keeper) for token in ("x", "t2", "t3")] == [True, False, True]


def a_document_of_many(keeper: Keeper, mongo: MongoTap) -> None:
    forbid(mongo, "sessions", "s150")
    assert failures(keeper, logouts(250), WriteRefused) == [150]
    assert len(ended(mongo)) == len(blocks_of(mongo)) == 249


def a_block_of_many(keeper: Keeper, mongo: MongoTap) -> None:
    forbid(mongo, "blocked_tokens", "t150")
    assert failures(keeper, logouts(250), WriteRefused) == [150]
    assert keeper.store(BLOCKED.server).client.exists("blocked:t150") == 0
    assert is_blocked("t50", keeper=keeper)


def a_lengthening(keeper: Keeper, mongo: MongoTap) -> None:
    """The place among those to be lengthened is not the place among the blocks."""
    block_token("t1", LATER, keeper=keeper)
    rule = {"$or": [{"_id": {"$ne": "t1"}}, {"expires_at": LATER}]}
    mongo.database.command("collMod", "blocked_tokens", validator=rule)
    assert failures(keeper, [logout(0, LATEST), logout(1, LATEST)], WriteRefused) == [1]
    assert blocks_of(mongo) == {"t0": LATEST.replace(tzinfo=None), "t1": LATER.replace(tzinfo=None)}


def documents_from_the_second_command_on(keeper: Keeper, mongo: MongoTap) -> None:
    with away_after(1, "sessions"):
        assert failures(keeper, logouts(250)) == list(range(250))  # not the block of one is written
    assert len(ended(mongo)) == 100
    assert blocks_of(mongo) == {}
    assert failures(keeper, logouts(250)) == []


def blocks_from_the_second_command_on(keeper: Keeper, mongo: MongoTap) -> None:
    with away_after(1, "blocked_tokens"):
        assert failures(keeper, logouts(250)) == list(range(100, 250))
    assert len(ended(mongo)) == 250
    assert len(blocks_of(mongo)) == 100
    assert failures(keeper, logouts(250)) == []


CHECKS: dict[str, Check] = {
    check.__name__: check
    for check in (
        a_document,
        a_document_of_many,
        a_block_of_many,
        a_lengthening,
        documents_from_the_second_command_on,
        blocks_from_the_second_command_on,
    )
}


@pytest.mark.parametrize("check", CHECKS)
def test_each_event_fails_for_itself(keeper: Keeper, mongo: MongoTap, check: str) -> None:
    CHECKS[check](keeper, mongo)


OF_THE_EVENT = "self.errors[wanted[place][0]] = why"
OF_THE_BLOCK = "errors.update((left[at], error) for at, error in lengthened.refused.items())"
SLICE = "            self._add(wanted[start : start + _AT_ONCE], write)\n"
AWAY = "                self.away = error\n"
MUTANTS: dict[str, tuple[str, str, Check]] = {
    "the place among the documents": (OF_THE_EVENT, "self.errors[place] = why", a_document),
    "the place in its command": (OF_THE_EVENT, "self.errors[place] = why", a_document_of_many),
    "the block's place in its command": (OF_THE_EVENT, "self.errors[place] = why", a_block_of_many),
    "the place among those to lengthen": (OF_THE_BLOCK, "errors.update(lengthened.refused)", a_lengthening),
    "what is not asked for counts as written": (
        SLICE,
        SLICE + "            if self.away is not None:\n                break\n",
        blocks_from_the_second_command_on,
    ),
    "an outage is one command's": (
        AWAY,
        "                self.errors[wanted[0][0] : wanted[-1][0] + 1] = len(wanted) * [error]\n",
        documents_from_the_second_command_on,
    ),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_who_takes_one_event_for_another_is_found(
    keeper: Keeper, mongo: MongoTap, monkeypatch: pytest.MonkeyPatch, mutant: str
) -> None:
    old, new, check = MUTANTS[mutant]
    monkeypatch.setattr(applying, "persist", mutated(persisting, old, new).persist)
    with pytest.raises(AssertionError):
        check(keeper, mongo)


# --- what is refused, and what that is called ------------------------------------------------------------------------


@pytest.mark.parametrize(("collection", "which"), [("sessions", "s1"), ("blocked_tokens", "t1")])
def test_what_a_validator_forbids(keeper: Keeper, mongo: MongoTap, collection: str, which: str) -> None:
    forbid(mongo, collection, which)
    assert failures(keeper, logouts(3), WriteRefused) == [1]
    error = apply(keeper, logouts(3))[1].error
    assert str(error) == (
        f"a write to {collection} was refused: the validator of the collection forbids it; "
        "change the document or the validator (code 121)"
    )
    assert error is not None
    assert "Document failed validation" in str(error.__cause__)
    assert [is_blocked(f"t{number}", keeper=keeper) for number in (0, 2)] == [True, True]
    assert keeper.store(BLOCKED.server).client.exists("blocked:t1") == 0
    if collection == "sessions":
        assert "t1" not in blocks_of(mongo)


def test_what_a_unique_index_forbids(keeper: Keeper, mongo: MongoTap) -> None:
    mongo.database["users"].create_index("name", unique=True)
    named: tuple[dict[str, Any], ...] = ({"$set": {"name": "Ada"}},)
    batch: list[list[Command]] = [[Persist(USER_NAME, "1", named)], [Persist(USER_NAME, "2", named)]]
    assert failures(keeper, batch, WriteRefused) == [1]


@pytest.mark.parametrize("size", [9_000_000, 8_390_000])
def test_what_grows_too_large(keeper: Keeper, mongo: MongoTap, size: int) -> None:
    """By much, and by a little: MongoDB has a code for each."""
    mongo.database["users"].insert_one({"_id": 1, "name": size * "x"})
    twice: tuple[dict[str, Any], ...] = ({"$set": {"again": "$name"}},)
    assert failures(keeper, [[Persist(USER_NAME, "1", twice)], logout(0)], WriteRefused) == [0]


def test_an_update_that_is_too_large_by_itself(keeper: Keeper, mongo: MongoTap) -> None:
    """It is said of the whole command."""
    large: tuple[dict[str, Any], ...] = ({"$set": {"name": {"$literal": 17_000_000 * "x"}}},)
    batch: list[list[Command]] = [
        [Persist(USER_NAME, str(number), large if number == 3 else ({"$set": {"name": str(number)}},))]
        for number in range(5)
    ]
    assert failures(keeper, batch, WriteRefused) == [3]
    assert sorted(found["_id"] for found in mongo.database["users"].find()) == [0, 1, 2, 4]


def hands_over_a_unique_name(keeper: Keeper, mongo: MongoTap) -> None:
    """Of two events of a batch, the second sets the name free that the first wants."""
    users = mongo.database["users"]
    users.create_index("name", unique=True)
    users.insert_one({"_id": 2, "name": "Ada"})
    wanted: list[tuple[str, str]] = [("1", "Ada"), ("2", "Grace")]
    batch: list[list[Command]] = [[Persist(USER_NAME, id_, ({"$set": {"name": name}},))] for id_, name in wanted]
    assert failures(keeper, batch, WriteRefused) == []
    assert {found["_id"]: found["name"] for found in users.find()} == {1: "Ada", 2: "Grace"}


def a_row_of_them(keeper: Keeper, mongo: MongoTap) -> None:
    """Each wants what the next one has; only the last one's is free."""
    users = mongo.database["users"]
    users.create_index("name", unique=True)
    users.insert_many([{"_id": number, "name": str(number)} for number in range(5)])
    batch: list[list[Command]] = [
        [Persist(USER_NAME, str(number), ({"$set": {"name": str(number + 1)}},))] for number in range(5)
    ]
    assert failures(keeper, batch, WriteRefused) == []
    assert {found["_id"]: found["name"] for found in users.find()} == {number: str(number + 1) for number in range(5)}


@pytest.mark.parametrize("check", [hands_over_a_unique_name, a_row_of_them])
def test_what_another_write_of_the_batch_makes_room_for(keeper: Keeper, mongo: MongoTap, check: Check) -> None:
    check(keeper, mongo)


def test_who_tries_twice_and_no_more_is_found(keeper: Keeper, mongo: MongoTap, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = mutated(persisting, "doubtful = not tried or ", "doubtful = not tried and ")
    monkeypatch.setattr(applying, "persist", wrong.persist)
    with pytest.raises(AssertionError, match=r"== \[\]"):
        a_row_of_them(keeper, mongo)


def test_what_a_validator_says_of_a_document_that_is_being_made(keeper: Keeper, mongo: MongoTap) -> None:
    """It judges what the upsert would make, before the other write's document is found to be there."""
    mongo.database.create_collection("users", validator={"name": {"$type": "string"}})
    batch: list[list[Command]] = [
        [Persist(USER_NAME, "1", ({"$set": {"seen": True}},))],
        [Persist(USER_NAME, "1", ({"$set": {"name": "Ada"}},))],
    ]
    assert failures(keeper, batch, WriteRefused) == []
    assert mongo.database["users"].find_one() == {"_id": 1, "name": "Ada", "seen": True}


def test_who_believes_the_first_duplicate_is_found(
    keeper: Keeper, mongo: MongoTap, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = mutated(persisting, "doubtful = not tried or ", "doubtful = tried and ")
    monkeypatch.setattr(applying, "persist", wrong.persist)
    with pytest.raises(AssertionError, match=r"\[0\] == \[\]"):
        hands_over_a_unique_name(keeper, mongo)


def test_no_error_quotes_another_documents_value(keeper: Keeper, mongo: MongoTap) -> None:
    """MongoDB says which value there is twice."""
    mongo.database["users"].create_index("name", unique=True)
    mongo.database["users"].insert_one({"_id": 1, "name": "somebody's secret"})
    (result,) = apply(keeper, [[Persist(USER_NAME, "2", ({"$set": {"name": "somebody's secret"}},))]])
    assert result.error is not None
    said = "".join(traceback.format_exception(result.error))
    assert "index: name_1" in said
    assert "secret" not in said


def test_what_would_be_too_large_from_the_beginning(keeper: Keeper, mongo: MongoTap) -> None:
    """By a little, where there is no document yet: a third code."""
    half = {"$set": {"name": {"$literal": 8_390_000 * "x"}}}
    event: list[Command] = [Persist(USER_NAME, "1", (half, {"$set": {"again": "$name"}}))]
    assert failures(keeper, [event, logout(0)], WriteRefused) == [0]
    assert mongo.database["users"].count_documents({}) == 0


def test_a_session_that_is_too_large_for_mongodb(redis_server: RedisServer, mongo: MongoTap) -> None:
    """JSON writes a digit and a comma where BSON has twelve bytes."""
    with (
        keeping(redis_server.url, mongo, **PATIENT, value_limit_bytes=10_000_000) as keeper,
        pytest.raises(WriteRefused, match="a write to sessions was refused: the document would be larger"),
    ):
        save_session("s1", {"digits": 2_000_000 * [1]}, keeper=keeper)


def test_a_session_that_somebody_else_has_just_made_is_saved(failing: MongoServer, redis_server: RedisServer) -> None:
    """The upsert does not find it, and then cannot make it. Asked again, it finds it."""
    with keeping(redis_server.url, failing.url, **PATIENT) as keeper:
        refuse_saves(failing, 1)
        save_session("s1", {"cart": [1]}, keeper=keeper)
        assert read_session("s1", keeper=keeper) == {"cart": [1]}
        refuse_saves(failing, 2)
        with pytest.raises(DatabaseUnavailable, match="code 11000"):  # it has not ended, whatever it is
            save_session("s1", {"cart": [2]}, keeper=keeper)


def test_a_session_that_has_ended_has_ended_whatever_a_validator_says(keeper: Keeper, mongo: MongoTap) -> None:
    """It judges what the upsert would make, before that is found to be there."""
    mongo.database["sessions"].insert_one({"_id": "s1", "ended_at": LATER})
    rule = {"$or": [{"ended_at": {"$ne": None}}, {"login": {"$exists": True}}]}
    mongo.database.command("collMod", "sessions", validator=rule)
    with pytest.raises(SessionEnded):
        save_session("s1", {"cart": []}, keeper=keeper)
    with pytest.raises(WriteRefused):
        save_session("s2", {"cart": []}, keeper=keeper)


def test_an_error_without_a_code_is_no_refusal() -> None:
    assert refusal("sessions", {}) is None
    assert refusal("sessions", {"code": DUPLICATE_KEY}) is None  # an older server does not say of which index


def test_a_call_that_a_validator_forbids_is_no_outage(keeper: Keeper, mongo: MongoTap) -> None:
    forbid(mongo, "sessions", "s1")
    forbid(mongo, "blocked_tokens", "t1")
    with pytest.raises(WriteRefused, match="a write to sessions was refused: the validator"):
        save_session("s1", {"cart": [1]}, keeper=keeper)
    with pytest.raises(WriteRefused, match="a write to blocked_tokens was refused: the validator"):
        block_token("t1", LATER, keeper=keeper)


def test_a_session_that_a_unique_index_forbids_has_not_ended(keeper: Keeper, mongo: MongoTap) -> None:
    """Both are duplicates, of different things."""
    mongo.database["sessions"].create_index("data.user", unique=True)
    save_session("s1", {"user": 1}, keeper=keeper)
    with pytest.raises(WriteRefused, match="a write to sessions was refused: a unique index"):
        save_session("s2", {"user": 1}, keeper=keeper)
    save_session("s1", {"user": 1}, keeper=keeper)


def test_a_pipeline_that_mongodb_does_not_know_may_be_an_outage(keeper: Keeper) -> None:
    """A newer server may know it: the event is tried again, as often as any that fails."""
    assert failures(keeper, [[Persist(SESSION, "s1", ({"$there_is_no_such_stage": {}},))]]) == [0]


# --- and else --------------------------------------------------------------------------------------------------------


def test_where_nothing_is_left_to_be_written_nothing_is_asked(keeper: Keeper, mongo: MongoTap) -> None:
    """Of one collection all is refused, and its events are all that want another; which is no outage."""
    forbid(mongo, "sessions", "s1")
    both: list[Command] = [Persist(SESSION, "s1", END_SESSION), Persist(USER_NAME, "1", ({"$set": {"name": "Ada"}},))]
    assert failures(keeper, [both, [Block(BLOCKED, "t1", None)]], WriteRefused) == [0]
    assert mongo.of("users") == []
    assert blocks_of(mongo) == {"t1": None}


def test_a_lengthening_that_is_refused_costs_the_others_nothing(keeper: Keeper, mongo: MongoTap) -> None:
    assert failures(keeper, logouts(3)) == []
    rule = {"$or": [{"_id": {"$ne": "t1"}}, {"expires_at": LATER}]}
    mongo.database.command("collMod", "blocked_tokens", validator=rule)
    sizes: list[int] = []

    def before(event: CommandStartedEvent) -> None:
        if event.command.get("update") == "blocked_tokens":
            sizes.append(len(event.command["updates"]))

    mongo.before = before
    assert failures(keeper, logouts(3, LATEST), WriteRefused) == [1]
    assert sizes == [3, 3, 1]  # inserted, lengthened, and the one that is refused once more
    latest, later = LATEST.replace(tzinfo=None), LATER.replace(tzinfo=None)
    assert blocks_of(mongo) == {"t0": latest, "t1": later, "t2": latest}


def test_events_whose_blocks_fail_are_left_out_of_redis(keeper: Keeper) -> None:
    """Their documents were written; without the block, the logout is not done."""
    batch: list[list[Command]] = [logout(0), [Persist(SESSION, "s1", END_SESSION), Expire(SESSION, "s1")]]
    with away_after(0, "blocked_tokens"):
        assert failures(keeper, batch) == [0]
    client = keeper.store(SESSION.server).client
    assert client.keys() == [b"{session:s1}:meta"]
    assert failures(keeper, batch) == []
    assert set(client.keys()) == {b"{session:s0}:meta", b"{session:s1}:meta", b"blocked:t0"}


def test_mongodb_that_has_failed_is_asked_for_nothing_more(keeper: Keeper) -> None:
    """Or a batch would wait for it as often as it has collections."""
    batch: list[list[Command]] = [*logouts(3), [Block(BLOCKED, "t3", None)], [Expire(SESSION, "s4")]]
    with away_after(0, "sessions"):
        assert failures(keeper, batch) == [0, 1, 2, 3]
    assert failures(keeper, batch) == []
