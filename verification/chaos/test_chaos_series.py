"""A series of fault-injection runs: an aborted run is stored and is not clean, and the next run takes place."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace

import pytest

from testkit.compose import ROOT
from verification.chaos.results import Results
from verification.chaos.row import KINDS, Row
from verification.chaos.sequence import play

DONE = Row(1, "outbox", "redis", 8, changes=40, reads=900, reads_after_ack=800, faults={"cache kill": 8})


@dataclass
class Servers:
    number: int
    closed: bool = False

    def close(self) -> None:
        self.closed = True


@dataclass
class Series:
    """A series whose runs fail for some seeds, and its results."""

    failing: dict[int, BaseException]
    results: Results = field(default_factory=lambda: Results(kept=False))
    started: list[Servers] = field(default_factory=list)

    def start(self) -> Servers:
        self.started.append(Servers(len(self.started)))
        return self.started[-1]

    def run(self, servers: Servers, seed: int) -> None:
        assert not servers.closed
        if seed in self.failing:
            raise self.failing[seed]
        self.results.add(replace(DONE, seed=seed), [])

    def abort(self, _: Servers | None, seed: int, reason: str) -> None:
        self.results.add(Row(seed, "outbox", "redis", 8, aborted=reason), [])

    def play(self) -> list[Row]:
        play(range(1, 5), start=self.start, run=self.run, abort=self.abort)
        return self.results.rows


def figure(results: Results, words: str) -> float:
    (found,) = (each.value for each in results.figures() if words in each.figure)
    return found


def test_a_run_that_aborts_is_a_row_with_its_reason_and_the_next_one_goes_on() -> None:
    series = Series({2: TimeoutError("no change was applied")})
    rows = series.play()
    assert [row.seed for row in rows] == [1, 2, 3, 4]
    assert [row.clean for row in rows] == [True, False, True, True]
    assert rows[1].aborted is not None
    assert rows[1].aborted.startswith("TimeoutError: no change was applied (test_chaos_series.py:")
    assert not series.results.clean
    assert figure(series.results, "aborted") == 1
    assert len(series.started) == 2, "servers of an aborted run serve no other run"
    assert all(servers.closed for servers in series.started)


def test_ctrl_c_ends_a_series() -> None:
    series = Series({2: KeyboardInterrupt()})
    with pytest.raises(KeyboardInterrupt):
        series.play()
    assert [row.seed for row in series.results.rows] == [1]
    assert all(servers.closed for servers in series.started)


def test_servers_that_do_not_start_again_abort_that_run_alone() -> None:
    series = Series({1: EOFError()})
    start, series.start = series.start, lambda: fail() if len(series.started) == 1 else start()  # type: ignore[method-assign]

    def fail() -> Servers:
        series.started.append(Servers(-1, closed=True))
        raise OSError("no port is free")

    rows = series.play()
    assert [row.aborted is None for row in rows] == [False, False, True, True]


def test_a_series_without_servers_is_none() -> None:
    def fail() -> Servers:
        raise OSError("no mongod")

    series = Series({})
    with pytest.raises(OSError, match="no mongod"):
        play(range(1, 5), start=fail, run=series.run, abort=series.abort)
    assert series.results.rows == []


def test_a_clean_run_with_the_same_seed_does_not_erase_one_that_aborted() -> None:
    results = Results(kept=False)
    for row in (DONE, replace(DONE, aborted="EOFError"), DONE):
        results.add(row, [])
    assert [row.aborted for row in results.rows] == ["EOFError"]
    assert not results.clean


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_violation_is_named_and_spoils_a_run(kind: str) -> None:
    row = Row(**{**asdict(DONE), kind: 2})
    assert DONE.clean
    assert not row.clean
    assert row.kinds == {kind: 2}
    results = Results(kept=False)
    results.add(row, [])
    assert figure(results, KINDS[kind]) == 2


def test_a_runs_bound_is_the_rule_of_three_over_reads_that_could_be_stale() -> None:
    assert replace(DONE, reads=5000, reads_after_ack=4001).bound == 749.813  # rounded up
    assert replace(DONE, stale=1).bound is None
    assert Row(1, "outbox", "redis", 8).bound is None


def test_what_the_page_quotes_is_a_series_of_the_asked_for_size() -> None:
    """You may measure a shorter series, but do not commit it over the long one."""
    stored = json.loads((ROOT / "benchmarks/results/chaos.json").read_text("utf-8"))
    found = {each["figure"]: each["value"] for each in stored["figures"]}
    assert found["runs, each with a seed of its own"] >= 200
    assert found["checked reads"] >= 3_000_000
    assert len(stored["runs"]) == 4  # stations
    assert [found[text] for text in KINDS.values()] == [0] * len(KINDS)
