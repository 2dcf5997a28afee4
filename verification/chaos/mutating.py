"""`python -m verification.chaos.mutating`: run with each known-bad variant, and show what catches it and how soon."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from dataclasses import asdict, dataclass
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from testkit import report
from testkit.report import Figure
from verification.chaos.mutants import MUTANTS, Mutant
from verification.chaos.run import Outcome, run
from verification.chaos.schedule import station_of
from verification.chaos.sequence import play
from verification.chaos.stack import Stack

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cachekeeper.devservers import FoundServer
    from verification.chaos.checker import Violation

DURATION = 8.0
_APART = 1000  # distance between the first seeds of two tries


@dataclass(frozen=True, slots=True)
class Try:
    """One hunt for a mutant.

    Attributes:
        mutant: its name.
        seed: the seed of the first run.
        runs: number of runs, including the one that caught it.
        seconds: fault injection until the first violation that counts. The sweep's violations come at a run's end.
        caught: number of violations of each kind that counts; empty if the mutant survived.
        aborted: why runs came to no verdict. Such a run catches nothing, and counts as a run.
    """

    mutant: str
    seed: int
    runs: int
    seconds: float
    caught: dict[str, int]
    aborted: tuple[str, ...] = ()


def main() -> int:
    """Hunt for the mutants that the command line names. Status 0 if each is caught within its limit."""
    parser = argparse.ArgumentParser(prog="python -m verification.chaos.mutating", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"mutants: {', '.join(MUTANTS)}; default: all")
    parser.add_argument("--seed", type=int, default=1, help="seed of each mutant's first run")
    parser.add_argument("--tries", type=int, default=1, help="tries for each mutant; each must catch it")
    wanted = parser.parse_args()
    if unknown := sorted(set(wanted.names) - set(MUTANTS)):
        parser.error(f"unknown mutant {', '.join(unknown)}; the mutants are: {', '.join(MUTANTS)}")
    tries: list[Try] = []
    servers: list[FoundServer] = []
    for name in wanted.names or MUTANTS:
        for number in range(wanted.tries):
            tries.append(catch(name, wanted.seed + number * _APART, servers))
            print(tries[-1], flush=True)
    figures = [figure(name, tries) for name in wanted.names or MUTANTS]
    report.show("mutants", figures)
    held = all(each.held for each in figures)
    if not wanted.names:
        report.write("mutants", figures, servers, wanted.seed, more=_more(tries))
    return 0 if held else 1


def catch(name: str, seed: int, servers: list[FoundServer]) -> Try:
    """Run a mutant until it is caught, or until it has survived all runs of its limit.

    Args:
        name: the mutant's name.
        seed: the seed of the first run.
        servers: a list; the servers that it ran on are added.
    """
    mutant, spent, runs = MUTANTS[name], 0.0, 0
    caught: dict[str, int] = {}
    aborted: list[str] = []

    def one(stack: Stack, seed: int) -> None:
        nonlocal spent, runs
        servers.extend(server for server in stack.found if server not in servers)
        outcome = run(stack, seed, DURATION, station_of(seed, mutant.series))
        runs += 1
        found = evidence(mutant, outcome.violations)
        caught.update(
            {kind: sum(each.kind == kind for each in found) for kind in sorted({each.kind for each in found})}
        )
        spent += _first(outcome, found)

    def abort(_: Stack | None, seed: int, reason: str) -> None:
        nonlocal spent, runs
        runs, spent = runs + 1, spent + DURATION
        aborted.append(f"seed {seed}: {reason}")

    seeds = takewhile(lambda _: not caught, range(seed, seed + mutant.runs))
    play(seeds, start=lambda: Stack(name), run=one, abort=abort)
    return Try(name, seed, runs, round(spent, 1), caught, tuple(aborted))


def evidence(mutant: Mutant, violations: Iterable[Violation]) -> list[Violation]:
    """Choose those violations of a run that count as catching the mutant."""
    return [
        violation
        for violation in violations
        if violation.kind in mutant.kinds and (not mutant.keys or violation.key[0] in mutant.keys)
    ]


def _first(outcome: Outcome, found: Iterable[Violation]) -> float:
    """Return the seconds from the run's begin to its first violation. A sweep's violation counts as the run's end."""
    seen = [violation.read.ended for violation in found if violation.read is not None]
    return min([DURATION, *((each - outcome.began) / 1e9 for each in seen)])


def figure(name: str, tries: Iterable[Try]) -> Figure:
    """Make the figure of a mutant: the worst of its tries, against its limit."""
    mine, mutant = [each for each in tries if each.mutant == name], MUTANTS[name]
    limit = mutant.runs * DURATION
    survived = sum(not each.caught for each in mine)
    worst = max(each.seconds for each in mine)
    counts = sum((Counter(each.caught) for each in mine), Counter[str]())
    kinds = ", ".join(f"{counts[kind]} {kind}" for kind in sorted(counts))
    by = "survived" if survived else f"by {kinds}, in run {max(each.runs for each in mine)}"
    text = f"{name} ({mutant.text}): caught by {' or '.join(mutant.kinds)}"
    return Figure(text, worst, f"s ({by})", f"<= {limit:g}", held=not survived and worst <= limit)


def _more(tries: Iterable[Try]) -> dict[str, Any]:
    return {
        "mutants": {
            name: {"text": each.text, "kinds": each.kinds, "runs": each.runs, "series": each.series.value}
            for name, each in MUTANTS.items()
        },
        "tries": [asdict(each) for each in tries],
    }


if __name__ == "__main__":
    sys.exit(main())
