"""Search everything, in several processes, and print the results."""

from __future__ import annotations

import multiprocessing
import time
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

from cachekeeper.devservers import Guardian, RedisServer, ServerUnavailable, find_redis
from cachekeeper.protocol import Store
from verification.protocol.cases import Case, cases_of
from verification.protocol.explorer import Found, search
from verification.protocol.families import Family, Variant, family_of, nearest, space
from verification.protocol.mutants import MUTANTS
from verification.protocol.replay import replay
from verification.protocol.telling import table, trace
from verification.protocol.writes import RIGHT

DESIGN = Variant("design", "the protocol as it is designed", "")


@dataclass(frozen=True)
class Searched:
    """The result for one history, small enough to be sent between processes."""

    family: str
    history: str
    found: Found[Any]
    cases: frozenset[Case]
    trace: str | None


def search_one(task: tuple[str, int]) -> Searched:
    """Search one history of one family."""
    name, number = task
    family = family_of(name)
    happens = family.histories(RIGHT)[number]
    searched = space(family, DESIGN, happens, fine=family.fine)
    found: Found[Any] = search(searched)
    text = None if found.problem is None else trace(searched, found)
    return Searched(name, happens.name, found, frozenset(cases_of(searched.moves.steps)), text)


def search_mutant(name: str) -> tuple[str, str | None, str | None]:
    """Return traces to a variant's nearest bad state, and to its nearest state with a stuck value."""
    variant = next(variant for variant in MUTANTS if variant.name == name)
    first, stuck = nearest(variant), nearest(variant, only_stuck=True)
    return name, first and trace(*first), stuck and trace(*stuck)


def run(families: tuple[Family, ...], jobs: int) -> int:
    """Search everything, and replay each step that was reached."""
    began = time.monotonic()
    good = True
    cases: set[Case] = set()
    totals: list[tuple[str, ...]] = [("family", "histories", "states", "transitions", "depth", "seconds")]
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        for family in families:
            tasks = [(family.name, number) for number in range(len(family.histories(RIGHT)))]
            print(f"\n{family.name}: {family.says} ({'fine' if family.fine else 'coarse'} grain)", flush=True)
            rows = []
            for searched in pool.map(search_one, tasks):
                cases |= searched.cases
                rows.append(searched.found)
                print(f"  {_row(searched)}", flush=True)
                if searched.trace is not None:
                    good = False
                    print(f"\n{searched.trace}\n")
            totals.append(_total(family, rows))
        good = _run_mutants(pool) and good
    good = _run_replay(cases) and good
    print()
    print("\n".join(table(totals)))
    print(f"\n{'holds' if good else 'BROKEN'}; {time.monotonic() - began:.0f} s, {jobs} processes")
    return 0 if good else 1


def _row(searched: Searched) -> str:
    found = searched.found
    return (
        f"{searched.history:<18} {found.states:>9,} states {found.transitions:>11,} transitions"
        f"  depth {found.depth:>2}  {found.seconds:6.1f} s"
    )


def _total(family: Family, rows: list[Found[Any]]) -> tuple[str, ...]:
    return (
        family.name,
        str(len(rows)),
        f"{sum(row.states for row in rows):,}",
        f"{sum(row.transitions for row in rows):,}",
        str(max(row.depth for row in rows)),
        f"{sum(row.seconds for row in rows):.1f}",
    )


def _run_mutants(pool: Executor) -> bool:
    print("\nwrong variants: the search must find an error in each (--mutant NAME shows it)", flush=True)
    good = True
    for name, first, stuck in pool.map(search_mutant, [variant.name for variant in MUTANTS]):
        good = good and first is not None
        if first is None:
            print(f"  {name:<32} NO ERROR FOUND", flush=True)
            continue
        ends = f"{first.splitlines()[0]}: {first.splitlines()[-1].removeprefix('=> ').partition(':')[0]}"
        later = "" if stuck is None or stuck == first else f"; stuck after {stuck.splitlines()[0]}"
        print(f"  {name:<32} {ends}{later}", flush=True)
    return good


def _run_replay(cases: set[Case]) -> bool:
    try:
        found = find_redis()
    except ServerUnavailable as error:
        print(f"\nno replay: {error}")
        return False
    with Guardian() as guardian:
        server = RedisServer(guardian, found)
        server.start()
        with server.client() as client:
            began = time.monotonic()
            problems = replay(Store(client), cases)
            seconds = time.monotonic() - began
        server.kill()
    print(f"\n{len(cases):,} distinct (K, M, step), replayed on {found} in {seconds:.1f} s: {len(problems)} differ")
    print("\n".join(problems[:20]))
    return not problems
