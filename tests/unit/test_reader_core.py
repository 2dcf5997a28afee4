"""The reader's algorithm driven by hand: no server, no thread, a clock that the test moves."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from cachekeeper.errors import CacheUnavailable, DamagedValue, DatabaseBehind, DatabaseUnavailable, Overloaded
from cachekeeper.model.sources import ABSENT, Absent, Find
from cachekeeper.model.views import Staleness
from cachekeeper.protocol import Value
from cachekeeper.protocol.outcomes import Acquired, Filled, Found, LeaseTaken, Stale
from cachekeeper.reading import core
from cachekeeper.reading.core import Limits, Start, Target
from cachekeeper.reading.effects import Acquire, Fill, Join, Load, LoadShared, Release, Wait
from cachekeeper.values.codecs import Text

if TYPE_CHECKING:
    from collections.abc import Callable

CALL, READ, LOOKUP = 0.5, 2.0, 5.0
LIMITS = Limits(
    lookup=LOOKUP,
    load=READ + 2 * CALL,
    read=READ,
    value_bytes=100,
    lease_ms=10_000,
    negative_ms=1000,
    marker_ms=60_000,
)
TARGET = Target("names", "user:1:name", Find("users", {"_id": 1}), lambda _: ABSENT, Text())
SHARED = Target("names", "user:1:name", Find("users", {"_id": 1}), lambda _: ABSENT, Text(), Staleness.SHARED)
OLD, NEW = Value(b"old", 4), Value(b"new", 5)


class Drive:
    """One lookup, and the clock it goes by."""

    def __init__(
        self,
        start: Start = Start.MISS,
        target: Target[str] = TARGET,
        limits: Limits = LIMITS,
        *,
        time: float = 0.0,  # since the lookup began
    ) -> None:
        self.time = time
        self._reading = core.read(target, limits, start, lambda: self.time, 0.0)
        self.wants: Any = None
        self.result: str | Absent | None = None
        self._step(lambda: next(self._reading))

    def answer(self, value: object, seconds: float = 0.0) -> Any:
        """Answer what it wants, after some time; what it wants next."""
        self.time += seconds
        self._step(lambda: self._reading.send(value))
        return self.wants

    def fail(self, error: Exception, seconds: float = 0.0) -> Any:
        self.time += seconds
        self._step(lambda: self._reading.throw(error))
        return self.wants

    def _step(self, move: Callable[[], Any]) -> None:
        try:
            self.wants = move()
        except StopIteration as stop:
            self.wants, self.result = None, stop.value


def test_a_miss_is_loaded_under_a_lease_and_filled() -> None:
    drive = Drive()
    nonce = drive.wants.nonce
    assert drive.wants == Acquire(nonce, refresh=False)
    assert drive.answer(Acquired.GRANTED) == Load(nonce, LOOKUP - LIMITS.load)
    assert drive.answer(NEW) == Fill(nonce, NEW)
    assert drive.answer(Filled.STORED) is None
    assert drive.result == "new"


def test_what_the_plain_get_took_is_part_of_the_lookup() -> None:
    drive = Drive(time=1.5)
    assert drive.answer(Acquired.GRANTED).patience == LOOKUP - 1.5 - LIMITS.load
    assert Drive(Start.CACHE_DOWN, time=1.5).wants == LoadShared(LOOKUP - 1.5 - LIMITS.load)
    assert Drive(time=LOOKUP - LIMITS.load).wants == LoadShared(0), "no time for a lease and a load"


def test_every_lookup_asks_for_a_lease_of_its_own() -> None:
    assert len({Drive().wants.nonce for _ in range(100)}) == 100


@pytest.mark.parametrize("outcome", [Filled.STORED, Filled.LEASE_LOST, Filled.ENDED])
def test_a_load_is_the_answer_even_where_its_fill_does_not_land(outcome: Filled) -> None:
    drive = Drive()
    drive.answer(Acquired.GRANTED)
    drive.answer(NEW)
    drive.answer(outcome)
    assert drive.result == "new"


def test_a_load_is_the_answer_even_where_redis_goes_away_before_its_fill() -> None:
    drive = Drive()
    drive.answer(Acquired.GRANTED)
    drive.answer(NEW)
    assert drive.fail(CacheUnavailable()) is None
    assert drive.result == "new"


def test_nothing_found_is_filled_as_absent() -> None:
    drive = Drive()
    drive.answer(Acquired.GRANTED)
    assert drive.answer(ABSENT).loaded is ABSENT
    drive.answer(Filled.STORED)
    assert drive.result is ABSENT


@pytest.mark.parametrize(("answer", "result"), [(Found(b"Ann"), "Ann"), (Acquired.KNOWN_ABSENT, ABSENT)])
def test_what_acquire_finds_is_the_answer(answer: object, result: object) -> None:
    drive = Drive()
    assert drive.answer(answer) is None
    assert drive.result == result


def test_without_redis_mongodb_is_asked_at_once() -> None:
    drive = Drive(Start.CACHE_DOWN)
    assert drive.wants == LoadShared(LOOKUP - LIMITS.load)
    drive.answer(NEW)
    assert drive.result == "new"


def test_where_redis_goes_away_in_between_mongodb_is_asked_too() -> None:
    drive = Drive()
    assert drive.fail(CacheUnavailable(), 0.5) == LoadShared(LOOKUP - 0.5 - LIMITS.load)
    drive.answer(ABSENT)
    assert drive.result is ABSENT


def test_but_not_for_a_caller_who_wants_the_key_filled() -> None:
    drive = Drive(Start.UNASKED)
    assert isinstance(drive.wants, Acquire)
    with pytest.raises(CacheUnavailable):
        drive.fail(CacheUnavailable())


@pytest.mark.parametrize("error", [DatabaseUnavailable("x"), Overloaded("x")])
@pytest.mark.parametrize("start", [Start.MISS, Start.CACHE_DOWN])
def test_an_outage_of_mongodb_is_the_callers(start: Start, error: Exception) -> None:
    drive = Drive(start)
    if start is Start.MISS:
        drive.answer(Acquired.GRANTED)
    with pytest.raises(type(error)):
        drive.fail(error)


# --- somebody else loads --------------------------------------------------------------------------------------------


def test_a_load_of_this_process_is_joined_by_its_nonce() -> None:
    drive = Drive()
    assert drive.answer(LeaseTaken("theirs", 700)) == Join("theirs", 0.7)
    drive.answer(NEW, 0.3)
    assert drive.result == "new"


def test_a_load_that_others_joined_in_vain_is_their_error_too() -> None:
    drive = Drive()
    drive.answer(LeaseTaken("theirs", 700))
    with pytest.raises(DatabaseUnavailable):  # trying again at once would be the herd
        drive.fail(DatabaseUnavailable("x"))


def test_another_processs_load_is_waited_for_until_one_load_fits_no_more() -> None:
    drive = Drive()
    waits = []
    while not isinstance(drive.wants, LoadShared):
        joins = drive.answer(LeaseTaken("theirs", 60_000), 0.001)
        assert joins.seconds <= LOOKUP - LIMITS.load
        assert isinstance(drive.answer(None), Wait)  # not here
        waits.append(drive.wants.seconds)
        drive.answer(None, drive.wants.seconds)
    assert 0 < waits[0] < 0.003
    assert max(waits) <= 0.05
    assert len(waits) < 100
    assert LOOKUP - LIMITS.load <= drive.time < LOOKUP - LIMITS.load + 0.06
    assert drive.wants == LoadShared(0)
    drive.answer(NEW, READ)
    assert drive.result == "new"
    assert drive.time < LOOKUP


def test_when_the_other_process_is_done_its_value_is_found() -> None:
    drive = Drive()
    drive.answer(LeaseTaken("theirs", 60_000))
    drive.answer(None)
    assert isinstance(drive.answer(None, 0.01), Acquire)
    drive.answer(Found(b"Ann"))
    assert drive.result == "Ann"


# --- older than what an event has announced -------------------------------------------------------------------------


def test_a_stale_load_is_never_the_answer() -> None:
    drive = Drive()
    drive.answer(Acquired.GRANTED)
    drive.answer(OLD)
    assert isinstance(drive.answer(Stale(5)), Wait)
    assert isinstance(drive.answer(None, 0.01), Acquire)
    drive.answer(Acquired.GRANTED)
    drive.answer(NEW)
    drive.answer(Filled.STORED)
    assert drive.result == "new"


def test_nor_is_one_whose_lease_was_lost_or_that_was_joined() -> None:
    drive = Drive()
    drive.answer(Acquired.GRANTED)
    drive.answer(OLD)
    drive.answer(Stale(5))
    drive.answer(None)
    drive.answer(Acquired.GRANTED)
    drive.answer(OLD)
    assert isinstance(drive.answer(Filled.LEASE_LOST), Acquire)
    drive.answer(LeaseTaken("theirs", 1000))
    assert isinstance(drive.answer(OLD), Acquire)
    drive.answer(LeaseTaken("theirs", 1000))
    drive.answer(NEW)
    assert drive.result == "new"


@pytest.mark.parametrize("loaded", [ABSENT, Value(b"none", None)], ids=["absent", "unversioned"])
def test_what_has_no_version_cannot_be_told_to_be_older(loaded: Value | Absent) -> None:
    drive = Drive()
    drive.answer(Acquired.GRANTED)
    drive.answer(OLD)
    drive.answer(Stale(5))
    drive.answer(None)
    drive.answer(Acquired.GRANTED)
    drive.answer(loaded)
    drive.answer(Filled.STORED)
    assert drive.result == (ABSENT if loaded is ABSENT else "none")


def test_at_the_deadline_mongodb_is_behind() -> None:
    drive = Drive()
    while not isinstance(drive.wants, LoadShared):
        drive.answer(Acquired.GRANTED, 0.01)
        drive.answer(OLD, 0.01)
        drive.answer(Stale(5), 0.01)
        drive.answer(None, drive.wants.seconds)
    with pytest.raises(DatabaseBehind, match=r"view names: .* version 5, .* has 4.*without a version"):
        drive.answer(OLD, 0.01)
    assert LOOKUP - LIMITS.load < drive.time < LOOKUP


def test_of_what_was_announced_the_highest_counts() -> None:
    drive = Drive()
    for known in (7, 5):
        drive.answer(Acquired.GRANTED)
        drive.answer(Value(b"x", 4))
        drive.answer(Stale(known))
        drive.answer(None)
    drive.fail(CacheUnavailable())
    with pytest.raises(DatabaseBehind, match=r"view names: .* version 7, .* has 6"):
        drive.answer(Value(b"x", 6))


# --- damage ---------------------------------------------------------------------------------------------------------


def test_damage_is_loaded_over() -> None:
    drive = Drive(Start.DAMAGED)
    assert drive.wants.refresh
    drive.answer(Acquired.GRANTED)
    drive.answer(NEW)
    drive.answer(Filled.STORED)
    assert drive.result == "new"


@pytest.mark.parametrize("answer", [Found(b"\xff"), Acquired.DAMAGED])
def test_damage_that_acquire_finds_is_loaded_over_too(answer: object) -> None:
    drive = Drive()
    assert not drive.wants.refresh
    assert drive.answer(answer).refresh


def test_a_damaged_key_that_somebody_else_repairs_is_looked_at_again() -> None:
    drive = Drive(Start.DAMAGED)
    drive.answer(LeaseTaken("theirs", 1000))
    drive.answer(None)
    assert not drive.answer(None).refresh
    drive.answer(Found(b"whole"))
    assert drive.result == "whole"


@pytest.mark.parametrize(("start", "discard"), [(Start.MISS, False), (Start.DAMAGED, True)])
def test_a_value_over_the_limit_is_returned_and_its_lease_given_back(start: Start, discard: bool) -> None:  # noqa: FBT001
    drive = Drive(start)
    nonce = drive.wants.nonce
    drive.answer(Acquired.GRANTED)
    assert drive.answer(Value(b"x" * 101, 5)) == Release(nonce, discard=discard)
    drive.answer(None)
    assert drive.result == "x" * 101


def test_a_value_at_the_limit_is_cached() -> None:
    drive = Drive()
    drive.answer(Acquired.GRANTED)
    assert isinstance(drive.answer(Value(b"x" * 100, 5)), Fill)


def test_damage_at_a_key_that_others_write_is_theirs() -> None:
    with pytest.raises(DamagedValue, match="left unchanged"):
        Drive(Start.DAMAGED, SHARED)
    for answer in (Found(b"\xff"), Acquired.DAMAGED):
        with pytest.raises(DamagedValue):
            Drive(Start.MISS, SHARED).answer(answer)


def test_without_redis_a_key_that_others_write_is_never_said_not_to_exist() -> None:
    drive = Drive(Start.CACHE_DOWN, SHARED)
    with pytest.raises(CacheUnavailable):
        drive.answer(ABSENT)
    drive = Drive(Start.CACHE_DOWN, SHARED)
    drive.answer(NEW)
    assert drive.result == "new"
    drive = Drive(Start.MISS, SHARED)
    drive.answer(Acquired.GRANTED)
    drive.answer(ABSENT)
    drive.answer(Filled.STORED)
    assert drive.result is ABSENT


# --- time -----------------------------------------------------------------------------------------------------------


def refused_at_the_last_moment(limits: Limits) -> float:
    """When a lookup ends whose only load took all the time there was, and was refused."""
    drive = Drive(limits=limits)
    drive.answer(Acquired.GRANTED, CALL)
    drive.answer(OLD, drive.wants.patience + READ)
    drive.answer(Stale(5), CALL)
    with pytest.raises(DatabaseBehind, match=r"version 5, .* has 4"):  # noqa: PT012  # whichever answer it is that ends it
        while True:
            drive.answer(OLD, READ if isinstance(drive.wants, LoadShared) else drive.wants.seconds)
    return drive.time


def test_no_load_is_begun_that_could_not_end_in_time() -> None:
    assert refused_at_the_last_moment(LIMITS) <= LOOKUP
    always_loads_once_more = replace(LIMITS, read=float("-inf"))  # a known-bad variant
    assert refused_at_the_last_moment(always_loads_once_more) > LOOKUP


def answer_somehow(drive: Drive, chance: random.Random) -> None:
    """An answer of any kind, at most as late as its own limit allows."""
    late = chance.choice([0.0, 0.01, 0.5, 1.0])
    wants = drive.wants
    match wants:
        case Acquire():
            kind = chance.choice(["granted", "granted", "taken", "taken", "damaged", "away"])
            if kind == "away":
                drive.fail(CacheUnavailable(), late * CALL)
            elif kind == "taken":
                drive.answer(LeaseTaken("theirs", chance.choice([1, 300, 10_000])), late * CALL)
            else:
                drive.answer(Acquired.GRANTED if kind == "granted" else Acquired.DAMAGED, late * CALL)
        case Load() | LoadShared():
            drive.answer(chance.choice([OLD, NEW]), late * (max(wants.patience, 0) + READ))
        case Fill():
            stale = wants.loaded is OLD and chance.random() < 0.7
            drive.answer(Stale(5) if stale else Filled.LEASE_LOST, late * CALL)
        case Join():
            joined = chance.choice([None, OLD])
            drive.answer(joined, (1.0 if joined is None else late) * max(wants.seconds, 0))
        case Wait():
            drive.answer(None, wants.seconds)
        case _:
            pytest.fail(f"nobody can do {wants}")


@pytest.mark.parametrize("seed", range(20))
def test_whatever_happens_the_deadline_is_kept(seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(50):
        drive = Drive()
        while drive.wants is not None:
            try:
                answer_somehow(drive, chance)
            except DatabaseBehind:
                break
            assert drive.time <= LOOKUP + 1e-9
        else:
            assert drive.result in ("old", "new")
        assert drive.time <= LOOKUP + 1e-9
