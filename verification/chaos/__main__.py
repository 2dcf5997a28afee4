"""`python -m verification.chaos`: fault-injection runs.

The exit status is 0 only if every run at this commit is clean, those of earlier calls included.
"""

from __future__ import annotations

import argparse
import sys

from verification.chaos.explain import explain
from verification.chaos.mutants import MUTANTS
from verification.chaos.results import Results
from verification.chaos.row import Row
from verification.chaos.run import Outcome, run
from verification.chaos.schedule import Series, station_of
from verification.chaos.sequence import play
from verification.chaos.stack import Stack

_EXPLAINED = 3  # violations that are printed for a run; violations.txt has all


def main() -> int:
    """Carry out the runs that the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m verification.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="seed of the first run")
    parser.add_argument("--duration", type=float, default=8.0, help="seconds of a run, before its drain")
    parser.add_argument("--runs", type=int, default=1, help="number of runs, with consecutive seeds")
    parser.add_argument(
        "--series",
        choices=[*Series, "all"],
        help="how changes become events; default: all, or with --mutant the series where it can be caught",
    )
    parser.add_argument("--mutant", choices=MUTANTS, help="run a known-bad variant; stores no figures")
    parser.add_argument("--dry", action="store_true", help="print the figures and do not store them")
    wanted = parser.parse_args()
    series = wanted.series or ("all" if wanted.mutant is None else MUTANTS[wanted.mutant].series)
    results = Results(kept=wanted.mutant is None and not wanted.dry)
    if problem := results.problem:
        parser.error(problem)

    def one(stack: Stack, seed: int) -> None:
        outcome = run(stack, seed, wanted.duration, station_of(seed, series))
        results.add(outcome.row, stack.found)
        tell(stack, outcome, results.commit)

    def abort(stack: Stack | None, seed: int, reason: str) -> None:
        station = station_of(seed, series)
        results.add(
            Row(seed, station.series.value, station.broker, wanted.duration, aborted=reason),
            [] if stack is None else stack.found,
        )
        kept = "no logs" if stack is None else stack.keep_logs()
        print(f"seed {seed} aborted: {reason}; logs and journals: {kept}", flush=True)

    seeds = range(wanted.seed, wanted.seed + wanted.runs)
    play(seeds, start=lambda: Stack(wanted.mutant), run=one, abort=abort)
    results.show()
    return 0 if results.clean else 1


def tell(stack: Stack, outcome: Outcome, commit: str) -> None:
    """Print one line about a run. If the run is not clean, print its first violations and keep its logs."""
    row = outcome.row
    broken = ", ".join(f"{count} {kind}" for kind, count in row.kinds.items()) or "nothing broken"
    few = "" if row.enough else f"; too little happened, or a process ended by itself: {row.ended}"
    unavailable = "" if row.available else "; too many outages, or a writer gave up a change"
    bound = "no bound" if row.bound is None else f"95 % bound: {row.bound} faulty reads in a million"
    print(
        f"seed {row.seed}, {row.series}, {row.broker}: {row.reads} reads, {row.changes} changes, "
        f"{sum(row.faults.values())} faults; {broken}{few}{unavailable}; "
        f"{sum(row.errors.values())} outages, {row.calm_outages} in {row.calm_reads} calm reads; "
        f"{row.given_up} changes given up; "
        f"staleness at least {row.staleness:.1f} s, recovery {row.recovery:.1f} s, whole run {row.seconds:.1f} s; "
        f"{row.operations} operations, {bound}; commit {commit[:12]}",
        flush=True,
    )
    if row.clean:
        return
    text = "\n".join(explain(outcome, violation) for violation in outcome.violations[:_EXPLAINED])
    kept = stack.keep_logs()
    (kept / "violations.txt").write_text(
        "\n".join(explain(outcome, violation) for violation in outcome.violations), "utf-8"
    )
    print(f"{text}\nlogs, and all {len(outcome.violations)} violations: {kept}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
