"""The rows of the protocol's table, each on every server.

`replay.py` runs every state that the protocol can reach. These tests check the rows one by one, with times, and cases
that the model does not have: other Redis types, exact numbers, steps that are run twice.
"""

import pytest

from cachekeeper.protocol import Value, scripts
from cachekeeper.protocol.outcomes import Acquired, Changed, Filled, Found, Invalidated, LeaseTaken, Released, Stale
from cachekeeper.values.versions import MAX_VERSION
from verification.protocol.store_lab import (
    FOREIGN,
    LEASE,
    MARKER,
    NEGATIVE,
    SLACK,
    TTL,
    K,
    M,
    StoreLab,
    about,
    put_foreign,
)

# --- acquire ---------------------------------------------------------------------------------------------------------


def test_a_miss_is_granted_a_lease(store_lab: StoreLab) -> None:
    began = store_lab.now()
    assert store_lab.acquire() is Acquired.GRANTED
    assert store_lab.meta[b"l"] == b"mine"
    assert LEASE <= int(store_lab.meta[b"lx"]) - began < LEASE + SLACK
    assert about(store_lab.ttl(M), LEASE)


def test_a_second_reader_is_told_who_loads(store_lab: StoreLab) -> None:
    store_lab.acquire()
    taken = store_lab.acquire("another's")
    assert isinstance(taken, LeaseTaken)
    assert taken.nonce == "mine"
    assert about(taken.milliseconds, LEASE)
    assert store_lab.meta[b"l"] == b"mine"


def test_an_acquire_that_is_asked_twice_is_granted_twice(store_lab: StoreLab) -> None:
    store_lab.acquire()
    assert store_lab.acquire() is Acquired.GRANTED
    assert store_lab.fill() is Filled.STORED


def test_what_came_meanwhile_is_found(store_lab: StoreLab) -> None:
    store_lab.cached(b"Ada")
    assert store_lab.acquire() == Found(b"Ada")
    assert b"l" not in store_lab.meta


def test_an_empty_value_is_a_value(store_lab: StoreLab) -> None:
    store_lab.cached(b"")
    assert store_lab.acquire() == Found(b"")


def test_a_lease_that_has_run_out_is_taken_over(store_lab: StoreLab) -> None:
    store_lab.acquire("slow", lease_ms=20)
    store_lab.wait_past(int(store_lab.meta.get(b"lx", 0)))
    assert store_lab.acquire() is Acquired.GRANTED
    assert store_lab.fill(b"old", nonce="slow") is Filled.LEASE_LOST
    assert store_lab.value is None
    assert store_lab.fill(b"new") is Filled.STORED


def test_a_lease_that_has_run_out_still_fills_while_nobody_has_taken_it_over(store_lab: StoreLab) -> None:
    store_lab.client.hset(M, mapping={"l": "mine", "lx": store_lab.now() - 1})
    assert store_lab.fill() is Filled.STORED


def test_refresh_acquires_although_the_value_lives(store_lab: StoreLab) -> None:
    store_lab.cached(b"Ada", 1)
    assert store_lab.acquire(refresh=True) is Acquired.GRANTED
    assert store_lab.value == b"Ada"
    assert isinstance(store_lab.acquire("another's", refresh=True), LeaseTaken)
    assert store_lab.fill(b"Ada Lovelace", 2) is Filled.STORED
    assert store_lab.value == b"Ada Lovelace"


def test_known_absent_is_said_until_it_runs_out(store_lab: StoreLab) -> None:
    store_lab.acquire()
    assert store_lab.fill_absent(ttl_ms=NEGATIVE) is Filled.STORED
    assert store_lab.acquire("another's") is Acquired.KNOWN_ABSENT
    store_lab.client.hset(M, "ax", store_lab.now() - 1)
    assert store_lab.acquire("another's") is Acquired.GRANTED


@pytest.mark.parametrize("kind", FOREIGN)
def test_another_type_at_the_key_is_damage(store_lab: StoreLab, kind: str) -> None:
    put_foreign(store_lab, K, kind)
    assert store_lab.acquire() is Acquired.DAMAGED
    assert store_lab.client.exists(K) == 1
    assert store_lab.acquire(refresh=True) is Acquired.GRANTED
    assert store_lab.fill(b"Ada") is Filled.STORED
    assert store_lab.value == b"Ada"


# --- fill ------------------------------------------------------------------------------------------------------------


def test_a_fill_stores_the_value_its_version_and_nothing_else(store_lab: StoreLab) -> None:
    store_lab.acquire()
    assert store_lab.fill(b"Ada", 3) is Filled.STORED
    assert store_lab.value == b"Ada"
    assert store_lab.meta == {b"v": b"3"}
    assert about(store_lab.ttl(), TTL)
    assert about(store_lab.ttl(M), MARKER)


def test_metadata_outlives_a_value_that_lives_longer_than_a_marker(store_lab: StoreLab) -> None:
    store_lab.acquire()
    store_lab.fill(ttl_ms=TTL, marker_ms=1000)
    assert store_lab.ttl(M) >= store_lab.ttl() > 1000


def test_metadata_is_never_given_a_shorter_life(store_lab: StoreLab) -> None:
    store_lab.change(1, marker_ms=MARKER)
    store_lab.acquire(lease_ms=1000)
    assert about(store_lab.ttl(M), MARKER)
    store_lab.fill(version=1, ttl_ms=1000, marker_ms=1000)
    assert about(store_lab.ttl(M), MARKER)
    store_lab.change(2, ttl_ms=1000, marker_ms=1000)
    assert about(store_lab.ttl(M), MARKER)


def test_a_fill_without_a_lease_does_not_land(store_lab: StoreLab) -> None:
    assert store_lab.fill() is Filled.LEASE_LOST
    assert store_lab.fill_absent() is Filled.LEASE_LOST
    assert store_lab.client.exists(K, M) == 0


def test_a_fill_under_another_readers_lease_does_not_land(store_lab: StoreLab) -> None:
    store_lab.acquire("another's")
    assert store_lab.fill() is Filled.LEASE_LOST
    assert store_lab.fill_absent() is Filled.LEASE_LOST
    assert store_lab.value is None
    assert store_lab.meta[b"l"] == b"another's"


def test_a_fill_that_is_sent_twice_lands_once(store_lab: StoreLab) -> None:
    store_lab.acquire()
    store_lab.fill(b"Ada", 1)
    store_lab.change(2, b"Grace")
    assert store_lab.fill(b"Ada", 1) is Filled.LEASE_LOST
    assert store_lab.value == b"Grace"


def test_a_fill_older_than_the_marker_is_stale_and_ends_its_lease(store_lab: StoreLab) -> None:
    store_lab.change(5)
    store_lab.acquire()
    assert store_lab.fill(b"old", 4) == Stale(5)
    assert store_lab.value is None
    assert store_lab.meta == {b"v": b"5"}


def test_a_fill_of_the_markers_own_version_lands(store_lab: StoreLab) -> None:
    store_lab.change(5)
    store_lab.acquire()
    assert store_lab.fill(b"Ada", 5) is Filled.STORED


def test_a_fills_version_is_compared_as_a_number(store_lab: StoreLab) -> None:
    store_lab.change(10)
    store_lab.acquire()
    assert store_lab.fill(b"old", 9) == Stale(10)


def test_a_fill_ends_known_absence(store_lab: StoreLab) -> None:
    store_lab.acquire()
    store_lab.fill_absent()
    put_foreign(store_lab, K, "list")  # only its repair gives a lease while absence is known
    store_lab.acquire(refresh=True)
    store_lab.fill()
    store_lab.client.delete(K)
    assert store_lab.acquire() is Acquired.GRANTED


def test_a_fill_that_spares_leaves_what_others_wrote_meanwhile(store_lab: StoreLab) -> None:
    """acquire (K absent) · load: absent · a login elsewhere: SET K NX · fill."""
    store_lab.acquire()
    store_lab.client.set(K, "Node's", ex=1800)
    value = Value(b"Ada", 1)
    assert store_lab.run(scripts.fill(K, "mine", value, ttl_ms=TTL, marker_ms=MARKER, spare=True)) is Filled.LEASE_LOST
    assert store_lab.value == b"Node's"
    assert store_lab.meta == {}
    store_lab.acquire(refresh=True)
    assert store_lab.run(scripts.fill_absent(K, "mine", ttl_ms=NEGATIVE, spare=True)) is Filled.LEASE_LOST
    assert store_lab.value == b"Node's"
    assert store_lab.meta == {}


def test_a_fill_that_spares_fills_where_nothing_is(store_lab: StoreLab) -> None:
    store_lab.acquire()
    fill = scripts.fill(K, "mine", Value(b"Ada", 1), ttl_ms=TTL, marker_ms=MARKER, spare=True)
    assert store_lab.run(fill) is Filled.STORED
    assert store_lab.value == b"Ada"


def test_a_fill_without_version_takes_the_known_one_away(store_lab: StoreLab) -> None:
    """E3 · E1 · fill(no version) · E2: if version 1 stayed, E2 would overwrite a value of unknown age."""
    store_lab.change(1)
    store_lab.acquire()
    assert store_lab.fill(b"Ada", None) is Filled.STORED
    assert store_lab.meta == {}
    assert store_lab.change(2) is Changed.MARKED
    assert store_lab.value is None


def test_absence_is_a_flag_and_never_a_value(store_lab: StoreLab) -> None:
    store_lab.change(1)
    store_lab.acquire()
    began = store_lab.now()
    assert store_lab.fill_absent(ttl_ms=NEGATIVE) is Filled.STORED
    assert store_lab.client.exists(K) == 0
    assert store_lab.meta.keys() == {b"v", b"ax"}
    assert NEGATIVE <= int(store_lab.meta[b"ax"]) - began < NEGATIVE + SLACK


def test_metadata_outlives_the_absent_flag(store_lab: StoreLab) -> None:
    store_lab.acquire(lease_ms=10_000)  # far from NEGATIVE, and long enough for a machine that is paused
    assert store_lab.fill_absent(ttl_ms=NEGATIVE) is Filled.STORED
    assert about(store_lab.ttl(M), NEGATIVE)


def test_an_early_refresh_that_finds_nothing_takes_the_value_away(store_lab: StoreLab) -> None:
    store_lab.cached(b"Ada", 1)
    store_lab.acquire(refresh=True)
    assert store_lab.fill_absent() is Filled.STORED
    assert store_lab.value is None


def test_release_gives_back_ones_own_lease_only(store_lab: StoreLab) -> None:
    store_lab.acquire()
    assert store_lab.run(scripts.release(K, "another's")) is Released.LOST
    assert store_lab.meta[b"l"] == b"mine"
    assert store_lab.run(scripts.release(K, "mine")) is Released.RELEASED
    assert store_lab.run(scripts.release(K, "mine")) is Released.LOST
    assert store_lab.acquire("another's") is Acquired.GRANTED


# --- events ----------------------------------------------------------------------------------------------------------


def test_a_change_overwrites_a_living_value_of_known_version(store_lab: StoreLab) -> None:
    store_lab.cached(b"Ada", 1)
    assert store_lab.change(2, b"Grace") is Changed.OVERWRITTEN
    assert store_lab.value == b"Grace"
    assert store_lab.meta == {b"v": b"2"}
    assert about(store_lab.ttl(), TTL)
    assert store_lab.ttl(M) >= store_lab.ttl()


def test_metadata_outlives_what_a_change_wrote(store_lab: StoreLab) -> None:
    store_lab.cached(b"Ada", 1)
    store_lab.client.pexpire(M, 10_000)  # long enough for a machine that is paused
    assert store_lab.change(2, ttl_ms=TTL, marker_ms=10_000) is Changed.OVERWRITTEN
    assert store_lab.ttl(M) >= store_lab.ttl() > 10_000


@pytest.mark.parametrize("version", [1, 2])
def test_a_duplicate_or_older_change_is_ignored(store_lab: StoreLab, version: int) -> None:
    store_lab.cached(b"Ada", 2)
    store_lab.acquire(refresh=True)
    assert store_lab.change(version, b"old") is Changed.IGNORED
    assert store_lab.value == b"Ada"
    assert store_lab.fill(b"Ada", 2) is Filled.STORED


def test_a_change_of_an_absent_key_leaves_a_marker(store_lab: StoreLab) -> None:
    assert store_lab.change(2) is Changed.MARKED
    assert store_lab.value is None
    assert store_lab.meta == {b"v": b"2"}
    assert about(store_lab.ttl(M), MARKER)


def test_a_marker_outlives_a_short_ttl(store_lab: StoreLab) -> None:
    store_lab.change(2, ttl_ms=1000, marker_ms=MARKER)
    assert about(store_lab.ttl(M), MARKER)


def test_a_change_over_a_marker_leaves_a_marker(store_lab: StoreLab) -> None:
    store_lab.change(1)
    assert store_lab.change(2) is Changed.MARKED
    assert store_lab.value is None


def test_a_change_over_a_value_of_unknown_version_takes_it_away(store_lab: StoreLab) -> None:
    """E2 · evict M · E1: the value at K may be newer than the event."""
    store_lab.cached(b"newer", 2)
    store_lab.client.delete(M)
    assert store_lab.change(1) is Changed.MARKED
    assert store_lab.value is None


def test_a_change_ends_leases_and_known_absence(store_lab: StoreLab) -> None:
    store_lab.acquire()
    store_lab.change(1)
    assert store_lab.fill(b"old", 1) is Filled.LEASE_LOST
    store_lab.acquire()
    store_lab.fill_absent()
    store_lab.change(2)
    assert store_lab.acquire() is Acquired.GRANTED


def test_versions_are_compared_exactly_up_to_the_highest(store_lab: StoreLab) -> None:
    store_lab.cached(b"Ada", MAX_VERSION - 1)
    assert store_lab.change(MAX_VERSION, b"Grace") is Changed.OVERWRITTEN
    assert store_lab.meta[b"v"] == str(MAX_VERSION).encode()
    assert store_lab.change(MAX_VERSION - 1) is Changed.IGNORED
    store_lab.client.delete(K)
    store_lab.acquire()
    assert store_lab.fill(b"old", MAX_VERSION - 1) == Stale(MAX_VERSION)


def test_versions_are_compared_as_numbers(store_lab: StoreLab) -> None:
    store_lab.cached(b"Ada", 9)
    assert store_lab.change(10, b"Grace") is Changed.OVERWRITTEN
    assert store_lab.change(9) is Changed.IGNORED


def test_version_zero_is_a_version(store_lab: StoreLab) -> None:
    assert store_lab.change(0) is Changed.MARKED
    assert store_lab.meta == {b"v": b"0"}
    assert store_lab.change(0) is Changed.IGNORED


def test_a_change_needs_a_version() -> None:
    with pytest.raises(TypeError, match="invalidation"):
        scripts.change(K, Value(b"Ada", None), ttl_ms=TTL, marker_ms=MARKER)


def test_a_change_over_another_type_repairs_it(store_lab: StoreLab) -> None:
    store_lab.cached(b"Ada", 1)
    store_lab.client.delete(K)
    store_lab.client.rpush(K, "x")
    assert store_lab.change(2, b"Grace") is Changed.OVERWRITTEN
    assert store_lab.value == b"Grace"


def test_an_invalidation_takes_value_metadata_and_leases(store_lab: StoreLab) -> None:
    store_lab.cached(b"Ada", 1)
    store_lab.acquire(refresh=True)
    assert store_lab.run(scripts.invalidate(K)) is Invalidated.INVALIDATED
    assert store_lab.client.exists(K, M) == 0
    assert store_lab.fill(b"old", 1) is Filled.LEASE_LOST
    assert store_lab.value is None
