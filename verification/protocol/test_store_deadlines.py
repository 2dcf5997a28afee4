"""Deadlines: `K` lives no longer, whichever step writes it, on every server."""

import pytest

from cachekeeper.protocol import scripts
from cachekeeper.protocol.outcomes import Acquired, Changed, Expired, Filled, Found, LeaseTaken, Peeked
from verification.protocol.store_lab import FOREIGN, KEEP, LATER, LEASE, SLACK, TTL, K, M, StoreLab, about, put_foreign

NOW = 0  # as `Expire` without a time is sent


def read(lab: StoreLab) -> object:
    return lab.run(scripts.read_until(K))


# --- expire ----------------------------------------------------------------------------------------------------------


def test_expire_now_ends_the_value_and_is_remembered(store_lab: StoreLab) -> None:
    store_lab.cached(b"Ada", 1)
    assert store_lab.expire(NOW) is Expired.ENDED
    assert store_lab.value is None
    assert store_lab.meta == {b"v": b"1", b"d": b"0"}
    assert store_lab.ttl(M) >= KEEP - SLACK


def test_a_deadline_ahead_shortens_the_values_life(store_lab: StoreLab) -> None:
    store_lab.cached(b"Ada", 1)
    assert store_lab.expire(store_lab.now() + LATER) is Expired.LIMITED
    assert store_lab.value == b"Ada"
    assert about(store_lab.ttl(), LATER)


def test_a_deadline_is_remembered_beyond_itself(store_lab: StoreLab) -> None:
    store_lab.expire(store_lab.now() + LATER)
    assert about(store_lab.ttl(M), LATER + KEEP)


def test_an_end_is_remembered_as_long_as_asked(store_lab: StoreLab) -> None:
    store_lab.expire(NOW)
    assert about(store_lab.ttl(M), KEEP)


def test_a_deadline_ahead_does_not_lengthen_a_life(store_lab: StoreLab) -> None:
    store_lab.cached(b"Ada", 1)
    store_lab.client.pexpire(K, LATER)
    assert store_lab.expire(store_lab.now() + TTL) is Expired.LIMITED
    assert about(store_lab.ttl(), LATER)


def test_a_value_without_end_is_given_one(store_lab: StoreLab) -> None:
    store_lab.client.set(K, "Node's")
    store_lab.expire(store_lab.now() + LATER)
    assert about(store_lab.ttl(), LATER)


def test_of_two_deadlines_the_earlier_stands(store_lab: StoreLab) -> None:
    first = store_lab.now() + LATER
    store_lab.expire(first)
    assert store_lab.expire(first + LATER) is Expired.LIMITED
    assert store_lab.meta[b"d"] == b"%d" % first
    assert store_lab.expire(first - 1) is Expired.LIMITED
    assert store_lab.meta[b"d"] == b"%d" % (first - 1)
    assert store_lab.expire(NOW) is Expired.ENDED
    assert store_lab.expire(first) is Expired.ENDED
    assert store_lab.meta[b"d"] == b"0"


def test_a_deadline_that_passes_ends_the_value_by_itself(store_lab: StoreLab) -> None:
    store_lab.cached(b"Ada", 1)
    at = store_lab.now() + 30
    store_lab.expire(at)
    store_lab.wait_past(at)
    assert store_lab.value is None


def test_a_deadline_ends_leases(store_lab: StoreLab) -> None:
    """A read that begins after the deadline must not join a load from before it."""
    store_lab.acquire()
    store_lab.expire(NOW)
    assert store_lab.acquire("another's") is Acquired.GRANTED
    assert store_lab.fill() is Filled.LEASE_LOST


def test_a_lease_taken_under_a_deadline_ends_with_it(store_lab: StoreLab) -> None:
    at = store_lab.now() + LEASE // 2
    store_lab.expire(at)
    store_lab.acquire()
    taken = store_lab.acquire("another's")
    assert isinstance(taken, LeaseTaken)
    assert taken.milliseconds <= LEASE // 2
    assert store_lab.meta[b"lx"] == b"%d" % at


def test_a_lease_taken_after_the_deadline_is_a_whole_one(store_lab: StoreLab) -> None:
    store_lab.expire(NOW)
    store_lab.acquire()
    taken = store_lab.acquire("another's")
    assert isinstance(taken, LeaseTaken)
    assert about(taken.milliseconds, LEASE)


# --- writes under a deadline -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [2, None])
def test_no_fill_lands_past_the_deadline(store_lab: StoreLab, version: int | None) -> None:
    store_lab.expire(NOW)
    store_lab.acquire()
    assert store_lab.fill(b"Ada", version) is Filled.ENDED
    assert store_lab.value is None
    assert store_lab.meta == {b"d": b"0"}


def test_absence_may_be_learnt_past_the_deadline(store_lab: StoreLab) -> None:
    store_lab.expire(NOW)
    store_lab.acquire()
    assert store_lab.fill_absent() is Filled.STORED
    assert store_lab.acquire("another's") is Acquired.KNOWN_ABSENT


def test_no_change_lands_past_the_deadline(store_lab: StoreLab) -> None:
    store_lab.cached(b"Ada", 1)
    store_lab.expire(NOW)
    assert store_lab.change(2) is Changed.ENDED
    assert store_lab.value is None
    assert store_lab.meta == {b"v": b"2", b"d": b"0"}


def test_a_change_past_the_deadline_takes_a_foreign_value_away(store_lab: StoreLab) -> None:
    store_lab.change(1)
    store_lab.expire(NOW)
    store_lab.client.set(K, "Node's")
    assert store_lab.change(2) is Changed.ENDED
    assert store_lab.value is None


def test_a_fill_under_a_deadline_ends_with_it(store_lab: StoreLab) -> None:
    store_lab.expire(store_lab.now() + LATER)
    store_lab.acquire()
    assert store_lab.fill() is Filled.STORED
    assert about(store_lab.ttl(), LATER)
    assert store_lab.ttl(M) >= store_lab.ttl()


def test_a_change_under_a_deadline_ends_with_it(store_lab: StoreLab) -> None:
    store_lab.cached(b"Ada", 1)
    store_lab.expire(store_lab.now() + LATER)
    assert store_lab.change(2, b"Grace") is Changed.OVERWRITTEN
    assert about(store_lab.ttl(), LATER)


def test_a_fill_ends_with_the_values_own_end(store_lab: StoreLab) -> None:
    store_lab.acquire()
    assert store_lab.fill(ends=store_lab.now() + LATER) is Filled.STORED
    assert about(store_lab.ttl(), LATER)


def test_a_change_ends_with_the_values_own_end(store_lab: StoreLab) -> None:
    store_lab.cached(b"Ada", 1)
    assert store_lab.change(2, ends=store_lab.now() + LATER) is Changed.OVERWRITTEN
    assert about(store_lab.ttl(), LATER)


def test_a_value_past_its_own_end_is_not_stored(store_lab: StoreLab) -> None:
    store_lab.cached(b"Ada", 1)
    store_lab.acquire(refresh=True)
    assert store_lab.fill(b"over", 2, ends=store_lab.now() - 1) is Filled.ENDED
    assert store_lab.value is None
    store_lab.cached(b"Ada", 1)
    assert store_lab.change(2, b"over", ends=store_lab.now() - 1) is Changed.ENDED
    assert store_lab.value is None
    assert store_lab.meta[b"v"] == b"2"


def test_the_earliest_of_ttl_deadline_and_own_end_counts(store_lab: StoreLab) -> None:
    now = store_lab.now()
    store_lab.expire(now + LATER)
    store_lab.acquire()
    store_lab.fill(ends=now + LATER // 2)
    assert about(store_lab.ttl(), LATER // 2)
    store_lab.acquire(refresh=True)
    store_lab.fill(ends=now + TTL)
    assert about(store_lab.ttl(), LATER)
    store_lab.acquire(refresh=True)
    store_lab.fill(ends=now + TTL, ttl_ms=LATER // 4)
    assert about(store_lab.ttl(), LATER // 4)


def test_an_invalidation_leaves_the_deadline(store_lab: StoreLab) -> None:
    store_lab.cached(b"Ada", 1)
    store_lab.expire(store_lab.now() + LATER)
    store_lab.acquire(refresh=True)
    store_lab.run(scripts.invalidate(K))
    assert store_lab.value is None
    assert store_lab.meta.keys() == {b"d"}
    assert store_lab.ttl(M) >= LATER + KEEP - SLACK
    store_lab.acquire()
    store_lab.fill()
    assert about(store_lab.ttl(), LATER)


# --- read_until: keys that others write, too -------------------------------------------------------------------------


def test_a_value_is_found_while_its_deadline_is_ahead(store_lab: StoreLab) -> None:
    store_lab.client.set(K, "Node's")
    assert read(store_lab) == Found(b"Node's")
    store_lab.expire(store_lab.now() + LATER)
    assert read(store_lab) == Found(b"Node's")


def test_nothing_there_is_missing(store_lab: StoreLab) -> None:
    assert read(store_lab) is Peeked.MISSING
    store_lab.acquire()
    assert read(store_lab) is Peeked.MISSING


def test_a_late_foreign_set_does_not_raise_what_has_ended(store_lab: StoreLab) -> None:
    store_lab.expire(NOW)
    store_lab.client.set(K, "Node's", ex=1800)
    assert read(store_lab) is Peeked.ENDED
    assert store_lab.client.exists(K) == 0


def test_an_end_is_told_also_where_nothing_is_left(store_lab: StoreLab) -> None:
    store_lab.expire(NOW)
    assert read(store_lab) is Peeked.ENDED


def test_a_late_foreign_set_is_ended_by_a_deadline_that_has_passed_since(store_lab: StoreLab) -> None:
    at = store_lab.now() + 30
    store_lab.expire(at)
    store_lab.client.set(K, "Node's", ex=1800)
    store_lab.wait_past(at)
    assert read(store_lab) is Peeked.ENDED
    assert store_lab.client.exists(K) == 0


@pytest.mark.parametrize("kind", FOREIGN)
def test_another_type_is_damage_and_is_left(store_lab: StoreLab, kind: str) -> None:
    put_foreign(store_lab, K, kind)
    assert read(store_lab) is Peeked.DAMAGED
    assert store_lab.client.exists(K) == 1


def test_another_type_ends_like_a_value(store_lab: StoreLab) -> None:
    store_lab.expire(NOW)
    put_foreign(store_lab, K, "list")
    assert read(store_lab) is Peeked.ENDED
    assert store_lab.client.exists(K) == 0
