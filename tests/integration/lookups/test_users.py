"""`read_user`: hits, fills and misses counted at both servers; what ids mean; negative caching; damage."""

import itertools
import logging
import uuid
from typing import Any

import pytest
from bson import ObjectId
from bson.raw_bson import RawBSONDocument

from cachekeeper.applying.batch import apply
from cachekeeper.errors import DamagedDocument, InvalidId
from cachekeeper.model.commands import Invalidate, Write
from lookups import USER_NAME, read_user
from testkit.counting import counted
from testkit.shop import Shop, meta
from testkit.waiting import wait_until

T = USER_NAME.template


def test_a_miss_is_filled_and_then_a_hit_costs_one_get(shop: Shop) -> None:
    shop.db.users.insert_one({"_id": 42, "name": "Ann", "version": 7})
    client = shop.client()
    keeper = shop.keeper(cache=client)

    assert read_user(42, keeper=keeper) == "Ann"
    assert shop.reads.count == 1
    assert shop.redis.get("user:42:name") == b"Ann"
    assert 3595 < shop.redis.ttl("user:42:name") <= 3600
    assert meta(shop, T, "42") == {b"v": b"7"}
    assert shop.redis.pttl("{user:42:name}:meta") >= shop.redis.pttl("user:42:name")

    client.counted.clear()
    assert read_user("42", keeper=keeper) == "Ann"
    assert client.counted == {"GET": 1}
    assert shop.reads.count == 1


def test_a_read_of_mongodb_is_bounded_majority_and_asks_for_no_more_than_it_needs(shop: Shop) -> None:
    shop.db.users.insert_one({"_id": 42, "name": "Ann", "version": 7, "photo": "x" * 10_000})
    assert read_user(42, keeper=shop.keeper()) == "Ann"
    (command,) = shop.reads.commands
    assert command["filter"] == {"_id": 42}
    assert command["projection"].keys() == {"_id", "name", "version"}
    assert command["readConcern"]["level"] == "majority"
    assert 0 < command["maxTimeMS"] <= 10_000


def test_linearizable_where_the_settings_say_so(shop: Shop) -> None:
    assert read_user(42, keeper=shop.keeper(read_concern="linearizable")) is None
    assert shop.reads.commands[0]["readConcern"]["level"] == "linearizable"


def test_own_clients_with_weaker_concerns_are_overridden(shop: Shop) -> None:
    # The keeper is given a plain database, whose read concern is `local`.
    assert read_user(42, keeper=shop.keeper()) is None
    assert shop.reads.commands[0]["readConcern"]["level"] == "majority"


# --- what ids mean --------------------------------------------------------------------------------------------------

HEX = "65f0c0ffee65f0c0ffee65f0"
UUID = "0b8a6f5e-1d0b-4c8e-9a51-6a4a3c1c2d3e"
# Documents whose ids look alike; each is reached by at most one id under each type.
DOCUMENT_IDS: list[Any] = [
    42,
    "42",
    "007",
    7,
    ObjectId(HEX),
    HEX,
    HEX.upper(),
    uuid.UUID(UUID),
    UUID,
    "tenant:42",
    2**62,
]
REACHED: dict[str, dict[str, Any]] = {
    "auto": {
        "42": 42,
        "007": "007",
        "7": 7,
        HEX: ObjectId(HEX),
        UUID: UUID,
        "tenant:42": "tenant:42",
        str(2**62): 2**62,
    },
    "objectid": {HEX: ObjectId(HEX)},
    "int": {"42": 42, "7": 7, str(2**62): 2**62},
    "str": {"42": "42", "007": "007", HEX: HEX, HEX.upper(): HEX.upper(), UUID: UUID, "tenant:42": "tenant:42"},
    "uuid": {UUID: uuid.UUID(UUID)},
}


@pytest.mark.parametrize("kind", REACHED)
def test_an_id_reaches_one_document_and_no_other(shop: Shop, kind: str) -> None:
    # Each is named by its type, which is what tells 42 from "42".
    shop.db.users.insert_many([{"_id": each, "name": repr(each)} for each in DOCUMENT_IDS])
    keeper = shop.keeper(id_types=f"user_name={kind}", redis_timeout_seconds=4)
    for spelling in ("42", "007", "7", HEX, HEX.upper(), UUID, UUID.upper(), "tenant:42", str(2**62)):
        wanted = REACHED[kind].get(spelling)
        anything_goes = kind == "str" or (kind == "auto" and spelling != HEX.upper())
        if wanted is None and not anything_goes:
            with pytest.raises(InvalidId, match="user_id: "):
                read_user(spelling, keeper=keeper)
        else:
            assert read_user(spelling, keeper=keeper) == (None if wanted is None else repr(wanted))


def test_a_double_that_is_whole_is_the_integer_as_mongodb_has_it(shop: Shop) -> None:
    shop.db.users.insert_one({"_id": 42.0, "name": "from JavaScript", "version": 5.0})
    keeper = shop.keeper()
    assert read_user(42, keeper=keeper) == "from JavaScript"
    assert meta(shop, T, "42")[b"v"] == b"5"


# --- what does not exist --------------------------------------------------------------------------------------------


def test_what_does_not_exist_is_remembered_beside_the_key_never_at_it(shop: Shop) -> None:
    keeper = shop.keeper(negative_ttl_seconds=20)
    for _ in range(3):
        assert read_user(42, keeper=keeper) is None
    assert shop.reads.count == 1
    assert shop.redis.exists("user:42:name") == 0
    assert meta(shop, T, "42").keys() == {b"ax"}
    assert 15_000 < shop.redis.pttl("{user:42:name}:meta") <= 20_000


def test_the_memory_of_what_does_not_exist_is_short(shop: Shop) -> None:
    keeper = shop.keeper(negative_ttl_seconds=0.2)
    assert read_user(42, keeper=keeper) is None
    shop.db.users.insert_one({"_id": 42, "name": "Ann"})  # and no event
    assert wait_until(lambda: read_user(42, keeper=keeper), "the user is found", 5) == "Ann"


@pytest.mark.parametrize(
    "command", [Write(USER_NAME, "42", "Ann", 1), Invalidate(USER_NAME, "42")], ids=["write", "invalidate"]
)
def test_an_event_ends_the_memory_at_once(shop: Shop, command: Write | Invalidate) -> None:
    keeper = shop.keeper()
    assert read_user(42, keeper=keeper) is None
    shop.db.users.insert_one({"_id": 42, "name": "Ann", "version": 1})
    assert [result.error for result in apply(keeper, [[command]])] == [None]
    assert read_user(42, keeper=keeper) == "Ann"


@pytest.mark.parametrize("document", [{}, {"name": None}], ids=["missing", "null"])
def test_a_user_without_a_name_has_none(shop: Shop, document: dict[str, Any]) -> None:
    shop.db.users.insert_one({"_id": 42, "version": 1, **document})
    keeper = shop.keeper()
    assert read_user(42, keeper=keeper) is None
    assert read_user(42, keeper=keeper) is None
    assert shop.reads.count == 1
    assert shop.redis.exists("user:42:name") == 0


def test_an_empty_name_is_a_name(shop: Shop) -> None:
    shop.db.users.insert_one({"_id": 42, "name": ""})
    keeper = shop.keeper()
    assert read_user(42, keeper=keeper) == ""
    assert read_user(42, keeper=keeper) == ""
    assert shop.reads.count == 1
    assert shop.redis.get("user:42:name") == b""


# --- documents that are not as they should be -----------------------------------------------------------------------


def test_a_document_without_a_version_is_cached_without_one(shop: Shop) -> None:
    shop.db.users.insert_one({"_id": 42, "name": "Ann"})
    keeper = shop.keeper()
    assert read_user(42, keeper=keeper) == "Ann"
    assert shop.redis.get("user:42:name") == b"Ann"
    assert meta(shop, T, "42") == {}
    assert read_user(42, keeper=keeper) == "Ann"
    assert shop.reads.count == 1


@pytest.mark.parametrize("version", [True, "7", 1.5, -1, 2**53, {"a": 1}], ids=str)
def test_a_version_that_is_none_is_counted_and_logged_once(
    shop: Shop, version: object, caplog: pytest.LogCaptureFixture
) -> None:
    shop.db.users.insert_many([{"_id": each, "name": "Ann", "version": version} for each in range(3)])
    keeper = shop.keeper()
    with counted() as seen:
        for each in range(3):
            assert read_user(each, keeper=keeper) == "Ann"
    assert seen["document_version_ignored"] == 3
    assert len([record for record in caplog.records if "not an integer from 0 to" in record.message]) == 1
    assert meta(shop, T, "0") == {}


@pytest.mark.parametrize("name", [5, True, {"first": "Ann"}, ["Ann"], b"Ann"], ids=ascii)
def test_a_name_that_is_not_text(shop: Shop, name: object) -> None:
    shop.db.users.insert_one({"_id": 42, "name": name, "version": 1})
    keeper = shop.keeper()
    for _ in range(2):  # and the lease was given back: the second one does not wait for it
        with pytest.raises(DamagedDocument, match="view user_name, collection users: expected text"):
            read_user(42, keeper=keeper)
    assert shop.redis.exists("user:42:name") == 0
    assert shop.reads.count == 2
    shop.db.users.update_one({"_id": 42}, {"$set": {"name": "Ann"}})
    assert read_user(42, keeper=keeper) == "Ann"


def test_a_name_that_is_not_utf8_in_mongodb(shop: Shop) -> None:
    # Drivers in other languages can store it.
    raw = b"\x00\x00\x00\x00\x10_id\x00\x2a\x00\x00\x00\x02name\x00\x03\x00\x00\x00\xff\xfe\x00\x00"
    shop.db.users.insert_one(RawBSONDocument(len(raw).to_bytes(4, "little") + raw[4:]))
    keeper = shop.keeper()
    for _ in range(2):
        with pytest.raises(DamagedDocument, match="view user_name"):
            read_user(42, keeper=keeper)
    assert meta(shop, T, "42") == {}


# --- damage in Redis ------------------------------------------------------------------------------------------------


def damage(shop: Shop, kind: str, key: str) -> None:
    match kind:
        case "hash":
            shop.redis.hset(key, "a", "b")
        case "list":
            shop.redis.rpush(key, "a")
        case "stream":
            shop.redis.xadd(key, {"a": "b"})
        case "invalid utf-8":
            shop.redis.set(key, b"An\xff")


@pytest.mark.parametrize("kind", ["hash", "list", "stream", "invalid utf-8"])
@pytest.mark.parametrize("beside", ["no metadata", "metadata"])
def test_damage_is_counted_logged_once_and_repaired(
    shop: Shop, kind: str, beside: str, caplog: pytest.LogCaptureFixture
) -> None:
    shop.db.users.insert_many([{"_id": each, "name": "Ann", "version": 1} for each in (1, 2)])
    keeper = shop.keeper()
    for each in (1, 2):
        if beside == "metadata":
            read_user(each, keeper=keeper)
            shop.redis.delete(f"user:{each}:name")
        damage(shop, kind, f"user:{each}:name")
    shop.reads.reset()
    with counted() as seen:
        assert [read_user(each, keeper=keeper) for each in (1, 2)] == ["Ann", "Ann"]
    assert seen["damaged_value"] == 2
    warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert [record.message for record in warnings] == [
        "view user_name: a key held a value that this view never writes; it is replaced from MongoDB"
    ]
    assert shop.reads.count == 2
    assert [shop.redis.get(f"user:{each}:name") for each in (1, 2)] == [b"Ann", b"Ann"]
    assert shop.redis.ttl("user:1:name") > 0
    assert [read_user(each, keeper=keeper) for each in (1, 2)] == ["Ann", "Ann"]
    assert shop.reads.count == 2


def test_damage_where_nothing_exists_is_removed(shop: Shop) -> None:
    damage(shop, "hash", "user:42:name")
    keeper = shop.keeper()
    assert read_user(42, keeper=keeper) is None
    assert shop.redis.exists("user:42:name") == 0
    assert read_user(42, keeper=keeper) is None
    assert shop.reads.count == 1


def test_damage_under_a_value_over_the_limit_is_removed(shop: Shop) -> None:
    shop.db.users.insert_one({"_id": 42, "name": "x" * 101, "version": 1})
    damage(shop, "hash", "user:42:name")
    keeper = shop.keeper(value_limit_bytes=100)
    with counted() as seen:
        assert read_user(42, keeper=keeper) == "x" * 101
        assert read_user(42, keeper=keeper) == "x" * 101
    assert seen["damaged_value"] == 1
    assert seen["value_over_limit"] == 2
    assert shop.redis.exists("user:42:name") == 0


def test_an_event_repairs_damage_too(shop: Shop) -> None:
    shop.db.users.insert_one({"_id": 42, "name": "Ann", "version": 2})
    keeper = shop.keeper()
    for first, second in itertools.permutations([1, 2]):
        shop.flush()
        apply(keeper, [[Write(USER_NAME, "42", "old", first)]])
        damage(shop, "hash", "user:42:name")
        assert [each.error for each in apply(keeper, [[Write(USER_NAME, "42", "Ann", second)]])] == [None]
        assert read_user(42, keeper=keeper) == "Ann"


# --- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bad",
    ["", "x" * 513, "a{b", "a}b", "a b", "a\nb", "a\0b", "a\ud800", None, True, 4.2, b"42", HEX.upper()],
    ids=ascii,
)
def test_bad_ids_write_nothing(shop: Shop, bad: Any) -> None:
    shop.db.users.insert_one({"_id": 42, "name": "Ann"})
    keeper = shop.keeper()
    read_user(42, keeper=keeper)
    before = shop.dump()
    with pytest.raises(InvalidId) as caught:
        read_user(bad, keeper=keeper)
    assert caught.value.field == "user_id"
    assert shop.dump() == before
    assert shop.reads.count == 1


@pytest.mark.parametrize("good", ["tenant:42", f"urn:uuid:{UUID}", "x" * 512, "é" * 256, "a*b?[c]"])
def test_good_ids(shop: Shop, good: str) -> None:
    shop.db.users.insert_one({"_id": good, "name": "Ann"})
    assert read_user(good, keeper=shop.keeper()) == "Ann"
    assert shop.redis.get(f"user:{good}:name") == b"Ann"
