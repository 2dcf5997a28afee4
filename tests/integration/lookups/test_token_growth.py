"""Blocks only grow: no duplicate, late or simultaneous one shortens a block, in Redis or in MongoDB."""

import threading
from datetime import UTC, datetime

import pytest
import redis
from pymongo.monitoring import CommandStartedEvent

from cachekeeper import Block, Keeper
from cachekeeper.applying import batch as applying
from cachekeeper.applying.batch import apply
from cachekeeper.devservers import RedisServer
from cachekeeper.protocol.outcomes import Blocked
from lookups import BLOCKED, block_token, is_blocked
from testkit.taps import MongoTap
from testkit.tokens import KEY, LEEWAY, TOKEN, end_of, keeping, life_of, soon

FOR_EVER = None
SOON, LATER, LATEST = soon(10_000), soon(20_000), soon(30_000)


def assert_until(until: datetime | None, client: redis.Redis, mongo: MongoTap) -> None:
    """The block stands in both places until then."""
    assert end_of(mongo.database) == until
    if until is None:
        assert client.pttl(KEY) == -1
    else:
        assert life_of(client) == pytest.approx((until - datetime.now(UTC)).total_seconds() + LEEWAY, abs=5)


@pytest.mark.parametrize(
    ("first", "second", "outcome", "stands"),
    [
        (LATER, SOON, Blocked.KEPT, LATER),
        (LATER, LATER, Blocked.KEPT, LATER),
        (SOON, LATER, Blocked.BLOCKED, LATER),
        (FOR_EVER, LATER, Blocked.KEPT, FOR_EVER),
        (LATER, FOR_EVER, Blocked.BLOCKED, FOR_EVER),
        (FOR_EVER, FOR_EVER, Blocked.KEPT, FOR_EVER),
    ],
)
def test_of_two_blocks_the_longer_stands(
    any_redis: RedisServer,
    mongo: MongoTap,
    first: datetime | None,
    second: datetime | None,
    outcome: Blocked,
    stands: datetime | None,
) -> None:
    with keeping(any_redis.url, mongo) as keeper, any_redis.client() as client:
        assert block_token(TOKEN, first, keeper=keeper) is Blocked.BLOCKED
        assert block_token(TOKEN, second, keeper=keeper) is outcome
        assert_until(stands, client, mongo)


def test_a_batch_with_duplicates_in_any_order(keeper: Keeper, client: redis.Redis, mongo: MongoTap) -> None:
    batch = [[Block(BLOCKED, TOKEN, until)] for until in (LATER, SOON, LATEST, LATER)]
    for result in apply(keeper, batch):
        assert result.error is None
        assert result.outcomes == {KEY: Blocked.BLOCKED}
    assert_until(LATEST, client, mongo)
    apply(keeper, [[Block(BLOCKED, TOKEN, SOON)], [Block(BLOCKED, TOKEN, FOR_EVER)], [Block(BLOCKED, TOKEN, LATEST)]])
    assert_until(FOR_EVER, client, mongo)


@pytest.mark.parametrize("until", [None, {"$unset": 1}, "tomorrow", 7], ids=["null", "missing", "text", "number"])
def test_an_endless_block_of_others_stays(keeper: Keeper, mongo: MongoTap, until: object) -> None:
    document = {"_id": TOKEN} if isinstance(until, dict) else {"_id": TOKEN, "expires_at": until}
    mongo.database["blocked_tokens"].insert_one(document)
    block_token(TOKEN, SOON, keeper=keeper)
    assert mongo.database["blocked_tokens"].find_one() == document


@pytest.mark.parametrize("ends", [soon(-LEEWAY - 1), "1970-01-01T00:00:00Z"])
def test_a_token_that_has_expired_writes_nothing(
    keeper: Keeper, client: redis.Redis, mongo: MongoTap, ends: datetime | str
) -> None:
    assert block_token(TOKEN, ends, keeper=keeper) is Blocked.OVER
    results = apply(keeper, [[Block(BLOCKED, TOKEN, soon(-LEEWAY - 1))]])
    assert [result.error for result in results] == [None]
    assert mongo.commands == []
    assert client.keys() == []
    assert is_blocked(TOKEN, keeper=keeper) is False


def test_a_token_within_the_leeway_is_still_blocked(keeper: Keeper, client: redis.Redis) -> None:
    assert block_token(TOKEN, soon(-LEEWAY + 20), keeper=keeper) is Blocked.BLOCKED
    assert 0 < life_of(client) <= 20
    assert is_blocked(TOKEN, keeper=keeper) is True


def test_a_block_ends_by_itself(keeper: Keeper, client: redis.Redis) -> None:
    block_token(TOKEN, soon(), keeper=keeper)
    client.pexpire(KEY, 1)
    ends = threading.Event()
    while client.exists(KEY):
        ends.wait(0.001)
    client.set("cachekeeper:blocked-ready", "true")
    assert is_blocked(TOKEN, keeper=keeper) is False


# --- two writes, and what may come between them -----------------------------------------------------------------------


def _blind_persist(keeper: Keeper, block: Block) -> None:
    """A mutant: insert it, or lengthen what is there, without a look at whether it still is."""
    collection, until = keeper.database[BLOCKED.collection], block.until
    collection.update_one({"_id": block.id}, {"$setOnInsert": {"expires_at": until}}, upsert=True)
    shorter = {"$type": "date", "$lt": until}
    collection.update_one({"_id": block.id, "expires_at": shorter}, {"$set": {"expires_at": until}})


def _overwriting_persist(keeper: Keeper, block: Block) -> None:
    """A mutant: the last one wins."""
    collection = keeper.database[BLOCKED.collection]
    collection.update_one({"_id": block.id}, {"$setOnInsert": {"expires_at": block.until}}, upsert=True)
    collection.update_one({"_id": block.id}, {"$set": {"expires_at": block.until}})


def is_lengthening(event: CommandStartedEvent) -> bool:
    """The second of the two writes."""
    return event.command_name == "update" and not event.command["updates"][0].get("upsert")


@pytest.mark.parametrize("mutant", [False, True])
def test_the_ttl_index_sweeps_between_the_two_writes(
    keeper: Keeper, mongo: MongoTap, monkeypatch: pytest.MonkeyPatch, *, mutant: bool
) -> None:
    if mutant:
        monkeypatch.setattr(applying, "persist_block", _blind_persist)
    blocks = mongo.database["blocked_tokens"]
    blocks.insert_one({"_id": TOKEN, "expires_at": soon(-LEEWAY - 1)})

    # insert: there already, and shorter · the TTL index removes it · lengthen: nothing there
    def before(event: CommandStartedEvent) -> None:
        if is_lengthening(event):
            mongo.before = lambda _event: None
            blocks.delete_one({"_id": TOKEN})

    mongo.before = before
    block_token(TOKEN, LATER, keeper=keeper)
    assert blocks.count_documents({"expires_at": LATER}) == (0 if mutant else 1)


@pytest.mark.parametrize("mutant", [False, True])
def test_another_block_comes_between_the_two_writes(
    keeper: Keeper, client: redis.Redis, mongo: MongoTap, monkeypatch: pytest.MonkeyPatch, *, mutant: bool
) -> None:
    if mutant:
        monkeypatch.setattr(applying, "persist_block", _overwriting_persist)
    block_token(TOKEN, SOON, keeper=keeper)

    def before(event: CommandStartedEvent) -> None:
        if is_lengthening(event):
            mongo.before = lambda _event: None
            block_token(TOKEN, LATEST, keeper=keeper)

    mongo.before = before
    assert block_token(TOKEN, LATER, keeper=keeper) is Blocked.KEPT, "Redis has the other one already"
    if mutant:
        assert end_of(mongo.database) == LATER
    else:
        assert_until(LATEST, client, mongo)


def test_a_block_that_is_over_goes_to_neither(
    keeper: Keeper, client: redis.Redis, mongo: MongoTap, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By one clock, asked once: it may be over when MongoDB is asked, and Redis's own clock may be behind."""
    said = iter([False, True])
    monkeypatch.setattr(applying, "is_over", lambda *_: next(said))
    for _ in range(2):
        (result,) = apply(keeper, [[Block(BLOCKED, TOKEN, LATER)]])
        assert result.error is None
        assert (mongo.commands != []) == bool(client.keys())
        mongo.commands.clear()
        client.flushdb()
    assert list(said) == []
