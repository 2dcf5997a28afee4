"""`search_products`: literal, in any case, in bounded time; and a change invalidates what it must and nothing else."""

from __future__ import annotations

import itertools
import json
import random
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from bson import Decimal128, Int64, ObjectId
from bson.datetime_ms import DatetimeMS

from cachekeeper.applying.batch import apply
from cachekeeper.errors import DatabaseUnavailable, InvalidText
from cachekeeper.values import fold
from lookups import SEARCH, search_products
from producers import ProductChanged
from testkit.counting import counted
from testkit.gates import Gate, threads
from testkit.limits import LONG, NO_MONGO, NO_REDIS, NOWHERE
from testkit.mutating import mutate
from testkit.shop import Shop
from worker.handlers import on_product_changed

if TYPE_CHECKING:
    from cachekeeper.reading.keeper import Keeper


def names(keeper: Keeper, text: str) -> list[str]:
    return [each["name"] for each in search_products(text, keeper=keeper)]


def key_of(text: str) -> str:
    return f"search:{fold.escape_braces(fold.fold(text))}"


def changed(keeper: Keeper, **fields: Any) -> None:
    """A product changed; acknowledged when this returns.

    The filter of registered texts, where there is one, is believed: that is where a text could be missed.
    """
    cache = keeper.store(SEARCH.server).client
    if cache.exists(SEARCH.filter_key):
        cache.setrange(SEARCH.filter_key, 0, "0" * 20)
    commands = list(on_product_changed(ProductChanged(product_id="1", **fields)))
    assert [result.error for result in apply(keeper, [commands])] == [None]


def keys(shop: Shop) -> set[str]:
    """All but the filter of registered texts."""
    return {key.decode() for key in shop.dump()} - {SEARCH.filter_key}


def stock(shop: Shop, *wanted: str) -> None:
    shop.db.products.insert_many([{"_id": each, "name": name} for each, name in enumerate(wanted)])


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
        "view search: a key held what this view never writes; repaired from MongoDB"
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


def spares_and_hits(shop: Shop, seed: int) -> None:
    """Searches over a small alphabet full of traps; changes of names made of it. Gone is what occurs in one of them."""
    chance = random.Random(seed)
    alphabet = ["a", "A", "b", "{", "}", "%", "%25", "%25", "%7B", "5", " ", "é", "É", "k", "\u212a", "🛒", "*", "\n"]

    def some_text(longest: int) -> str:
        return "".join(chance.choices(alphabet, k=chance.randint(1, longest)))

    keeper = shop.keeper(text_limit_chars=6)
    old, new = some_text(20), some_text(20)
    inside = [
        name[i:j] for name in (old, new) for i, j in itertools.combinations(range(len(name) + 1), 2) if j - i <= 6
    ]
    texts = {fold.fold(text): text for text in [*sorted(inside), *(some_text(6)[:6] for _ in range(150))]}
    shop.redis.mset({key_of(text): "[]" for text in texts.values()})
    for text in texts.values():
        shop.redis.hset(f"{{{key_of(text)}}}:meta", "l", "somebody")  # as if a fill were under way
    changed(keeper, name=new, previous_name=old)
    left = keys(shop)
    for folded, text in texts.items():
        occurs = folded in fold.fold(old) or folded in fold.fold(new)
        wanted = set() if occurs else {key_of(text), f"{{{key_of(text)}}}:meta"}
        assert left & {key_of(text), f"{{{key_of(text)}}}:meta"} == wanted, (old, new, text)


def spares_and_hits_twelve_times(shop: Shop) -> None:
    for seed in range(12):
        shop.flush()
        spares_and_hits(shop, seed)


def test_only_texts_that_occur_in_one_of_the_names_are_invalidated(shop: Shop) -> None:
    spares_and_hits_twelve_times(shop)


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        ("math.min(first + limit - 1, total)", "math.min(first + limit - 2, total)"),
        (".. escaped(text) ..", ".. text .."),
        ("lead < 0x80 and 1 or lead < 0xE0 and 2 or lead < 0xF0 and 3 or 4", "1"),
        ("batch[#batch + 1] = '{' .. key .. '}:meta'", ""),
        ("for argument = 4, #ARGV, 2 do", "for argument = 4, 5, 2 do"),
        ("text = text:gsub(", "local _ = text:gsub("),
    ],
    ids=["shorter", "unescaped", "bytes", "values only", "one name", "braces only"],
)
def test_known_bad_invalidations_are_found(shop: Shop, monkeypatch: pytest.MonkeyPatch, good: str, bad: str) -> None:
    mutate(monkeypatch, "_INVALIDATE_WITHIN", good, bad)
    with pytest.raises(AssertionError):
        spares_and_hits_twelve_times(shop)


@pytest.mark.parametrize(
    ("fields", "gone"),
    [
        ({"name": "Oak desk", "previous_name": "Lamp"}, "lamp desk"),
        ({"name": "Lamp", "previous_name": "Lamp"}, "lamp"),
        ({"name": "Lamp", "previous_name": None}, "lamp"),
        ({"deleted": True, "name": "Lamp"}, "lamp"),
        ({"deleted": True, "previous_name": "Oak desk"}, "desk"),
        ({"deleted": True}, "lamp desk other"),
        ({"name": "Lamp"}, "lamp desk other"),  # nobody knows what it was called before
    ],
    ids=str,
)
def test_every_kind_of_product_change(shop: Shop, fields: dict[str, Any], gone: str) -> None:
    keeper = shop.keeper()
    for text in ("lamp", "desk", "other"):
        search_products(text, keeper=keeper)
    shop.redis.set("user:1:name", "Ann")
    changed(keeper, **fields)
    assert keys(shop) - {"user:1:name"} == {f"search:{text}" for text in {"lamp", "desk", "other"} - set(gone.split())}
    assert shop.redis.get("user:1:name") == b"Ann"


def test_a_name_too_long_to_be_cut_up_drops_the_view(shop: Shop) -> None:
    keeper = shop.keeper()
    search_products("other", keeper=keeper)
    with counted() as seen:
        changed(keeper, name="x" * 4097, previous_name=None)
    assert seen["view_dropped"] == 1
    assert keys(shop) == set()


@pytest.mark.parametrize("length", [20, 200, 4096])
def test_long_names(shop: Shop, length: int) -> None:
    chance = random.Random(length)
    name = "".join(chance.choices("abcdefgh ", k=length))
    texts = [name[at : at + 64] for at in range(0, length, 61)]
    keeper = shop.keeper()
    for text in [*texts, "zzz"]:
        search_products(text, keeper=keeper)
    changed(keeper, name=name, previous_name=None)
    assert keys(shop) == {"search:zzz"}


def search_is_overtaken(shop: Shop) -> None:
    """reader: load, old · commit, apply, acknowledge · reader: fill · a later reader."""
    stock(shop, "Lamp")
    keeper = shop.keeper()
    has_read = Gate()
    shop.reads.after.append(has_read)
    with threads() as go:
        early = go(names, keeper, "lamp")
        has_read.wait_for_arrival()
        shop.db.products.update_one({"_id": 0}, {"$set": {"name": "Oak desk"}})
        changed(keeper, name="Oak desk", previous_name="Lamp")
        has_read.open()
        assert early.result(LONG) == ["Lamp"]
    assert shop.redis.get("search:lamp") is None
    assert names(keeper, "lamp") == []


def test_a_search_under_way_does_not_land_after_a_change(shop: Shop) -> None:
    search_is_overtaken(shop)


def test_where_only_values_are_unlinked_it_does(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    mutate(monkeypatch, "_INVALIDATE_WITHIN", "batch[#batch + 1] = '{' .. key .. '}:meta'", "")
    with pytest.raises(AssertionError):
        search_is_overtaken(shop)


def test_a_search_is_remembered_as_long_as_its_lease_and_its_value_may_live(shop: Shop) -> None:
    life_ms = shop.keeper(lease_seconds=40).binding(SEARCH).life_ms
    assert 40_000 + 600_000 < life_ms < 40_000 + 600_000 + 60_000


def test_the_view_is_as_the_design_has_it() -> None:
    assert (SEARCH.key, SEARCH.ttl_seconds) == ("search:{text}", 600)
