"""`search_products`: literal, in any case, in bounded time."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from typing import Any

import pytest
from bson import Decimal128, Int64, ObjectId
from bson.datetime_ms import DatetimeMS

from cachekeeper.errors import DatabaseUnavailable, InvalidText
from lookups import search_products
from testkit.counting import counted
from testkit.limits import NO_MONGO, NO_REDIS, NOWHERE
from testkit.shop import Shop
from tests.integration.lookups.searching import changed, key_of, keys, names, stock

# --- what a text finds ----------------------------------------------------------------------------------------------

SPECIAL = [
    "C++",
    ".*",
    "(a+)+$",
    "{x}",
    "[a-z]",
    "a|b",
    "^a",
    "a$",
    "\\d",
    "\\",
    "?",
    "50%",
    "%7B",
    "%25",
    "'",
    '"',
    "a\nb",
]


def test_regex_characters_find_what_contains_them_literally(shop: Shop) -> None:
    stock(shop, "plain aaa", *(f"x{each}y" for each in SPECIAL))
    keeper = shop.keeper()
    for each in SPECIAL:
        wanted = [name for name in (f"x{other}y" for other in SPECIAL) if each in name]
        assert names(keeper, each) == wanted, each
        assert json.loads(shop.redis.get(key_of(each)) or b"null") == search_products(each, keeper=keeper)
    assert shop.reads.count == len(SPECIAL)


@pytest.mark.parametrize("text", ["(a+)+$", "(a*)*b", "(.*.*.*.*)x", "a?" * 30, "(a|aa)+$", "((a{1,9}){1,9}){1,9}"])
def test_no_text_takes_long(shop: Shop, text: str) -> None:
    stock(shop, "a" * 30_000, "a" * 30_000 + "!")
    keeper = shop.keeper()
    started = time.monotonic()
    assert names(keeper, text) == []
    assert time.monotonic() - started < 10


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("lamp", ["LAMP", "Desk Lamp", "lamp"]),
        ("LAMP", ["LAMP", "Desk Lamp", "lamp"]),
        ("k lamp", ["Desk Lamp"]),
        ("\u212a", ["Desk Lamp", "kettle"]),  # the Kelvin sign is a k
        ("ΣΊΣ", ["σίς"]),
        ("é", ["CAFÉ"]),
        ("ß", ["Straße"]),
        ("ss", []),  # one character to one
        ("İ", ["İstanbul"]),
        (" ", ["Desk Lamp", "a 🛒"]),
        ("🛒", ["a 🛒"]),
        ("nothing of the kind", []),
    ],
)
def test_in_any_case(shop: Shop, text: str, found: list[str]) -> None:
    stock(shop, "LAMP", "Desk Lamp", "lamp", "kettle", "σίς", "CAFÉ", "Straße", "İstanbul", "a 🛒")
    keeper = shop.keeper()
    assert names(keeper, text) == found
    assert names(keeper, text) == found
    assert shop.reads.count == 1
    assert names(shop.keeper(redis_url=NOWHERE, **NO_REDIS), text) == found


def test_spellings_that_find_the_same_share_a_key(shop: Shop) -> None:
    stock(shop, "Kettle")
    keeper = shop.keeper()
    assert [names(keeper, each) for each in ("kettle", "KETTLE", "\u212aettle")] == [["Kettle"]] * 3
    assert shop.reads.count == 1
    assert keys(shop) == {"search:kettle"}


@pytest.mark.parametrize("name", [5, None, ["lamp"], {"a": "lamp"}, ["a", "lamp"]], ids=str)
def test_a_name_that_is_not_text_is_never_found(shop: Shop, name: object) -> None:
    shop.db.products.insert_one({"_id": 1, "name": name})
    assert search_products("lamp", keeper=shop.keeper()) == []


def test_the_same_values_on_a_fill_a_hit_and_an_outage(shop: Shop) -> None:
    oid = ObjectId("65f0c0ffee65f0c0ffee65f0")
    shop.db.products.insert_many(
        [
            {
                "_id": oid,
                "name": "Lamp",
                "made": datetime(2026, 3, 1, 12, 0, 0, 123000, tzinfo=UTC),
                "price": Decimal128("12.50"),
                "weight": 1.0,
                "less": -0.0,
                "stock": Int64(2**40),
                "huge": Int64(2**60),
                "nan": float("nan"),
                "raw": b"\x01\x02",
                "parts": [{"_id": oid}, None, True],
            },
            {"_id": 7, "name": "lamp of the far future", "made": DatetimeMS(8_000_000_000_000_000)},
            {"_id": "b", "name": "a lamp"},
            {"_id": 3, "name": "lamp"},
        ]
    )
    keeper = shop.keeper()
    fill, hit = search_products("lamp", keeper=keeper), search_products("lamp", keeper=keeper)
    assert shop.reads.count == 1
    outage = search_products("lamp", keeper=shop.keeper(redis_url=NOWHERE, **NO_REDIS))
    over_the_limit = search_products("lamp", keeper=shop.keeper(text_limit_chars=3))
    too_large = search_products("lamp", keeper=shop.keeper(redis_url=shop.server.url_of(1), value_limit_bytes=10))
    assert fill == hit == outage == over_the_limit == too_large
    assert [each["_id"] for each in fill] == [3, 7, "b", str(oid)]  # in the order of `_id`, as MongoDB has it
    assert fill[3] == {
        "_id": "65f0c0ffee65f0c0ffee65f0",
        "name": "Lamp",
        "made": "2026-03-01T12:00:00.123Z",
        "price": {"$numberDecimal": "12.50"},
        "weight": 1,
        "less": 0,
        "stock": 2**40,
        "huge": {"high": 2**28, "low": 0, "unsigned": False},
        "nan": None,
        "raw": "AQI=",
        "parts": [{"_id": "65f0c0ffee65f0c0ffee65f0"}, None, True],
    }
    assert fill[1]["made"] == "+255479-11-28T14:13:20.000Z"


# --- what is cached, and what is not --------------------------------------------------------------------------------


def test_a_search_lives_ten_minutes_and_needs_no_metadata(shop: Shop) -> None:
    stock(shop, "Lamp")
    search_products("lamp", keeper=shop.keeper())
    assert 595 < shop.redis.ttl("search:lamp") <= 600
    assert keys(shop) == {"search:lamp"}


def test_an_empty_result_is_a_value(shop: Shop) -> None:
    keeper = shop.keeper()
    assert search_products("lamp", keeper=keeper) == []
    assert shop.redis.get("search:lamp") == b"[]"
    assert search_products("lamp", keeper=keeper) == []
    assert shop.reads.count == 1
    stock(shop, "Lamp")
    changed(keeper, name="Lamp", previous_name=None)
    assert names(keeper, "lamp") == ["Lamp"]


@pytest.mark.parametrize("letter", ["x", "é", "🛒", "İ"])
def test_a_text_over_the_limit_is_answered_and_not_cached(shop: Shop, letter: str) -> None:
    stock(shop, letter * 70)
    keeper = shop.keeper()
    for _ in range(2):
        assert names(keeper, letter * 65) == [letter * 70]
    assert keys(shop) == set()
    assert shop.reads.count == 2
    for _ in range(2):
        assert names(keeper, letter * 64) == [letter * 70]
    assert shop.reads.count == 3
    assert keys(shop) == {key_of(letter * 64)}
    changed(keeper, name=letter * 70, previous_name=letter * 70)
    assert keys(shop) == set()


def test_a_result_over_the_limit_is_returned_whole_and_not_cached(shop: Shop) -> None:
    stock(shop, *(f"lamp {each}" for each in range(20)))
    keeper = shop.keeper(value_limit_bytes=200)
    with counted() as seen:
        for _ in range(2):
            assert len(search_products("lamp", keeper=keeper)) == 20
    assert seen["value_over_limit"] == 2
    assert keys(shop) == set()
    assert names(keeper, "lamp 11") == ["lamp 11"]
    assert keys(shop) == {"search:lamp 11"}


@pytest.mark.parametrize("raw", [b"[", b"{}", b"null", b"[\xff]", b"[NaN]", b"", None], ids=str)
def test_damage_is_repaired(shop: Shop, raw: bytes | None, caplog: pytest.LogCaptureFixture) -> None:
    stock(shop, "Lamp")
    keeper = shop.keeper()
    for _ in range(2):
        if raw is None:
            shop.redis.delete("search:lamp")
            shop.redis.rpush("search:lamp", "a")
        else:
            shop.redis.set("search:lamp", raw)
        with counted() as seen:
            assert names(keeper, "lamp") == ["Lamp"]
        assert seen["damaged_value"] == 1
        assert json.loads(shop.redis.get("search:lamp") or b"") == [{"_id": 0, "name": "Lamp"}]
    assert [record.message for record in caplog.records] == [
        "view search: a key held a value that this view never writes; it is replaced from MongoDB"
    ]


def test_mongodb_away(shop: Shop) -> None:
    keeper = shop.keeper(watched=False, mongodb_url="mongodb://127.0.0.1:1/shop", **NO_MONGO)
    shop.redis.set("search:lamp", "[]")
    assert search_products("lamp", keeper=keeper) == []
    for text in ("other", "x" * 65):
        with pytest.raises(DatabaseUnavailable):
            search_products(text, keeper=keeper)


# --- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bad", ["", "x" * 513, "é" * 257, "a\0b", "a\ud800", "\udfff", None, 42, b"lamp", ["lamp"], {"$ne": 1}], ids=ascii
)
def test_bad_texts_write_nothing(shop: Shop, bad: Any) -> None:
    keeper = shop.keeper()
    search_products("lamp", keeper=keeper)
    before = shop.dump()
    with pytest.raises(InvalidText) as caught:
        search_products(bad, keeper=keeper)
    assert caught.value.field == "text"
    assert shop.dump() == before
    assert shop.reads.count == 1


# --- what a change invalidates --------------------------------------------------------------------------------------
