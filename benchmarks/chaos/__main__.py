"""`python -m benchmarks.chaos`: see `make chaos`."""

from __future__ import annotations

import argparse
import sys

from benchmarks.chaos.explain import explain
from benchmarks.chaos.run import run
from benchmarks.chaos.schedule import Series, station_of
from benchmarks.chaos.stack import Stack


def main() -> int:
    """Run a series."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--duration", type=float, default=8.0, help="seconds of one run, before the drain")
    parser.add_argument("--runs", type=int, default=1, help="so many, with consecutive seeds")
    parser.add_argument("--series", choices=[*Series, "all"], default="outbox")
    parser.add_argument("--mutant")
    wanted = parser.parse_args()
    stack = Stack(wanted.mutant)
    clean = True
    try:
        for seed in range(wanted.seed, wanted.seed + wanted.runs):
            outcome = run(stack, seed, wanted.duration, station_of(seed, wanted.series))
            print(outcome.row)
            for violation in outcome.violations[:3]:
                print(explain(outcome, violation))
            if not outcome.row.clean:
                print(f"logs: {stack.keep_logs()}")
            clean = clean and outcome.row.clean
    finally:
        stack.close()
    return 0 if clean else 1


if __name__ == "__main__":
    sys.exit(main())
