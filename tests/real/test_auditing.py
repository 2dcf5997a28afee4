"""The audit finds what is stale, and only that. Each known-bad state is planted by hand."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from cachekeeper.auditing import Audit, audit
from cachekeeper.keys import meta_key
from lookups import BLOCKED, SEARCH, SESSION, USER_NAME, block_token, read_user, save_session, search_products

if TYPE_CHECKING:
    from cachekeeper.keeper import Keeper
    from tests.shop import Shop


def check(keeper: Keeper, view: Any) -> Audit:
    return audit(keeper, view, grace=0)


@pytest.fixture
def keeper(shop: Shop) -> Keeper:
    shop.db.users.insert_many([{"_id": n, "name": f"user {n}", "version": 1} for n in range(1, 451)])
    keeper = shop.keeper()
    for n in range(1, 451):  # more than one batch
        read_user(n, keeper=keeper)
    return keeper


def test_a_true_cache_is_right(keeper: Keeper) -> None:
    assert read_user(9999, keeper=keeper) is None
    found = check(keeper, USER_NAME)
    assert (found.right, found.wrong, found.checked) == (451, [], 451)


@pytest.mark.parametrize("number", [1, 250, 450])
def test_a_stale_value_is_found(shop: Shop, keeper: Keeper, number: int) -> None:
    shop.db.users.update_one({"_id": number}, {"$set": {"name": "changed behind its back"}})
    found = check(keeper, USER_NAME)
    assert found.wrong == [f"user:{number}:name"]
    assert found.right == 449


def test_a_value_without_a_document_is_found(shop: Shop, keeper: Keeper) -> None:
    shop.db.users.delete_one({"_id": 7})
    assert check(keeper, USER_NAME).wrong == ["user:7:name"]


def test_a_known_absence_of_what_exists_is_found(shop: Shop, keeper: Keeper) -> None:
    assert read_user(777, keeper=keeper) is None
    shop.db.users.insert_one({"_id": 777, "name": "came later"})
    assert check(keeper, USER_NAME).wrong == ["user:777:name"]


def test_an_absence_that_has_ended_is_no_claim(shop: Shop, keeper: Keeper) -> None:
    assert read_user(777, keeper=keeper) is None
    shop.db.users.insert_one({"_id": 777, "name": "came later"})
    shop.redis.hset(meta_key("user:777:name"), "ax", 1)
    assert check(keeper, USER_NAME).wrong == []


def test_another_redis_type_is_found(shop: Shop, keeper: Keeper) -> None:
    shop.redis.delete("user:3:name")
    shop.redis.lpush("user:3:name", "no text")
    assert check(keeper, USER_NAME).wrong == ["user:3:name"]


def test_a_change_on_its_way_is_not_wrong(shop: Shop, keeper: Keeper, monkeypatch: pytest.MonkeyPatch) -> None:
    # commit · first look · apply · second look
    shop.db.users.update_one({"_id": 5}, {"$set": {"name": "new"}})
    pause = SimpleNamespace(sleep=lambda _: shop.redis.set("user:5:name", "new"))
    monkeypatch.setattr("cachekeeper.auditing.time", pause)
    found = check(keeper, USER_NAME)
    assert (found.right, found.wrong) == (450, [])


def test_a_stale_search_is_found(shop: Shop, keeper: Keeper) -> None:
    shop.db.products.insert_many([{"_id": 1, "name": "lamp {50%25}"}, {"_id": 2, "name": "desk"}])
    for text in ("LAMP", "{50%25}", "desk", "none"):
        search_products(text, keeper=keeper)
    assert check(keeper, SEARCH).right == 4
    shop.db.products.update_one({"_id": 1}, {"$set": {"price": 3}})
    assert sorted(check(keeper, SEARCH).wrong) == ["search:%7B50%2525%7D", "search:lamp"]


def test_a_session_that_only_redis_knows_is_nobodys_business(shop: Shop, keeper: Keeper) -> None:
    save_session("ours", {"a": 1}, keeper=keeper)
    shop.redis.set("session:theirs", '{"b":2}', ex=1800)
    found = check(keeper, SESSION)
    assert (found.right, found.foreign, found.wrong) == (1, 1, [])


def test_a_stale_session_is_found(shop: Shop, keeper: Keeper) -> None:
    save_session("ours", {"a": 1}, keeper=keeper)
    shop.db.sessions.update_one({"_id": "ours"}, {"$set": {"data": {"a": 2}}})
    assert check(keeper, SESSION).wrong == ["session:ours"]


def test_a_block_that_a_ready_redis_lacks_is_found(shop: Shop, keeper: Keeper) -> None:
    soon, past = datetime.now(UTC) + timedelta(hours=1), datetime.now(UTC) - timedelta(hours=1)
    block_token("here", soon, keeper=keeper)
    shop.db.blocked_tokens.insert_many([{"_id": "lacking", "expires_at": soon}, {"_id": "over", "expires_at": past}])
    unready = check(keeper, BLOCKED)
    assert (unready.right, unready.gone, unready.wrong) == (1, 1, [])
    shop.redis.set(BLOCKED.ready_key, "true")
    assert check(keeper, BLOCKED).wrong == ["blocked:lacking"]
