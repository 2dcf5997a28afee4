"""Outages that no fault accounts for, and changes that were given up, make a run not clean."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

from verification.chaos import workload as load
from verification.chaos.calm import calm
from verification.chaos.faults import Injected
from verification.chaos.readers import THREADS
from verification.chaos.row import READER_THREADS, Row
from verification.chaos.run import last_reads
from verification.chaos.schedule import Fault
from verification.chaos.workload import Change, Kind, Read

S = 1_000_000_000
DONE = Row(1, "outbox", "redis", 8, changes=40, reads=950, reads_after_ack=800, faults={"cache kill": 8})


def injected(target: str, began: float, ended: float, kind: str = "stop") -> Injected:
    return Injected(Fault(0, target, kind, 0), int(began * S), int(ended * S), None)


def read(at: float, error: str | None = None) -> Read:
    return Read(Kind.USER, "u", int(at * S), int((at + 0.1) * S), None, error)


def test_only_what_no_fault_can_have_touched_is_calm() -> None:
    faults = [injected("mongo", 2, 3), injected("readers-cache", 2.5, 2.6), injected("worker0", 0, 20)]
    reads = [read(1), read(1.95), read(2.5), read(5.9), read(6.1), read(7, "DatabaseUnavailable")]
    assert calm(reads, faults) == (3, 1)
    assert calm(reads, []) == (6, 1)


def test_a_redis_that_was_emptied_answers() -> None:
    assert calm([read(2)], [injected("security", 1, 1, "flush")]) == (1, 0)
    assert calm([read(2)], [injected("security", 1, 1, "kill")]) == (0, 0)


class Reader:
    """A reader that gets no answer for a user so many times."""

    def __init__(self, **fails: int) -> None:
        self.fails = fails

    def ask(self, verb: str, argument: object = None) -> Any:
        assert verb == "sweep"
        return [tuple(self.read(kind, key)) for kind, key in cast("list[tuple[str, str]]", argument)]

    def read(self, kind: str, key: str) -> Read:
        self.fails[key] = self.fails.get(key, 0) - 1
        return Read(kind, key, 0, 1, None, "CacheUnavailable" if self.fails[key] >= 0 else None)


def test_what_has_no_answer_twice_is_unanswered() -> None:
    last, unanswered = last_reads([Reader(b=1), Reader(a=2, c=1)], [(Kind.USER, key) for key in "abc"])
    assert [(read.key, read.error is None) for read in last] == [
        *(("a", True), ("b", False), ("c", True), ("b", True)),
        *(("a", False), ("b", True), ("c", False), ("a", False), ("c", True)),
    ]
    assert [read.key for read in unanswered] == ["a"]


def test_outages_in_calm_spoil_a_run() -> None:
    assert load.READERS * THREADS == READER_THREADS
    assert replace(DONE, calm_reads=2000, calm_outages=20).clean
    assert not replace(DONE, calm_reads=2000, calm_outages=21).clean
    assert replace(DONE, calm_reads=20, calm_outages=12).clean
    assert not replace(DONE, calm_reads=20, calm_outages=13).clean


def test_a_run_whose_reads_mostly_fail_is_not_clean() -> None:
    assert replace(DONE, errors={"Overloaded": 50}).clean
    assert not replace(DONE, errors={"Overloaded": 30, "DatabaseUnavailable": 21}).clean


def test_a_change_that_was_given_up_spoils_a_run_and_one_that_was_refused_does_not() -> None:
    change = Change(Kind.SESSION, "s", 1, 1, 0, None, (0, 1))
    assert change.given_up
    assert not change._replace(refused=True).given_up
    assert not change._replace(committed=1).given_up
    assert not replace(DONE, given_up=1).clean
