"""Sessions: MongoDB is the truth, Node.js writes beside us, and what has been logged out stays so."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from cachekeeper.errors import (
    CachekeeperError,
    DamagedValue,
    DatabaseUnavailable,
    InvalidId,
    InvalidValue,
    PersistedNotCached,
)
from cachekeeper.values.codecs import MAX_DEPTH
from lookups import SESSION, read_session, save_session
from lookups.sessions import TTL_SECONDS
from testkit.gates import threads
from testkit.limits import LONG, NO_MONGO, NO_REDIS, NOWHERE, ONE_SECOND
from testkit.mutating import mutate
from testkit.shop import Shop, meta
from testkit.waiting import wait_until
from tests.integration.lookups.sessions import KEY, document, log_out, nobody_is_logged_in

# --- saving and reading ---------------------------------------------------------------------------------------------


def test_a_saved_session_is_at_its_key_and_in_mongodb_when_save_returns(shop: Shop) -> None:
    client = shop.client()
    keeper = shop.keeper(cache=client)
    before = datetime.now(UTC) - timedelta(seconds=1)
    save_session("s1", {"cart": [1, 2], "name": "Zoë"}, keeper=keeper)

    raw = shop.redis.get(KEY)
    assert isinstance(raw, bytes)
    assert json.loads(raw) == {"cart": [1, 2], "name": "Zoë"}
    assert TTL_SECONDS - 5 < shop.redis.ttl(KEY) <= TTL_SECONDS
    saved = document(shop)
    assert saved.keys() == {"_id", "data", "version", "expires_at"}
    assert saved["data"] == {"cart": [1, 2], "name": "Zoë"}
    assert saved["version"] >= before.timestamp() * 1000
    assert before < saved["expires_at"] - timedelta(seconds=TTL_SECONDS) < datetime.now(UTC) + timedelta(seconds=1)

    client.counted.clear()
    shop.reads.reset()
    assert read_session("s1", keeper=keeper) == {"cart": [1, 2], "name": "Zoë"}
    assert client.counted == {"read_until": 1}
    assert shop.reads.count == 0


def test_a_save_replaces_what_was_saved_before(shop: Shop) -> None:
    keeper = shop.keeper()
    versions = []
    for data in ({"a": 1, "deep": {"x": 1}}, {"b": 2, "deep": {"y": 1}}, {}, {"c": 3}):
        save_session("s1", data, keeper=keeper)
        assert read_session("s1", keeper=keeper) == data
        assert document(shop)["data"] == data
        assert json.loads(shop.redis.get(KEY) or b"") == data
        versions.append(document(shop)["version"])
    assert versions == sorted(set(versions))


def test_a_flush_logs_nobody_out(shop: Shop) -> None:
    keeper = shop.keeper()
    save_session("s1", {"cart": [1]}, keeper=keeper)
    shop.flush()
    assert read_session("s1", keeper=keeper) == {"cart": [1]}
    assert shop.redis.get(KEY) == b'{"cart":[1]}'


def test_the_life_at_the_key_never_exceeds_what_is_left_of_the_session(shop: Shop) -> None:
    keeper = shop.keeper()
    save_session("s1", {"cart": [1]}, keeper=keeper)
    shop.db.sessions.update_one({"_id": "s1"}, {"$set": {"expires_at": datetime.now(UTC) + timedelta(seconds=60)}})
    shop.flush()
    assert read_session("s1", keeper=keeper) == {"cart": [1]}
    assert 50 < shop.redis.ttl(KEY) <= 60


def test_a_fill_that_forgets_the_sessions_own_end_is_found(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    mutate(monkeypatch, "_FILL", "if ends ~= '' then left", "if false then left")
    with pytest.raises(AssertionError):
        test_the_life_at_the_key_never_exceeds_what_is_left_of_the_session(shop)


def test_an_expired_session_is_absent_and_a_save_begins_it_anew(shop: Shop) -> None:
    keeper = shop.keeper()
    save_session("s1", {"cart": [1]}, keeper=keeper)
    first = document(shop)["version"]
    past = datetime.now(UTC) - timedelta(seconds=1)
    shop.db.sessions.update_one({"_id": "s1"}, {"$set": {"expires_at": past, "version": first + 10**9}})
    shop.redis.delete(KEY)
    assert read_session("s1", keeper=keeper) is None
    save_session("s1", {"cart": [2]}, keeper=keeper)
    assert read_session("s1", keeper=keeper) == {"cart": [2]}
    assert document(shop)["version"] > first + 10**9


def test_the_version_rises_although_the_document_was_removed(shop: Shop) -> None:
    keeper = shop.keeper()
    save_session("s1", {"cart": [1]}, keeper=keeper)
    first = document(shop)["version"]
    shop.db.sessions.delete_one({"_id": "s1"})  # as the TTL index does
    wait_until(lambda: datetime.now(UTC).timestamp() * 1000 > first, "a millisecond has passed")
    save_session("s1", {"cart": [2]}, keeper=keeper)
    assert document(shop)["version"] > first
    assert read_session("s1", keeper=keeper) == {"cart": [2]}
    assert shop.redis.get(KEY) == b'{"cart":[2]}'


HARD: list[dict[str, Any]] = [
    {"a.b": 1, "$set": {"$inc": 1}, "a$": ["$x", "$$NOW", {"$literal": "$y"}], "": {"": 1}, "$$ROOT": "$$ROOT"},
    {"x": 2**53 - 1, "y": -(2**40), "z": 0.1, "big": 1e300, "t": True, "n": None, "s": "\0\u2028 🛒"},
    {"__proto__": {"a": 1}, "constructor": {"b": [{}]}, "10": 1, "9": 2},
]


@pytest.mark.parametrize("data", HARD, ids=["operators", "values", "javascript"])
def test_hard_data_survives_both_servers(shop: Shop, data: dict[str, Any]) -> None:
    keeper = shop.keeper()
    save_session("s1", data, keeper=keeper)
    assert read_session("s1", keeper=keeper) == data
    shop.flush()
    assert read_session("s1", keeper=keeper) == data
    assert document(shop)["data"] == data


def test_data_as_deep_as_it_may_be(shop: Shop) -> None:
    data: dict[str, Any] = {}
    for _ in range(MAX_DEPTH - 1):
        data = {"a": data}
    keeper = shop.keeper()
    save_session("s1", data, keeper=keeper)
    shop.flush()
    assert read_session("s1", keeper=keeper) == data


def test_ids_of_every_type(shop: Shop) -> None:
    for kind, session_id, document_id in (("auto", 42, 42), ("str", "42", "42"), ("auto", "tenant:42", "tenant:42")):
        keeper = shop.keeper(id_types=f"session={kind}")
        save_session(session_id, {"kind": kind}, keeper=keeper)
        assert shop.db.sessions.find_one({"_id": document_id, "data.kind": kind}) is not None


# --- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("session_id", "data", "error", "field"),
    [
        ("", {}, InvalidId, "session_id"),
        ("a b", {}, InvalidId, "session_id"),
        ("a{b", {}, InvalidId, "session_id"),
        (True, {}, InvalidId, "session_id"),
        ("A" * 24, {}, InvalidId, "session_id"),
        ("s1", None, InvalidValue, "data"),
        ("s1", ["a"], InvalidValue, "data"),
        ("s1", '{"a": 1}', InvalidValue, "data"),
        ("s1", {"a": {"b": [0, float("nan")]}}, InvalidValue, "data.a.b[1]"),
        ("s1", {"a": {1: 2}}, InvalidValue, "data.a"),
        ("s1", {"a": 2**53}, InvalidValue, "data.a"),
        ("s1", {"a": {"$ref": "x.y", "$id": 1}}, InvalidValue, "data.a"),
        ("s1", {"a": "x" * 200}, InvalidValue, "data"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_bad_input_is_refused_and_nothing_is_written(
    shop: Shop, session_id: Any, data: Any, error: type[CachekeeperError], field: str
) -> None:
    keeper = shop.keeper(value_limit_bytes=200)
    save_session("s1", {"cart": [1]}, keeper=keeper)
    before, stored = shop.dump(), list(shop.db.sessions.find())
    with pytest.raises(error) as caught:
        save_session(session_id, data, keeper=keeper)
    assert getattr(caught.value, "field", None) == field
    assert shop.dump() == before
    assert list(shop.db.sessions.find()) == stored


# --- Node.js --------------------------------------------------------------------------------------------------------


def test_a_session_that_node_saved_is_served_as_it_is(shop: Shop) -> None:
    keeper = shop.keeper()
    assert read_session("s1", keeper=keeper) is None  # remembered; must not stand in the way
    assert shop.redis.set(KEY, '{"cart": [1], "half": 0.5}', ex=TTL_SECONDS, nx=True)
    assert read_session("s1", keeper=keeper) == {"cart": [1], "half": 0.5}
    assert shop.redis.set(KEY, '{"cart": [2]}', ex=TTL_SECONDS, xx=True)
    assert read_session("s1", keeper=keeper) == {"cart": [2]}
    assert shop.db.sessions.count_documents({}) == 0


def test_node_and_we_take_turns(shop: Shop) -> None:
    keeper = shop.keeper()
    shop.redis.set(KEY, '{"by": "node"}', ex=TTL_SECONDS, nx=True)
    save_session("s1", {"by": "us"}, keeper=keeper)
    assert read_session("s1", keeper=keeper) == {"by": "us"}
    assert document(shop)["data"] == {"by": "us"}
    assert shop.redis.set(KEY, '{"by": "node again"}', ex=TTL_SECONDS, xx=True)
    assert read_session("s1", keeper=keeper) == {"by": "node again"}
    save_session("s1", {"by": "us again"}, keeper=keeper)
    assert shop.redis.get(KEY) == b'{"by":"us again"}'
    assert 0 < shop.redis.ttl(KEY) <= TTL_SECONDS


@pytest.mark.parametrize("raw", [b"{", b"[1]", b"null", b"\xff", b'{"a": NaN}', None], ids=str)
def test_damage_is_a_typed_error_and_left_as_found(shop: Shop, raw: bytes | None) -> None:
    keeper = shop.keeper()
    save_session("s1", {"cart": [1]}, keeper=keeper)
    shop.redis.delete(KEY)
    if raw is None:
        shop.redis.hset(KEY, "a", "b")
    else:
        shop.redis.set(KEY, raw, ex=TTL_SECONDS)
    before = shop.redis.dump(KEY)
    for _ in range(2):
        with pytest.raises(DamagedValue, match="view session"):
            read_session("s1", keeper=keeper)
    assert shop.redis.dump(KEY) == before
    save_session("s1", {"cart": [2]}, keeper=keeper)  # whoever saves, overwrites
    assert read_session("s1", keeper=keeper) == {"cart": [2]}


# --- saves at once --------------------------------------------------------------------------------------------------


def test_first_saves_at_once_all_succeed_and_the_last_one_stands(shop: Shop) -> None:
    """Two upserts of one new session may both try to insert; the one that fails is no logged-out session."""
    keepers = [shop.keeper(watched=False) for _ in range(2)]
    for each in keepers:
        read_session("warm-up", keeper=each)
    with threads(16) as go:
        for round_ in range(10):
            saves = [go(save_session, f"new-{round_}", {"save": each}, keeper=keepers[each % 2]) for each in range(16)]
            for save in saves:
                save.result(LONG)
            stored = shop.db.sessions.find_one({"_id": f"new-{round_}"})
            assert stored is not None
            raw = shop.redis.get(f"session:new-{round_}")
            assert isinstance(raw, bytes)
            assert json.loads(raw) == stored["data"]


# --- outages --------------------------------------------------------------------------------------------------------


def test_without_redis_a_save_says_that_mongodb_has_it_and_a_retry_is_safe(shop: Shop) -> None:
    with pytest.raises(PersistedNotCached, match="save it again"):
        save_session("s1", {"cart": [1]}, keeper=shop.keeper(redis_url=NOWHERE, **NO_REDIS))
    assert document(shop)["data"] == {"cart": [1]}
    keeper = shop.keeper()
    assert read_session("s1", keeper=keeper) == {"cart": [1]}
    save_session("s1", {"cart": [1]}, keeper=keeper)
    assert shop.redis.get(KEY) == b'{"cart":[1]}'


def test_a_redis_that_is_full_is_the_same(shop: Shop) -> None:
    keeper = shop.keeper()  # that Redis answers, and at once
    save_session("s1", {"cart": [1]}, keeper=keeper)
    shop.redis.config_set("maxmemory", 1)
    try:
        with pytest.raises(PersistedNotCached):
            save_session("s2", {"cart": [2]}, keeper=keeper)
    finally:
        shop.redis.config_set("maxmemory", 0)
    save_session("s2", {"cart": [2]}, keeper=keeper)
    assert shop.redis.get("session:s2") == b'{"cart":[2]}'


def test_where_mongodb_is_overloaded_after_the_save_a_retry_is_what_it_says(shop: Shop) -> None:
    """The marker is there; the read through finds no slot. The save itself is done."""
    keeper = shop.keeper(**ONE_SECOND, load_concurrency=1)
    with keeper.reads.slot(0), pytest.raises(PersistedNotCached):
        save_session("s1", {"cart": [1]}, keeper=keeper)
    save_session("s1", {"cart": [1]}, keeper=keeper)
    assert shop.redis.get(KEY) == b'{"cart":[1]}'


def test_without_mongodb_nothing_is_written_and_hits_are_served(shop: Shop) -> None:
    save_session("s1", {"cart": [1]}, keeper=shop.keeper())
    keeper = shop.keeper(watched=False, mongodb_url="mongodb://127.0.0.1:1/shop", **NO_MONGO)
    before = shop.dump()
    with pytest.raises(DatabaseUnavailable):
        save_session("s1", {"cart": [2]}, keeper=keeper)
    assert shop.dump() == before
    assert read_session("s1", keeper=keeper) == {"cart": [1]}


# --- documents that others wrote ------------------------------------------------------------------------------------


def test_an_end_that_is_null_is_none(shop: Shop) -> None:
    soon = datetime.now(UTC) + timedelta(minutes=5)
    shop.db.sessions.insert_one({"_id": "s1", "data": {"a": 1}, "version": 1, "expires_at": soon, "ended_at": None})
    keeper = shop.keeper()
    assert read_session("s1", keeper=keeper) == {"a": 1}
    save_session("s1", {"a": 2}, keeper=keeper)
    assert read_session("s1", keeper=keeper) == {"a": 2}
    log_out(keeper)
    nobody_is_logged_in(shop, keeper)


@pytest.mark.parametrize("version", ["5", True, None, float("nan"), -7, 2**53, 10**18, 1e300], ids=str)
def test_a_version_that_is_none_does_not_stop_a_save(shop: Shop, version: object) -> None:
    shop.db.sessions.insert_one({"_id": "s1", "data": {"a": 1}, "version": version})
    keeper = shop.keeper()
    assert read_session("s1", keeper=keeper) == {"a": 1}
    for each in (2, 3):
        save_session("s1", {"a": each}, keeper=keeper)
        assert shop.redis.get(KEY) == b'{"a":%d}' % each
    assert meta(shop, SESSION.template, "s1").keys() <= {b"v"}
    log_out(keeper)
    nobody_is_logged_in(shop, keeper)
