"""Deadlines: `K` lives no longer, whoever writes it, on every server."""

import pytest

from cachekeeper.protocol import scripts
from cachekeeper.protocol.outcomes import Acquired, Changed, Expired, Filled, Found, LeaseTaken, Peeked
from verification.protocol.store_lab import FOREIGN, KEEP, LATER, LEASE, SLACK, TTL, K, Lab, M, about, lab, put_foreign

__all__ = ["lab"]

NOW = 0  # as `Expire` without a time is sent


def read(lab: Lab) -> object:
    return lab.run(scripts.read_until(K))


# --- expire ----------------------------------------------------------------------------------------------------------


def test_expire_now_ends_the_value_and_is_remembered(lab: Lab) -> None:
    lab.cached(b"Ada", 1)
    assert lab.expire(NOW) is Expired.ENDED
    assert lab.value is None
    assert lab.meta == {b"v": b"1", b"d": b"0"}
    assert lab.ttl(M) >= KEEP - SLACK


def test_a_deadline_ahead_shortens_the_values_life(lab: Lab) -> None:
    lab.cached(b"Ada", 1)
    assert lab.expire(lab.now() + LATER) is Expired.LIMITED
    assert lab.value == b"Ada"
    assert about(lab.ttl(), LATER)


def test_a_deadline_is_remembered_beyond_itself(lab: Lab) -> None:
    lab.expire(lab.now() + LATER)
    assert about(lab.ttl(M), LATER + KEEP)


def test_an_end_is_remembered_as_long_as_asked(lab: Lab) -> None:
    lab.expire(NOW)
    assert about(lab.ttl(M), KEEP)


def test_a_deadline_ahead_does_not_lengthen_a_life(lab: Lab) -> None:
    lab.cached(b"Ada", 1)
    lab.client.pexpire(K, LATER)
    assert lab.expire(lab.now() + TTL) is Expired.LIMITED
    assert about(lab.ttl(), LATER)


def test_a_value_without_end_is_given_one(lab: Lab) -> None:
    lab.client.set(K, "Node's")
    lab.expire(lab.now() + LATER)
    assert about(lab.ttl(), LATER)


def test_of_two_deadlines_the_earlier_stands(lab: Lab) -> None:
    first = lab.now() + LATER
    lab.expire(first)
    assert lab.expire(first + LATER) is Expired.LIMITED
    assert lab.meta[b"d"] == b"%d" % first
    assert lab.expire(first - 1) is Expired.LIMITED
    assert lab.meta[b"d"] == b"%d" % (first - 1)
    assert lab.expire(NOW) is Expired.ENDED
    assert lab.expire(first) is Expired.ENDED
    assert lab.meta[b"d"] == b"0"


def test_a_deadline_that_passes_ends_the_value_by_itself(lab: Lab) -> None:
    lab.cached(b"Ada", 1)
    at = lab.now() + 30
    lab.expire(at)
    lab.wait_past(at)
    assert lab.value is None


def test_a_deadline_ends_leases(lab: Lab) -> None:
    """A read that begins after it would be told of a load from before it, and join it."""
    lab.acquire()
    lab.expire(NOW)
    assert lab.acquire("another's") is Acquired.GRANTED
    assert lab.fill() is Filled.LEASE_LOST


def test_a_lease_taken_under_a_deadline_ends_with_it(lab: Lab) -> None:
    at = lab.now() + LEASE // 2
    lab.expire(at)
    lab.acquire()
    taken = lab.acquire("another's")
    assert isinstance(taken, LeaseTaken)
    assert taken.milliseconds <= LEASE // 2
    assert lab.meta[b"lx"] == b"%d" % at


def test_a_lease_taken_after_the_deadline_is_a_whole_one(lab: Lab) -> None:
    lab.expire(NOW)
    lab.acquire()
    taken = lab.acquire("another's")
    assert isinstance(taken, LeaseTaken)
    assert about(taken.milliseconds, LEASE)


# --- writes under a deadline -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [2, None])
def test_no_fill_lands_past_the_deadline(lab: Lab, version: int | None) -> None:
    lab.expire(NOW)
    lab.acquire()
    assert lab.fill(b"Ada", version) is Filled.ENDED
    assert lab.value is None
    assert lab.meta == {b"d": b"0"}


def test_absence_may_be_learnt_past_the_deadline(lab: Lab) -> None:
    lab.expire(NOW)
    lab.acquire()
    assert lab.fill_absent() is Filled.STORED
    assert lab.acquire("another's") is Acquired.KNOWN_ABSENT


def test_no_change_lands_past_the_deadline(lab: Lab) -> None:
    lab.cached(b"Ada", 1)
    lab.expire(NOW)
    assert lab.change(2) is Changed.ENDED
    assert lab.value is None
    assert lab.meta == {b"v": b"2", b"d": b"0"}


def test_a_change_past_the_deadline_takes_a_foreign_value_away(lab: Lab) -> None:
    lab.change(1)
    lab.expire(NOW)
    lab.client.set(K, "Node's")
    assert lab.change(2) is Changed.ENDED
    assert lab.value is None


def test_a_fill_under_a_deadline_ends_with_it(lab: Lab) -> None:
    lab.expire(lab.now() + LATER)
    lab.acquire()
    assert lab.fill() is Filled.STORED
    assert about(lab.ttl(), LATER)
    assert lab.ttl(M) >= lab.ttl()


def test_a_change_under_a_deadline_ends_with_it(lab: Lab) -> None:
    lab.cached(b"Ada", 1)
    lab.expire(lab.now() + LATER)
    assert lab.change(2, b"Grace") is Changed.OVERWRITTEN
    assert about(lab.ttl(), LATER)


def test_a_fill_ends_with_the_values_own_end(lab: Lab) -> None:
    lab.acquire()
    assert lab.fill(ends=lab.now() + LATER) is Filled.STORED
    assert about(lab.ttl(), LATER)


def test_a_change_ends_with_the_values_own_end(lab: Lab) -> None:
    lab.cached(b"Ada", 1)
    assert lab.change(2, ends=lab.now() + LATER) is Changed.OVERWRITTEN
    assert about(lab.ttl(), LATER)


def test_a_value_past_its_own_end_is_not_stored(lab: Lab) -> None:
    lab.cached(b"Ada", 1)
    lab.acquire(refresh=True)
    assert lab.fill(b"over", 2, ends=lab.now() - 1) is Filled.ENDED
    assert lab.value is None
    lab.cached(b"Ada", 1)
    assert lab.change(2, b"over", ends=lab.now() - 1) is Changed.ENDED
    assert lab.value is None
    assert lab.meta[b"v"] == b"2"


def test_the_earliest_of_ttl_deadline_and_own_end_counts(lab: Lab) -> None:
    now = lab.now()
    lab.expire(now + LATER)
    lab.acquire()
    lab.fill(ends=now + LATER // 2)
    assert about(lab.ttl(), LATER // 2)
    lab.acquire(refresh=True)
    lab.fill(ends=now + TTL)
    assert about(lab.ttl(), LATER)
    lab.acquire(refresh=True)
    lab.fill(ends=now + TTL, ttl_ms=LATER // 4)
    assert about(lab.ttl(), LATER // 4)


def test_an_invalidation_leaves_the_deadline(lab: Lab) -> None:
    lab.cached(b"Ada", 1)
    lab.expire(lab.now() + LATER)
    lab.acquire(refresh=True)
    lab.run(scripts.invalidate(K))
    assert lab.value is None
    assert lab.meta.keys() == {b"d"}
    assert lab.ttl(M) >= LATER + KEEP - SLACK
    lab.acquire()
    lab.fill()
    assert about(lab.ttl(), LATER)


# --- read_until: keys that others write, too -------------------------------------------------------------------------


def test_a_value_is_found_while_its_deadline_is_ahead(lab: Lab) -> None:
    lab.client.set(K, "Node's")
    assert read(lab) == Found(b"Node's")
    lab.expire(lab.now() + LATER)
    assert read(lab) == Found(b"Node's")


def test_nothing_there_is_missing(lab: Lab) -> None:
    assert read(lab) is Peeked.MISSING
    lab.acquire()
    assert read(lab) is Peeked.MISSING


def test_a_late_foreign_set_does_not_raise_what_has_ended(lab: Lab) -> None:
    lab.expire(NOW)
    lab.client.set(K, "Node's", ex=1800)
    assert read(lab) is Peeked.ENDED
    assert lab.client.exists(K) == 0


def test_an_end_is_told_also_where_nothing_is_left(lab: Lab) -> None:
    lab.expire(NOW)
    assert read(lab) is Peeked.ENDED


def test_a_late_foreign_set_is_ended_by_a_deadline_that_has_passed_since(lab: Lab) -> None:
    at = lab.now() + 30
    lab.expire(at)
    lab.client.set(K, "Node's", ex=1800)
    lab.wait_past(at)
    assert read(lab) is Peeked.ENDED
    assert lab.client.exists(K) == 0


@pytest.mark.parametrize("kind", FOREIGN)
def test_another_type_is_damage_and_is_left(lab: Lab, kind: str) -> None:
    put_foreign(lab, K, kind)
    assert read(lab) is Peeked.DAMAGED
    assert lab.client.exists(K) == 1


def test_another_type_ends_like_a_value(lab: Lab) -> None:
    lab.expire(NOW)
    put_foreign(lab, K, "list")
    assert read(lab) is Peeked.ENDED
    assert lab.client.exists(K) == 0
