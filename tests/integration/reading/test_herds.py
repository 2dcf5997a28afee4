"""Many readers of one key cost one read of MongoDB; and nobody is handed a load that began before he did."""

from __future__ import annotations

from typing import Any

import pytest

from cachekeeper.errors import CachekeeperError, DamagedDocument
from cachekeeper.reading import sync
from cachekeeper.reading.effects import Loaded
from cachekeeper.reading.singleflight import SharedFlights
from lookups import read_user
from testkit.gates import Gate, opened, threads
from testkit.limits import LONG
from testkit.mutating import mutate
from testkit.shop import Shop, changed_user, put_user
from testkit.waiting import wait_until

# --- herds ----------------------------------------------------------------------------------------------------------


def herd(shop: Shop, arrivals: list[str], processes: int, readers: int, **changes: Any) -> None:
    """So many readers of so many processes miss one key at once; the load ends when all have come."""

    def all_have_come() -> bool:
        if processes == 1:
            # With the load in hand: it may leave nothing in Redis for one who has not even asked for the lease.
            return arrivals.count("flight") >= readers - 1
        return all(each.counted["acquire"] >= readers for each in clients)

    put_user(shop, "Ann", 1)
    clients = [shop.client() for _ in range(processes)]
    keepers = [shop.keeper(cache=client, **changes) for client in clients]
    first = Gate()
    shop.reads.before.append(first)
    with threads(processes * readers) as go:
        names = [go(read_user, 1, keeper=keeper) for keeper in keepers for _ in range(readers)]
        first.wait_for_arrival()
        try:
            wait_until(
                lambda: shop.reads.count > 1 or all_have_come(),
                "all have come, or somebody loads, too",
            )
        finally:
            first.open()
        assert {name.result(LONG) for name in names} == {"Ann"}
    assert shop.reads.count == 1


def test_fifty_misses_in_one_process_cost_one_read(shop: Shop, arrivals: list[str]) -> None:
    herd(shop, arrivals, 1, 50)


def test_fifty_misses_in_two_processes_cost_one_read(shop: Shop, arrivals: list[str]) -> None:
    herd(shop, arrivals, 2, 25)


def test_misses_of_a_value_over_the_limit_share_its_load_too(shop: Shop, arrivals: list[str]) -> None:
    herd(shop, arrivals, 1, 10, value_limit_bytes=2)
    assert shop.redis.get("user:1:name") is None


def test_without_leases_they_cost_more(shop: Shop, arrivals: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    mutate(monkeypatch, "_ACQUIRE", "return {'taken', m[1], tonumber(m[2]) - now}", "")
    with pytest.raises(AssertionError):
        herd(shop, arrivals, 1, 10)


def test_an_error_is_shared_like_a_value(shop: Shop, arrivals: list[str]) -> None:
    shop.db.users.insert_one({"_id": 1, "name": 5})
    keeper = shop.keeper()
    first = Gate()
    shop.reads.before.append(first)
    with threads() as go:
        names = [go(read_user, 1, keeper=keeper) for _ in range(8)]
        first.wait_for_arrival()
        wait_until(lambda: arrivals.count("flight") == 7, "the others wait for its load", 10)
        first.open()
        for name in names:
            with pytest.raises(DamagedDocument):
                name.result(LONG)
    assert shop.reads.count == 1


def stale_load_is_joined(shop: Shop, arrivals: list[str]) -> None:
    """An event has announced 5, MongoDB says 4. One loads that, the other waits for the load; nobody returns it."""
    put_user(shop, "old", 4)
    keeper = shop.keeper()
    changed_user(keeper, "new", 5)
    first, again = Gate(), Gate()
    shop.reads.before.extend([first, again])
    with threads() as go:
        one = go(read_user, 1, keeper=keeper)
        first.wait_for_arrival()
        other = go(read_user, 1, keeper=keeper)
        wait_until(lambda: "flight" in arrivals, "the other one waits for the load")
        first.open()
        wait_until(lambda: again.reached or one.done() or other.done(), "somebody loads again, or answers")
        put_user(shop, "new", 5)
        again.open()
        assert (one.result(LONG), other.result(LONG)) == ("new", "new")


def test_a_stale_load_is_nobodys_answer(shop: Shop, arrivals: list[str]) -> None:
    stale_load_is_joined(shop, arrivals)


def test_one_that_lands_all_the_same_is_handed_on(
    shop: Shop, arrivals: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lookup_type = sync._Lookup
    land = lookup_type._land

    def landing(self: sync._Lookup, loaded: Loaded | None, error: CachekeeperError | None = None) -> None:
        land(self, self._loaded if loaded is None and error is None else loaded, error)

    monkeypatch.setattr(lookup_type, "_land", landing)
    with pytest.raises(AssertionError, match="'old'"):
        stale_load_is_joined(shop, arrivals)


# --- loads without a lease ------------------------------------------------------------------------------------------


def outage(shop: Shop, arrivals: list[str]) -> None:
    """Redis is away, one read may run at a time. X holds it; A and B wait; A reads old; C comes after the change."""
    put_user(shop, "old")
    shop.db.users.insert_one({"_id": 2, "name": "Bob"})
    keeper = shop.keeper(redis_url="redis://127.0.0.1:1/0", load_concurrency=1)
    slot_is_held, has_read_old = Gate(), Gate()
    shop.reads.before.append(slot_is_held)
    shop.reads.after.extend([opened(), has_read_old])
    with threads() as go:
        try:
            x = go(read_user, 2, keeper=keeper)
            slot_is_held.wait_for_arrival()
            a, b = (go(read_user, 1, keeper=keeper) for _ in range(2))
            wait_until(lambda: sorted(arrivals) == ["flight", "slot", "slot"], "one of them leads, one waits for it")
            slot_is_held.open()
            has_read_old.wait_for_arrival()
            put_user(shop, "new")
            c = go(read_user, 1, keeper=keeper)
            wait_until(lambda: len(arrivals) == 4, "the third waits, whatever for")
        finally:
            slot_is_held.open()
            has_read_old.open()
        assert x.result(LONG) == "Bob"
        assert (a.result(LONG), b.result(LONG)) == ("old", "old")
        assert c.result(LONG) == "new"
    assert shop.reads.count == 3
    assert shop.reads.most_at_once == 1


def test_in_an_outage_a_load_is_shared_by_those_who_came_before_it_began(shop: Shop, arrivals: list[str]) -> None:
    outage(shop, arrivals)


def test_one_that_is_joined_after_it_began_answers_with_the_past(
    shop: Shop, arrivals: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SharedFlights, "_begin", lambda *_: None)
    with pytest.raises(AssertionError, match="assert 'old' == 'new'"):
        outage(shop, arrivals)
