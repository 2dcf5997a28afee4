"""`python -m verification.chaos`: fault-injection runs. Exit status 0 only if every stored figure holds."""

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

_EXPLAINED = 3  # violations of a run


def main() -> int:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m verification.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="of the first run")
    parser.add_argument("--duration", type=float, default=8.0, help="seconds of a run, before the drain")
    parser.add_argument("--runs", type=int, default=1, help="so many, with consecutive seeds")
    parser.add_argument(
        "--series",
        choices=[*Series, "all"],
        help="how changes become events; default: all, or where a mutant can be caught",
    )
    parser.add_argument("--mutant", choices=MUTANTS, help="swap one piece for a known-bad one: then nothing is stored")
    parser.add_argument("--dry", action="store_true", help="store no figures")
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
        print(f"seed {seed} aborted: {reason}; what was up to then: {kept}", flush=True)

    seeds = range(wanted.seed, wanted.seed + wanted.runs)
    play(seeds, start=lambda: Stack(wanted.mutant), run=one, abort=abort)
    results.show()
    return 0 if results.clean else 1


def tell(stack: Stack, outcome: Outcome, commit: str) -> None:
    """A line for a run; for one that broke a promise, all that explains it."""
    row = outcome.row
    broken = ", ".join(f"{count} {kind}" for kind, count in row.kinds.items()) or "nothing broken"
    few = "" if row.enough else f"; too little went on, or a process ended: {row.ended}"
    unavailable = "" if row.available else "; too many outages, or a change was given up"
    bound = "no bound" if row.bound is None else f"95 % bound {row.bound} faulty in a million reads"
    print(
        f"seed {row.seed}, {row.series}, {row.broker}: {row.reads} reads, {row.changes} changes, "
        f"{sum(row.faults.values())} faults; {broken}{few}{unavailable}; "
        f"{sum(row.errors.values())} outages, {row.calm_outages} of {row.calm_reads} in calm, {row.given_up} given up; "
        f"staleness at least {row.staleness:.1f} s, recovery {row.recovery:.1f} s, all told {row.seconds:.1f} s; "
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
    print(f"{text}\nits logs, and all {len(outcome.violations)} violations: {kept}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
