"""The audit finds what is stale, and only that. Each known-bad state is planted by hand."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from bson import Decimal128

from cachekeeper.upkeep.audit import Audit, audit
from cachekeeper.values.keys import meta_key
from lookups import (
    BLOCKED,
    SEARCH,
    SESSION,
    USER_NAME,
    block_token,
    read_session,
    read_user,
    save_session,
    search_products,
)
from testkit.garbled import GARBLED, garbled

if TYPE_CHECKING:
    from collections.abc import Callable

    from cachekeeper.reading.keeper import Keeper
    from testkit.shop import Shop


def check(keeper: Keeper, view: Any) -> Audit:
    return audit(keeper, view, grace=0)


def pausing(monkeypatch: pytest.MonkeyPatch, meanwhile: Callable[[float], object]) -> None:
    """Something happens in the pauses of the audit, and of nothing else."""
    monkeypatch.setattr("cachekeeper.upkeep.audit.time", SimpleNamespace(sleep=meanwhile, time=time.time))


@pytest.fixture
def filled(shop: Shop) -> Keeper:
    shop.db.users.insert_many([{"_id": n, "name": f"user {n}", "version": 1} for n in range(1, 451)])
    keeper = shop.keeper()
    for n in range(1, 451):  # more than one batch
        read_user(n, keeper=keeper)
    return keeper


@pytest.fixture
def empty(shop: Shop) -> Keeper:
    return shop.keeper()


def test_a_true_cache_is_right(filled: Keeper) -> None:
    assert read_user(9999, keeper=filled) is None
    found = check(filled, USER_NAME)
    assert (found.right, found.wrong, found.checked) == (451, [], 451)


@pytest.mark.parametrize("number", [1, 250, 450])
def test_a_stale_value_is_found(shop: Shop, filled: Keeper, number: int) -> None:
    shop.db.users.update_one({"_id": number}, {"$set": {"name": "changed behind its back"}})
    found = check(filled, USER_NAME)
    assert found.wrong == [f"user:{number}:name"]
    assert found.right == 449


def test_a_value_without_a_document_is_found(shop: Shop, filled: Keeper) -> None:
    shop.db.users.delete_one({"_id": 7})
    assert check(filled, USER_NAME).wrong == ["user:7:name"]


def test_a_known_absence_of_what_exists_is_found(shop: Shop, filled: Keeper) -> None:
    assert read_user(777, keeper=filled) is None
    shop.db.users.insert_one({"_id": 777, "name": "came later"})
    assert check(filled, USER_NAME).wrong == ["user:777:name"]


def test_an_absence_that_has_ended_is_no_claim(shop: Shop, filled: Keeper) -> None:
    assert read_user(777, keeper=filled) is None
    shop.db.users.insert_one({"_id": 777, "name": "came later"})
    shop.redis.hset(meta_key("user:777:name"), "ax", 1)
    assert check(filled, USER_NAME).wrong == []


def test_another_redis_type_is_found(shop: Shop, filled: Keeper) -> None:
    shop.redis.delete("user:3:name")
    shop.redis.lpush("user:3:name", "no text")
    assert check(filled, USER_NAME).wrong == ["user:3:name"]


def test_a_change_on_its_way_is_not_wrong(shop: Shop, filled: Keeper, monkeypatch: pytest.MonkeyPatch) -> None:
    # commit · first look · apply · second look
    shop.db.users.update_one({"_id": 5}, {"$set": {"name": "new"}})
    pausing(monkeypatch, lambda _: shop.redis.set("user:5:name", "new"))
    found = check(filled, USER_NAME)
    assert (found.right, found.wrong) == (450, [])


def test_a_stale_search_is_found(shop: Shop, filled: Keeper) -> None:
    shop.db.products.insert_many([{"_id": 1, "name": "lamp {50%25}"}, {"_id": 2, "name": "desk"}])
    for text in ("LAMP", "{50%25}", "desk", "none"):
        search_products(text, keeper=filled)
    assert check(filled, SEARCH).right == 4
    shop.db.products.update_one({"_id": 1}, {"$set": {"price": 3}})
    assert sorted(check(filled, SEARCH).wrong) == ["search:%7B50%2525%7D", "search:lamp"]


def test_a_change_that_comes_between_two_looks_is_looked_at_again(
    shop: Shop, filled: Keeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    # first look: differs · another change behind its back · second look: differs in another way, and is as wrong
    shop.db.users.update_one({"_id": 5}, {"$set": {"name": "new"}})
    names = iter(["newer", "newest"])

    def meanwhile(_: float) -> None:
        if (name := next(names, None)) is not None:
            shop.db.users.update_one({"_id": 5}, {"$set": {"name": name}})

    pausing(monkeypatch, meanwhile)
    found = check(filled, USER_NAME)
    assert (found.right, found.wrong, found.checked) == (449, ["user:5:name"], 450)


def test_what_never_stands_still_is_not_right(shop: Shop, filled: Keeper, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.db.users.update_one({"_id": 5}, {"$set": {"name": "0"}})
    slept: list[float] = []

    def meanwhile(seconds: float) -> None:
        slept.append(seconds)
        shop.db.users.update_one({"_id": 5}, {"$set": {"name": str(len(slept))}})

    pausing(monkeypatch, meanwhile)
    found = audit(filled, USER_NAME, grace=0, looks=3)
    assert (found.right, found.wrong, found.unsettled, len(slept)) == (449, [], ["user:5:name"], 2)


def test_what_has_no_value_is_counted_as_that(shop: Shop, filled: Keeper) -> None:
    shop.redis.hset(meta_key("user:900:name"), "v", 3)
    assert check(filled, USER_NAME).valueless == 1


def test_a_session_that_only_redis_knows_is_nobodys_business(shop: Shop, empty: Keeper) -> None:
    save_session("ours", {"a": 1}, keeper=empty)
    shop.redis.set("session:theirs", '{"b":2}', ex=1800)
    found = check(empty, SESSION)
    assert (found.right, found.foreign, found.wrong) == (1, 1, [])


def test_a_session_that_others_have_saved_since_is_nobodys_business(shop: Shop, empty: Keeper) -> None:
    save_session("ours", {"a": 1}, keeper=empty)
    shop.redis.set("session:ours", '{"a":2}', ex=1800, xx=True)
    found = check(empty, SESSION)
    assert (found.right, found.foreign, found.wrong) == (0, 1, [])


def test_a_stale_session_is_found(shop: Shop, empty: Keeper) -> None:
    save_session("ours", {"a": 1}, keeper=empty)
    shop.db.sessions.update_one({"_id": "ours"}, {"$set": {"data": {"a": 2}}, "$inc": {"version": 1}})
    assert check(empty, SESSION).wrong == ["session:ours"]


def test_ids_that_python_cannot_hash_are_compared(shop: Shop, empty: Keeper) -> None:
    ends = datetime.now(UTC) + timedelta(hours=1)
    shop.db.sessions.insert_one({"_id": Decimal128("42"), "data": {"a": 1}, "version": 1, "expires_at": ends})
    assert read_session(42, keeper=empty) == {"a": 1}
    assert check(empty, SESSION).right == 1
    shop.db.sessions.update_one({"_id": 42}, {"$set": {"data": {}, "version": 2}})
    assert check(empty, SESSION).wrong == ["session:42"]


def test_a_document_that_became_unreadable_is_found(shop: Shop, filled: Keeper) -> None:
    shop.db.users.delete_many({"_id": {"$in": [3, 4]}})
    shop.db.users.insert_many([garbled({"_id": 3, "name": GARBLED}), {"_id": 4, "name": 5}])
    found = check(filled, USER_NAME)
    assert (found.right, sorted(found.wrong)) == (448, ["user:3:name", "user:4:name"])


def test_a_block_that_a_ready_redis_lacks_is_found(shop: Shop, empty: Keeper) -> None:
    soon, past = datetime.now(UTC) + timedelta(hours=1), datetime.now(UTC) - timedelta(hours=1)
    block_token("here", soon, keeper=empty)
    shop.db.blocked_tokens.insert_many([{"_id": "lacking", "expires_at": soon}, {"_id": "over", "expires_at": past}])
    shop.db.blocked_tokens.insert_many([garbled({"_id": GARBLED}), {"_id": {"no": "token"}}])
    unready = check(empty, BLOCKED)
    assert (unready.right, unready.valueless, unready.wrong) == (1, 1, [])
    shop.redis.set(BLOCKED.ready_key, "true")
    assert check(empty, BLOCKED).wrong == ["blocked:lacking"]
    shop.db.blocked_tokens.insert_one(garbled({"_id": 7, "expires_at": GARBLED}))
    assert sorted(check(empty, BLOCKED).wrong) == ["blocked:7", "blocked:lacking"]


def test_a_block_on_its_way_is_not_wrong(shop: Shop, empty: Keeper, monkeypatch: pytest.MonkeyPatch) -> None:
    # MongoDB · first look · Redis · second look
    shop.redis.set(BLOCKED.ready_key, "true")
    shop.db.blocked_tokens.insert_one({"_id": "new", "expires_at": None})
    pausing(monkeypatch, lambda _: shop.redis.set("blocked:new", "true"))
    found = check(empty, BLOCKED)
    assert (found.right, found.wrong) == (1, [])


def test_a_block_that_only_redis_knows_is_seen(shop: Shop, empty: Keeper) -> None:
    shop.redis.set("blocked:theirs", "true", ex=100)
    shop.redis.hset("blocked:any-type", "a", "b")
    shop.db.blocked_tokens.insert_one({"_id": 1.5, "expires_at": None})
    shop.redis.set("blocked:1.5", "true")
    found = check(empty, BLOCKED)
    assert (found.right, found.foreign, found.wrong) == (1, 2, [])
