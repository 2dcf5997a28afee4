"""`python -m verification.soak`: an hour of load on both brokers, side by side. Exit status 1 if a target was missed.

Only a run without options stores its figures. All others, such as a shorter run, a run on one broker or with a
known-bad variant, only print them.
"""

from __future__ import annotations

import argparse
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING

from cachekeeper.devservers import Guardian, MongoServer, RedisServer, find_mongod, find_redis
from testkit.report import show, write
from testkit.servers import RabbitServer, find_rabbitmq
from verification.soak.results import conditions, figures_of, series_of
from verification.soak.run import Run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from verification.soak.sampling import Soaked

NAME = "soak"
SEED = 11
DURATION = 3600.0
BROKERS = ("redis", "rabbitmq")
RATE = 250.0
CUTS = 20.0
_SHORT_CUTS = 12
"""The number of intervals between cuts in a short run."""
MUTANTS = ("messages", "sockets", "threads", "prefetch", "connections")


def soak(
    guardian: Guardian,
    kinds: Sequence[str],
    duration: float,
    *,
    rate: float,
    cut_seconds: float,
    seed: int,
    mutant: str = "",
    visibility: int | None = None,
) -> dict[str, Soaked]:
    """Run on each of these brokers at the same time, and return the results by broker.

    The runs share a MongoDB and the machine. Each has its own broker, cache and processes.
    """
    with ExitStack() as stack:
        mongo = MongoServer(guardian, find_mongod(), parameters={"ttlMonitorSleepSecs": 5})
        _start(stack, mongo)
        runs = {}
        for kind in kinds:
            cache = RedisServer(guardian, find_redis(), name=f"cache-{kind}")
            broker: RedisServer | RabbitServer
            if kind == "redis":
                broker = RedisServer(guardian, find_redis(), name="broker")
            else:
                broker = RabbitServer(guardian, find_rabbitmq())
            _start(stack, cache)
            _start(stack, broker)
            run = Run(guardian, broker, cache, mongo, rate=rate, mutant=mutant, visibility=visibility)
            runs[kind] = stack.enter_context(run)
        with ThreadPoolExecutor(len(runs)) as pool:
            found = {kind: pool.submit(run.result, duration, cut_seconds, seed) for kind, run in runs.items()}
        return {kind: future.result() for kind, future in found.items()}


def _start(stack: ExitStack, server: RedisServer | RabbitServer | MongoServer) -> None:
    server.start()
    stack.callback(server.kill)


def command() -> int:
    """Run as the command line says. Return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m verification.soak", description=__doc__)
    parser.add_argument("--duration", type=float, default=DURATION, help="seconds of load")
    parser.add_argument("--broker", choices=("all", *BROKERS), default="all")
    parser.add_argument("--rate", type=float, default=RATE, help="events a second on each broker")
    parser.add_argument("--cuts", type=float, default=CUTS, help="seconds between two cuts; less in a short run")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--mutant", choices=MUTANTS, default="", help="run a known-bad variant, which must be caught")
    wanted = parser.parse_args()
    kinds = BROKERS if wanted.broker == "all" else (wanted.broker,)
    with Guardian() as guardian:
        found = soak(
            guardian,
            kinds,
            wanted.duration,
            rate=wanted.rate,
            cut_seconds=min(wanted.cuts, wanted.duration / _SHORT_CUTS),
            seed=wanted.seed,
            mutant=wanted.mutant,
        )
    figures = [figure for kind, soaked in found.items() for figure in figures_of(kind, soaked)]
    show(NAME, figures)
    if wanted == parser.parse_args([]):
        servers = [find_redis(), find_mongod(), find_rabbitmq()]
        more = {"conditions": conditions(found), "series": {kind: series_of(each) for kind, each in found.items()}}
        write(NAME, figures, servers, wanted.seed, more=more)
    return int(any(figure.held is False for figure in figures))


if __name__ == "__main__":
    sys.exit(command())
