"""Dropping a view: everything of it goes, nothing else; and why it takes two passes."""

from __future__ import annotations

import logging
from collections import deque
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from cachekeeper.applying import drop_view as dropping
from cachekeeper.applying.batch import apply
from cachekeeper.applying.drop_view import drop_view
from cachekeeper.errors import CacheUnavailable, DatabaseUnavailable
from cachekeeper.model.commands import Expire, Invalidate, InvalidateAll, Write
from cachekeeper.model.sources import Document, Query
from cachekeeper.model.views import TextView, View
from cachekeeper.protocol import new_nonce, scripts
from cachekeeper.protocol.outcomes import Acquired
from cachekeeper.values.codecs import Json, Text
from cachekeeper.values.keys import meta_key
from lookups import SEARCH, SESSION, USER_NAME, read_session, read_user, save_session, search_products
from testkit.counting import counted
from testkit.gates import Gate, opened, threads
from testkit.limits import LONG, NO_MONGO, NOWHERE, QUICK
from testkit.shop import Shop, meta

if TYPE_CHECKING:
    from collections.abc import Callable

    from cachekeeper.reading.keeper import Keeper


def keys(shop: Shop) -> set[bytes]:
    """All but the filter of registered texts."""
    return set(shop.dump()) - {SEARCH.filter_key.encode()}


def lease(keeper: Keeper, key: str) -> None:
    assert keeper.store(SEARCH.server).run(scripts.acquire(key, new_nonce(), lease_ms=60_000)) is Acquired.GRANTED


def test_every_value_and_every_lease_of_the_view_goes_and_nothing_else(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    keeper = shop.keeper()
    texts = ["lamp", "{x}", "50%", "a b", "a\nb", "*", "é", "}:meta", ":meta", "{", "search:lamp"]
    for text in texts:
        search_products(text, keeper=keeper)
    for text in ("in flight", "also %7bin%7d flight"):
        lease(keeper, f"search:{text}")
    others = {
        b"user:1:name",
        b"search",
        b"searches:lamp",
        b"research:lamp",
        b"{search:lamp}",
        b"{search:lamp}:metal",
        b"x{search:lamp}:meta",
        b"search:",
        b"{search:}:meta",
        b"\xffsearch:lamp",
    }
    shop.redis.mset(dict.fromkeys(others, "x"))
    read_user(2, keeper=keeper)  # known absent
    assert len(keys(shop)) == len(texts) + 2 + len(others) + 1
    with caplog.at_level(logging.WARNING):
        drop_view(keeper, SEARCH, "a test")
    assert keys(shop) == others | {b"{user:2:name}:meta"}
    assert [record.message for record in caplog.records] == [
        "view search was dropped, 13 invalidations in two passes: a test"
    ]


def test_a_view_of_many_keys(shop: Shop) -> None:
    keeper = shop.keeper()
    shop.redis.mset({f"search:{each}": "[]" for each in range(2500)})
    shop.redis.mset({f"filler:{each}": "x" for each in range(2500)})
    assert drop_view(keeper, SEARCH, "a test") == 2500
    assert shop.redis.dbsize() == 2500


def test_a_prefix_full_of_glob_characters(shop: Shop) -> None:
    loader = Document("things", lambda document: document["name"], fields=("name",))
    strange = View(name="strange", key="a*b?[c]^\\d:{id}:e", ttl_seconds=60, codec=Text(), loader=loader)
    text: TextView[list[object]] = TextView(
        name="text", key="t[a-z]:{text}:*", ttl_seconds=60, codec=Json(list), loader=Query("things", lambda _: {})
    )
    others = {b"aXb?[c]^\\d:1:e", b"a*b?c^\\d:1:e", b"a*b?[c]^\\d:1:f", b"tb:1:*", b"t[a-z]:1:x"}
    shop.redis.mset(dict.fromkeys([*others, b"a*b?[c]^\\d:1:e", b"t[a-z]:1:*"], "x"))
    keeper = shop.keeper()
    assert drop_view(keeper, strange, "a test") == 1
    assert drop_view(keeper, text, "a test") == 1
    assert keys(shop) == others


def test_a_deadline_stays(shop: Shop) -> None:
    keeper = shop.keeper()
    read_user(1, keeper=keeper)
    assert [each.error for each in apply(keeper, [[Expire(USER_NAME, "1")], [Write(USER_NAME, "1", "Ann", 3)]])] == [
        None
    ] * 2
    before = meta(shop, USER_NAME.template, "1")
    assert before.keys() == {b"d", b"v"}
    drop_view(keeper, USER_NAME, "a test")
    assert meta(shop, USER_NAME.template, "1") == {b"d": before[b"d"]}


def test_sessions_that_only_redis_knows_are_spared(shop: Shop) -> None:
    keeper = shop.keeper()
    save_session("ours", {"by": "us"}, keeper=keeper)
    save_session(7, {"by": "us"}, keeper=keeper)
    shop.redis.set("session:theirs", '{"by": "node"}', ex=1800)
    shop.redis.set("session:" + "A" * 24, '{"by": "node"}', ex=1800)  # no document can have this id
    shop.redis.hset(meta_key("session:theirs"), "v", "5")
    drop_view(keeper, SESSION, "a test")
    assert keys(shop) == {b"session:theirs", b"{session:theirs}:meta", b"session:" + b"A" * 24}
    assert read_session("theirs", keeper=keeper) == {"by": "node"}
    assert read_session("ours", keeper=keeper) == {"by": "us"}
    assert read_session(7, keeper=keeper) == {"by": "us"}


def test_an_event_whose_previous_name_is_unknown_drops_every_search_and_is_counted(shop: Shop) -> None:
    keeper = shop.keeper()
    for text in ("lamp", "desk"):
        search_products(text, keeper=keeper)
    with counted() as seen:
        results = apply(keeper, [[InvalidateAll(SEARCH, "one")], [InvalidateAll(SEARCH, "two")]])
    assert [result.error for result in results] == [None, None]
    assert seen["view_dropped"] == 1
    assert keys(shop) == set()


def test_without_redis_it_is_not_done(shop: Shop) -> None:
    with pytest.raises(CacheUnavailable):
        drop_view(shop.keeper(redis_url=NOWHERE, **QUICK), SEARCH, "a test")
    shop.redis.set("session:1", "{}")
    keeper = shop.keeper(watched=False, mongodb_url="mongodb://127.0.0.1:1/shop", **NO_MONGO)
    with pytest.raises(DatabaseUnavailable):
        drop_view(keeper, SESSION, "a test")
    result = apply(shop.keeper(redis_url=NOWHERE, **QUICK), [[InvalidateAll(SEARCH, "x")]])[0]
    assert isinstance(result.error, CacheUnavailable)


# --- why two passes -------------------------------------------------------------------------------------------------

FILLERS = 8000


def place_in_the_scan(shop: Shop) -> dict[bytes | str, int]:
    """In which answer of a complete SCAN, as the drop makes it, each key of a search comes."""
    places: dict[bytes | str, int] = {}
    cursor, call = 0, 0
    while True:
        cursor, found = shop.redis.scan(cursor, match="*search:*", count=1000)
        places.update(dict.fromkeys(found, call))
        call += 1
        if cursor == 0:
            return places


def text_whose_value_is_scanned_before_its_metadata(shop: Shop) -> tuple[str, int]:
    """Such a text, and before which call (from 0) the scan has passed the one and not the other."""
    shop.redis.mset({f"filler:{each}": "x" for each in range(FILLERS)})
    for each in range(40):
        shop.redis.mset({f"search:t{each}": "[]", meta_key(f"search:t{each}"): "x"})
    places = place_in_the_scan(shop)
    for each in range(40):
        shop.redis.delete(f"search:t{each}", meta_key(f"search:t{each}"))
    for each in range(40):
        value, beside = places[f"search:t{each}".encode()], places[meta_key(f"search:t{each}").encode()]
        if value + 1 < beside:
            return f"t{each}", value + 1
    raise AssertionError("of forty keys about half come before their metadata")


def drop_meets_a_late_fill(shop: Shop) -> None:
    """reader: lease, load old · commit · drop: passes K's bucket · reader: fills, M goes · drop: M's bucket is empty.

    What is left is a K that nobody in the first pass has seen.
    """
    text, passed = text_whose_value_is_scanned_before_its_metadata(shop)
    shop.db.products.insert_one({"_id": 1, "name": text})
    keeper, client = shop.keeper(), shop.client()
    worker = shop.keeper(cache=client)
    has_read, between = Gate(), Gate()
    shop.reads.after.append(has_read)
    client.after["SCAN"] = deque([*(opened() for _ in range(passed - 1)), between])
    with threads() as go:
        early = go(search_products, text, keeper=keeper)
        has_read.wait_for_arrival()
        shop.db.products.update_one({"_id": 1}, {"$set": {"name": "other"}})
        dropping_it = go(drop_view, worker, SEARCH, "its previous name is not known")
        between.wait_for_arrival()
        has_read.open()
        assert early.result(LONG) == [{"_id": 1, "name": text}]
        assert shop.redis.get(f"search:{text}") is not None  # it has landed, behind the scan's back
        assert shop.redis.exists(meta_key(f"search:{text}")) == 0
        between.open()
        dropping_it.result(LONG)
    assert shop.redis.get(f"search:{text}") is None
    assert search_products(text, keeper=keeper) == []


def test_a_fill_that_lands_behind_the_scan_is_found_by_the_second_pass(shop: Shop) -> None:
    drop_meets_a_late_fill(shop)


def test_with_one_pass_it_stays(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dropping, "range", lambda _: range(1), raising=False)
    with pytest.raises(AssertionError, match="is None"):
        drop_meets_a_late_fill(shop)


def test_a_reader_in_flight_during_the_whole_drop_does_not_land_afterwards(shop: Shop) -> None:
    shop.db.users.insert_one({"_id": 1, "name": "old"})
    keeper = shop.keeper()
    has_read = Gate()
    shop.reads.after.append(has_read)
    with threads() as go:
        early = go(read_user, 1, keeper=keeper)
        has_read.wait_for_arrival()
        shop.db.users.update_one({"_id": 1}, {"$set": {"name": "new"}})
        drop_view(keeper, USER_NAME, "a test")
        has_read.open()
        assert early.result(LONG) == "old"
    assert keys(shop) == set()
    assert read_user(1, keeper=keeper) == "new"


def test_dropping_is_like_an_invalidation_of_each(shop: Shop) -> None:
    soon = datetime.now(UTC) + timedelta(minutes=5)
    keeper = shop.keeper()
    shop.db.users.insert_many([{"_id": each, "name": "Ann", "version": 1} for each in range(4)])

    def left_by(drop: Callable[[], object]) -> list[tuple[bytes | str | None, dict[bytes, bytes]]]:
        shop.flush()
        apply(
            keeper, [[Write(USER_NAME, "1", "x", 2)], [Expire(USER_NAME, "2", soon)], [Write(USER_NAME, "3", "y", 1)]]
        )
        for each in (0, 2):
            read_user(each, keeper=keeper)
        drop()
        return [(shop.redis.get(f"user:{each}:name"), meta(shop, USER_NAME.template, str(each))) for each in range(4)]

    dropped = left_by(lambda: drop_view(keeper, USER_NAME, "a test"))
    assert dropped == left_by(lambda: apply(keeper, [[Invalidate(USER_NAME, str(each))] for each in range(4)]))
    assert [value for value, _ in dropped] == [None] * 4
    assert [list(beside) for _, beside in dropped] == [[], [], [b"d"], []]


def test_a_view_without_a_key_is_dropped_without_a_warning(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    """As at every first start on an empty server."""
    with caplog.at_level(logging.INFO):
        assert drop_view(shop.keeper(), SEARCH, "a test") == 0
    assert [record.levelname for record in caplog.records if "was dropped" in record.message] == ["INFO"]
