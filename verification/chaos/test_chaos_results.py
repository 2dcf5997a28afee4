"""The stored rows of fault-injection runs, and the conditions under which a run or a mutant counts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cachekeeper.protocol import scripts
from verification.chaos.checker import Violation
from verification.chaos.mutants import MUTANTS
from verification.chaos.mutating import Try, evidence, figure
from verification.chaos.results import Results
from verification.chaos.row import KINDS, Row
from verification.chaos.workload import Kind

ROW = Row(
    seed=1,
    series="outbox",
    broker="redis",
    duration=8,
    operations=1,
    changes=40,
    reads=1000,
    reads_after_ack=800,
    faults={"cache kill": 8},
    errors={},
    stale=0,
    wrong_key=0,
    stuck=0,
    lost=0,
    untyped=0,
    dead_letters=0,
    ended=[],
    staleness=0,
    recovery=0,
    seconds=8,
)


@pytest.mark.parametrize("stale", [(0, 1), (1, 0)])
def test_a_clean_run_does_not_erase_a_dirty_one(stale: tuple[int, int]) -> None:
    results = Results(kept=False)
    for count in stale:
        results.add(replace(ROW, stale=count), [])
    assert [row.stale for row in results.rows] == [1]
    assert not results.clean


def test_a_run_in_which_too_little_happens_is_not_clean() -> None:
    assert ROW.clean
    assert not replace(ROW, reads_after_ack=799).clean
    assert not replace(ROW, changes=39).clean
    assert replace(ROW, uncached=500).clean
    assert not replace(ROW, uncached=501).clean
    assert not replace(ROW, faults={"cache kill": 7}).clean
    assert not replace(ROW, ended=["relay exit status 1"]).clean


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_is_caught_by_what_it_must_be_caught_by_alone(name: str) -> None:
    mutant = MUTANTS[name]
    assert set(mutant.kinds) <= {"stale", "stuck", "lost", "wrong_key"}
    for kind in KINDS:
        for key in (mutant.keys or Kind.USER, Kind.PRODUCT):
            violation = Violation(kind, (key, "k"), None, "")
            wanted = kind in mutant.kinds and (not mutant.keys or key in mutant.keys)
            assert evidence(mutant, [violation]) == ([violation] if wanted else [])


def test_a_mutant_that_survives_or_takes_too_long_does_not_hold() -> None:
    caught = Try("fail-open", 1, 2, 9.5, {"stale": 3})
    assert figure("fail-open", [caught]).held
    assert not figure("fail-open", [caught, replace(caught, caught={})]).held
    assert not figure("fail-open", [caught, replace(caught, seconds=MUTANTS["fail-open"].runs * 8 + 0.1)]).held


def test_the_issue_s_mutants_are_there() -> None:
    assert set(MUTANTS) == {
        "blind-fill",
        "no-lease",
        "counter-nonce",
        "no-marker",
        "payload-over-anything",
        "early-acknowledgement",
        "fail-open",
        "lagging-secondary",
        "local-reads",
        "cache-aside",
    }


@pytest.mark.parametrize("name", ["blind-fill", "no-lease", "no-marker", "payload-over-anything", "cache-aside"])
def test_a_mutant_follows_the_scripts_that_it_changes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    originals = {script: getattr(scripts, script) for script in ("_ACQUIRE", "_CHANGE", "_FILL")}
    for script, original in originals.items():
        monkeypatch.setattr(scripts, script, original)  # so that the original comes back afterwards
    MUTANTS[name].swap()
    assert any(getattr(scripts, script).sha != original.sha for script, original in originals.items())
