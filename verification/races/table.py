"""The table of cases and contenders: fresh, stale, or an error. It is printed, and stored for the docs."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from cachekeeper.devservers import Guardian, MongoServer, RedisServer, find_mongod, find_redis
from testkit.report import Figure, write
from verification.races.adapters import CONTENDERS, OURS
from verification.races.cases import CASES
from verification.races.playing import Ended, Ending, play
from verification.races.stage import watching

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cachekeeper.devservers import FoundServer

_VALUES = {Ending.FRESH: 0, Ending.STALE: 1, Ending.ERROR: 2}
_LIBRARIES = ("cashews", "aiocache", "dogpile.cache")
_STYLES = {Ending.FRESH: "green", Ending.STALE: "bold red", Ending.ERROR: "yellow", Ending.NOT_APPLICABLE: "dim"}


def main() -> bool:
    """Play everything. Return whether this project was fresh in all cases."""
    with Guardian() as guardian:
        redis, mongo = RedisServer(guardian, find_redis()), MongoServer(guardian, find_mongod())
        redis.start()
        mongo.start()
        try:
            with watching(redis, mongo) as servers:
                ended = {
                    (case.name, contender.name): play(case, contender, servers)
                    for case in CASES
                    for contender in CONTENDERS
                }
            return tell(ended, [redis.found, mongo.found])
        finally:
            redis.stop()
            mongo.stop()


def tell(ended: Mapping[tuple[str, str], Ended], servers: list[FoundServer]) -> bool:
    """Print the table and write the file. Return whether this project was fresh in all cases."""
    table = Table(title="races", title_justify="left")
    table.add_column("case")
    for contender in CONTENDERS:
        table.add_column(contender.name)
    for case in CASES:
        endings = [ended[case.name, contender.name].ending for contender in CONTENDERS]
        table.add_row(case.name, *(f"[{_STYLES[ending]}]{ending.value}[/]" for ending in endings))
    Console(width=160).print(table)
    figures, reasons = [], {}
    for (row, column), end in ended.items():
        name, ours = f"{column}: {row}", column == OURS.name
        if end.ending is Ending.NOT_APPLICABLE:
            reasons[name] = end.why
        else:
            value = _VALUES[end.ending]
            target, held = ("<= 0", value <= 0) if ours else (None, None)
            figures.append(Figure(name, value, end.ending.value, target, held=held))
        if ours and end.ending is not Ending.FRESH:
            print(f"{row}: {end.ending.value}: {end.why}")
    more = {
        "cases": {case.name: case.text for case in CASES},
        "contenders": {contender.name: contender.practice for contender in CONTENDERS},
        "not_applicable": reasons,
        "libraries": {name: version(name) for name in _LIBRARIES},
    }
    held = write("races", figures, servers, more=more)
    return held and all(ended[case.name, OURS.name].ending is Ending.FRESH for case in CASES)
