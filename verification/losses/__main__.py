"""`python -m verification.losses`: test every path on both brokers. Exit status 1 if a target was missed.

Only a run without options stores its figures. A run with other numbers, with selected paths or brokers, or with a
known-bad variant only prints them.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

from cachekeeper.devservers import Guardian, MongoServer, RedisServer, find_mongod, find_redis
from testkit.report import Figure, at_most, plain, show, store
from testkit.servers import RabbitServer, find_rabbitmq
from verification.losses.run import SHORTEST_TTL, Run
from verification.losses.service import Path

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from verification.losses.run import Outcome

NAME = "losses"
SEED = 11
CHANGES = 10_000
KILLS = 4
RESTARTS = 2
BROKERS = ("redis", "rabbitmq")
MUTANTS = ("early", "forgets")


def main() -> bool:
    """Run every path on both brokers, and store the figures. Return whether all targets were held."""
    figures = _all(list(Path), BROKERS, CHANGES, KILLS, SEED)
    return store(NAME, figures, [find_redis(), find_mongod(), find_rabbitmq()], SEED)


def _all(
    paths: Sequence[Path], brokers: Sequence[str], changes: int, kills: int, seed: int, mutant: str = ""
) -> list[Figure]:
    figures: list[Figure] = []
    with Guardian() as guardian:
        for kind in brokers:
            for path in paths:
                with (
                    _servers(guardian, kind) as (broker, cache, mongo),
                    Run(guardian, broker, cache, mongo, path, mutant) as run,
                ):
                    outcome = run.result(changes, kills, seed, restarts=RESTARTS)
                found = _figures(path, kind, outcome)
                show(f"{path}, {kind}", found)
                figures += found
    return figures


@contextmanager
def _servers(guardian: Guardian, kind: str) -> Iterator[tuple[RedisServer | RabbitServer, RedisServer, MongoServer]]:
    """Start a broker, a cache and a MongoDB for one run. They are not shared, because the run kills the broker."""
    broker: RedisServer | RabbitServer
    if kind == "redis":
        # This Redis writes each command to disk before it confirms it.
        broker = RedisServer(
            guardian, find_redis(), config={"appendonly": "yes", "appendfsync": "always"}, name="broker"
        )
    else:
        broker = RabbitServer(guardian, find_rabbitmq())
    cache, mongo = RedisServer(guardian, find_redis(), name="cache"), MongoServer(guardian, find_mongod())
    started: list[RedisServer | RabbitServer | MongoServer] = []
    try:
        for server in (broker, cache, mongo):
            server.start()
            started.append(server)
        yield broker, cache, mongo
    finally:
        for server in started:
            server.kill()


def _figures(path: Path, kind: str, outcome: Outcome) -> list[Figure]:
    said = f"{path}, {kind}"
    lost = len(outcome.lost)
    gaps = ", ".join(f"{what} {count}" for what, count in sorted(outcome.kills.items()))
    if path is Path.PLAIN:
        confirmed = lost - len(outcome.unsaid)
        figure = f"{said}: changes lost behind the broker's confirmation"
        found = [
            at_most(figure, confirmed, 0),
            plain(f"{said}: changes lost between commit and publication", len(outcome.unsaid)),
        ]
    else:
        found = [at_most(f"{said}: changes lost", lost, 0)]
    return [
        *found,
        at_most(f"{said}: keys that went without a word", len(outcome.silent), 0),
        at_most(f"{said}: views dropped meanwhile", outcome.dropped, 0),
        plain(f"{said}: changes committed", outcome.changes),
        at_most(f"{said}: left over, in the outbox, as dead letters or given up by the broker", outcome.left, 0),
        plain(f"{said}: processes ended ({gaps})", outcome.kills.total()),
        plain(f"{said}: the slowest event", outcome.slowest, "seconds"),
        # In a longer run, a stale key could expire by its TTL before the audit finds it.
        at_most(f"{said}: the whole run", outcome.seconds, SHORTEST_TTL, "seconds"),
    ]


def command() -> int:
    """Run as the command line says. Return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m verification.losses", description=__doc__)
    parser.add_argument("--changes", type=int, default=CHANGES, help="number of changes, for each path on each broker")
    parser.add_argument("--kills", type=int, default=KILLS, help="number of kills at each gap")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--path", type=Path, choices=list(Path), action="append", help="repeatable; default: all")
    parser.add_argument("--broker", choices=BROKERS, action="append", help="repeatable; default: both")
    parser.add_argument(
        "--mutant", choices=MUTANTS, default="", help="run a known-bad variant, which must lose changes"
    )
    wanted = parser.parse_args()
    if wanted == parser.parse_args([]):
        return int(not main())
    figures = _all(
        wanted.path or list(Path), wanted.broker or BROKERS, wanted.changes, wanted.kills, wanted.seed, wanted.mutant
    )
    return int(any(figure.held is False for figure in figures))


if __name__ == "__main__":
    sys.exit(command())
