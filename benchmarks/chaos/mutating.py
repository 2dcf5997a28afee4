"""`python -m benchmarks.chaos.mutating`: the same run with each known-bad variant, and how soon it is caught."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from benchmarks import report
from benchmarks.chaos.mutants import MUTANTS
from benchmarks.chaos.row import Row
from benchmarks.chaos.run import Outcome, run
from benchmarks.chaos.schedule import station_of
from benchmarks.chaos.stack import Stack
from benchmarks.report import Figure

if TYPE_CHECKING:
    from cachekeeper.embedded import FoundServer

LIMIT_SECONDS = 60.0
"""Of fault injection, in which each mutant must be caught."""

DURATION = 8.0


def main() -> int:
    """Catch them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chaos.mutating", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which: {', '.join(MUTANTS)}; default: all")
    parser.add_argument("--seed", type=int, default=1, help="of the first run of each")
    wanted = parser.parse_args()
    if unknown := sorted(set(wanted.names) - set(MUTANTS)):
        parser.error(f"no mutant {', '.join(unknown)}; there are: {', '.join(MUTANTS)}")
    figures: list[Figure] = []
    servers: list[FoundServer] = []
    for name in wanted.names or MUTANTS:
        with Stack(name) as stack:
            figures.append(_figure(name, *catch(stack, name, wanted.seed)))
            servers = [*servers, *(server for server in stack.found if server not in servers)]
        print(figures[-1], flush=True)
    if wanted.names:
        report.show("mutants", figures)
        return 0 if all(figure.held for figure in figures) else 1
    return 0 if report.store("mutants", figures, servers, wanted.seed) else 1


def catch(stack: Stack, name: str, seed: int) -> tuple[float, str]:
    """Run a mutant until it is caught.

    Returns:
        After how many seconds of runs, and as what; `LIMIT_SECONDS` or more, and nothing, for one that survived.
    """
    spent = 0.0
    while spent < LIMIT_SECONDS:
        outcome = run(stack, seed, DURATION, station_of(seed, MUTANTS[name].series))
        if is_caught(outcome.row):
            return spent + _first(outcome), _broken(outcome)
        spent, seed = spent + DURATION, seed + 1
    return spent, ""


def is_caught(row: Row) -> bool:
    """Whether a wrong answer was seen: an error of the mutant's own patch, or a late drain, does not count."""
    return row.stale + row.stuck + row.wrong_key > 0


def _first(outcome: Outcome) -> float:
    """Seconds from the begin of the run to its first violation; what only the sweep can see comes at its end."""
    seen = [violation.read.ended for violation in outcome.violations if violation.read is not None]
    return min([DURATION, *((each - outcome.began) / 1e9 for each in seen)])


def _broken(outcome: Outcome) -> str:
    row = outcome.row
    counts = {"stale": row.stale, "wrong": row.wrong_key, "stuck": row.stuck, "lost": row.lost, "untyped": row.untyped}
    return ", ".join(f"{count} {name}" for name, count in counts.items() if count)


def _figure(name: str, seconds: float, broken: str) -> Figure:
    text = f"{name}: caught after" if broken else f"{name}: not caught within"
    held = bool(broken) and seconds <= LIMIT_SECONDS
    return Figure(text, round(seconds, 1), f"s ({broken})" if broken else "s", f"<= {LIMIT_SECONDS:g}", held=held)


if __name__ == "__main__":
    sys.exit(main())
