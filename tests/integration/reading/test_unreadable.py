"""One document that no driver can read stands in nobody's way: what lies behind it is warmed, and *ready* is said."""

import bson
import pytest
import redis
from bson import ObjectId

from cachekeeper import Keeper, metrics
from cachekeeper.upkeep import blocklist_warming as blocklist
from cachekeeper.upkeep import warming as views
from cachekeeper.upkeep.blocklist_warming import Passed, write_blocks
from cachekeeper.upkeep.warming import Fate, warm_view
from lookups import BLOCKED, USER_NAME
from testkit.garbled import GARBLED, garbled
from testkit.taps import MongoTap
from testkit.tokens import NONCE, READY, soon
from testkit.users import key_of, names

STATE = "cachekeeper:user_name-warmed"


@pytest.fixture(autouse=True, params=[1, 3])
def _batches(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views, "BATCH", request.param)
    monkeypatch.setattr(blocklist, "BATCH", request.param)


def test_ready_is_said_and_a_block_without_a_readable_end_is_for_ever(
    keeper: Keeper, client: redis.Redis, mongo: MongoTap
) -> None:
    mongo.database["blocked_tokens"].insert_many(
        [
            garbled({"_id": "a", "expires_at": GARBLED}),
            garbled({"_id": GARBLED, "expires_at": None}),
            garbled({"_id": "x" + GARBLED, "expires_at": GARBLED}),
            {"_id": "b", "expires_at": soon()},
            {"_id": ObjectId(), "expires_at": soon()},
        ]
    )
    counted = metrics.COUNTERS["block_unspelt"]
    assert write_blocks(keeper, BLOCKED) is Passed.READY
    assert client.pttl("blocked:a") == -1
    assert client.exists("blocked:b", READY, NONCE) == 2
    assert len(client.keys("blocked:*")) == 3
    assert metrics.COUNTERS["block_unspelt"] == counted + 2


def people(mongo: MongoTap) -> None:
    mongo.database["users"].insert_many(
        [
            {"_id": 1, "name": "Ada"},
            garbled({"_id": 2, "name": GARBLED}),
            {"_id": 3, "name": "Bob"},
            garbled({"_id": GARBLED, "name": "nobody"}),
            {"_id": ObjectId(), "name": "Cy"},
        ]
    )


def test_the_rest_of_a_view_is_warmed(keeper: Keeper, client: redis.Redis, mongo: MongoTap) -> None:
    people(mongo)
    progress = warm_view(keeper, USER_NAME)
    assert progress.fates == {Fate.FILLED: 3, Fate.DAMAGED: 2}
    assert sorted(names(client).values()) == ["Ada", "Bob", "Cy"]
    assert (progress.done, client.exists(STATE)) == (5, 0)


def test_a_run_goes_on_behind_an_id_that_no_driver_can_read(
    keeper: Keeper, client: redis.Redis, mongo: MongoTap
) -> None:
    people(mongo)
    last = bytes(garbled({"_id": GARBLED}).raw)
    client.set(STATE, bson.encode({"last": last, "done": 4, "fates": {"DAMAGED": 2, "THERE": 2}}))
    progress = warm_view(keeper, USER_NAME)
    assert (progress.resumed, progress.done) == (4, 5)
    assert list(names(client).values()) == ["Cy"]


@pytest.mark.parametrize(
    "state",
    [
        b"garbage",
        b"",
        bson.encode({}),
        bson.encode({"last": 7, "done": 1, "fates": {}}),
        bson.encode({"last": b"x", "done": 1, "fates": {}}),
        bson.encode({"last": bson.encode({"id": 1}), "done": 1, "fates": {}}),
        bson.encode({"last": bson.encode({"_id": 1}), "done": 1, "fates": {"OF_OLD": 1}}),
        bson.encode({"last": bson.encode({"_id": 1}), "done": "x", "fates": {}}),
        bson.encode({"last": bson.encode({"_id": 1}), "done": 1, "fates": 5}),
    ],
)
def test_a_place_that_cannot_be_read_is_no_place(
    keeper: Keeper, client: redis.Redis, mongo: MongoTap, state: bytes
) -> None:
    people(mongo)
    client.set(STATE, state)
    progress = warm_view(keeper, USER_NAME)
    assert (progress.resumed, progress.done) == (0, 5)
    assert client.get(key_of(1)) == b"Ada"
