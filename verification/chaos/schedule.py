"""Which fault comes when: a pure function of seed, duration and station, so that a seed replays it."""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import StrEnum


class Series(StrEnum):
    """How changes become events, and on which MongoDB."""

    OUTBOX = "outbox"
    STREAM = "stream"
    REPLICAS = "replicas"


@dataclass(frozen=True, slots=True)
class Station:
    """Where a run takes place.

    Attributes:
        series: how changes become events.
        rabbit: whether RabbitMQ is the broker; else a Redis with an append-only file, written at every command.
    """

    series: Series
    rabbit: bool = False

    @property
    def broker(self) -> str:
        """Its name, as rows have it."""
        return "rabbitmq" if self.rabbit else "redis"


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault.

    Attributes:
        at: seconds from the begin of the run.
        target: what it happens to.
        kind: what happens.
        seconds: how long it lasts; 0 for what is over at once.
        amount: milliseconds, a count or a share: what the kind says.
    """

    at: float
    target: str
    kind: str
    seconds: float = 0.0
    amount: float = 0.0


@dataclass(frozen=True, slots=True)
class _Kind:
    """One kind of fault of a target: how likely beside the others, how long, how much."""

    name: str
    weight: float
    seconds: tuple[float, float] = (0.0, 0.0)
    amount: tuple[float, float] = (0.0, 0.0)


_PROCESS = (_Kind("kill", 1, (0.05, 0.6)), _Kind("stop", 2, (0.2, 1.5)))
_LINES = (
    _Kind("slow", 4, (0.4, 1.5), (2, 60)),
    _Kind("stall", 1, (0.1, 0.9)),
    _Kind("half-open", 1, (0.1, 0.9)),
    _Kind("cut", 2),
)
# Slow loads are what most races need.
_LOADS = (_Kind("slow", 10, (0.8, 2.5), (40, 400)), *_LINES[1:])
_LOADING = ("readers-mongo", "workers-mongo")
_CLEAR = 0.1  # seconds between two faults of one target
_FIRST = 0.4  # seconds before the first
_QUIET = 0.5  # seconds without a new one at the end
# Mean seconds between two faults by which the cache forgets, in turn from seed to seed. Races between fills and what
# is forgotten need many; a wrong value that is to be met later, or to be swept up at the end, must be left in peace.
_FORGETTING_GAPS = (10.0, 0.1, 1.0)
_FORGETTING = {("cache", "kill"), ("security", "kill"), ("security", "flush")}  # all at once: neither has any file

LINES = (
    *("readers-cache", "readers-security", "readers-mongo"),
    *("workers-cache", "workers-security", "workers-mongo", "workers-broker"),
    *(
        "writers-security",
        "writers-mongo",
        "writers-broker",
    ),  # they look up no name, so that no line leads to the cache
    *("relay-mongo", "relay-broker", "stream-mongo"),
)
"""The connections that go through the proxy: all that processes of the product and of its users have to servers."""


def remembers(seed: int) -> bool:
    """Whether Redis forgets nothing more from the middle of the run on: three seeds in six, with each of the gaps."""
    return seed // len(_FORGETTING_GAPS) % 2 == 1


def spares_readers(seed: int) -> bool:
    """Whether no fault befalls the readers' own lines and loads, so that many of their reads are calm: one in four."""
    return seed % 4 == 3


def _targets(seed: int, station: Station) -> dict[str, tuple[float, tuple[_Kind, ...]]]:
    """By target: mean seconds between two faults, and the kinds."""
    broker = (
        # It takes seconds to start empty: a purge loses what waits.
        (_Kind("kill", 1, (0.1, 0.4)), _Kind("stop", 5, (0.2, 1.5)), _Kind("purge", 4))
        if station.rabbit
        else (_Kind("kill", 3, (0.1, 0.6)), _Kind("stop", 4, (0.2, 1.5)), _Kind("lose", 2, (0.1, 0.4)))
    )
    targets: dict[str, tuple[float, tuple[_Kind, ...]]] = {
        "worker0": (9, _PROCESS),
        "worker1": (9, _PROCESS),
        "relay": (15, _PROCESS),
        "broker": (14, broker),
        "cache": (8, (_Kind("kill", 3, (0.05, 0.6)), _Kind("stop", 2, (0.1, 0.8)))),
        # Rather flushed than killed: a client that has lost its server asks MongoDB for a while, whatever Redis holds.
        "security": (3, (_Kind("kill", 3, (0.05, 0.6)), _Kind("stop", 2, (0.1, 0.8)), _Kind("flush", 6))),
        # What the cache forgets: everything, what a small maxmemory drives out, or values and metadata one by one.
        "keys": (
            _FORGETTING_GAPS[seed % len(_FORGETTING_GAPS)],
            (
                _Kind("flush", 1),
                _Kind("squeeze", 1, amount=(50, 400)),
                _Kind("drop-values", 12, amount=(0.2, 1)),
                _Kind("drop-metadata", 4, amount=(0.2, 1)),
            ),
        ),
        "reads": (1.5, (_Kind("slow", 5, (0.3, 1.2), (5, 250)), _Kind("fail", 2, amount=(1, 12)))),
        "events": (0.6, (_Kind("again", 3, amount=(5, 60)), _Kind("again-one-by-one", 1, amount=(3, 12)))),
    }
    if station.series is Series.STREAM:
        del targets["events"]  # a copy would stand in for what the stream has lost
        targets["stream"] = (8, _PROCESS)
    if station.series is Series.REPLICAS:
        targets["set"] = (
            2,
            (
                _Kind("step-down", 2),
                # Shorter than an election takes, less a heartbeat. One that is replaced meanwhile would answer what
                # waits in its sockets before it learns of it: outside of what is promised
                # (`verification.rollbacks.deposed`).
                _Kind("stop-primary", 1, (0.2, 0.6)),
                _Kind("lag", 2, (0.5, 2)),
                _Kind("roll-back", 3),
            ),
        )
    else:
        targets["mongo"] = (12, (_Kind("kill", 1, (0.05, 0.5)), _Kind("stop", 2, (0.2, 1.2))))
    for line in LINES:
        if line != "stream-mongo" or station.series is Series.STREAM:
            targets[line] = (0.4, _LOADS) if line in _LOADING else (5, _LINES)
    if spares_readers(seed):
        return {name: each for name, each in targets.items() if not name.startswith(("reads", "readers-"))}
    return targets


def schedule(seed: int, duration: float, station: Station) -> tuple[Fault, ...]:
    """The faults of one run, in order of time. Those of one target never overlap.

    Args:
        seed: the run's.
        duration: seconds that the run lasts.
        station: where it takes place.
    """
    faults: list[Fault] = []
    for target, (gap, kinds) in _targets(seed, station).items():
        dice = random.Random(f"{seed} {duration:g} {station.series} {station.rabbit} {target}")
        at = _FIRST + dice.expovariate(1 / gap)
        while at < duration - _QUIET:
            kind = dice.choices(kinds, [each.weight for each in kinds])[0]
            # Rather short than long: with the square most are near the lower end.
            seconds, amount = (low + (high - low) * dice.random() ** 2 for low, high in (kind.seconds, kind.amount))
            seconds = min(seconds, max(duration - _QUIET - at, kind.seconds[0]))
            faults.append(Fault(round(at, 3), target, kind.name, round(seconds, 3), round(amount, 3)))
            at += seconds + _CLEAR + dice.expovariate(1 / gap)
    if remembers(seed):
        faults = [each for each in faults if each.at < duration / 2 or not _forgets(each)]
    return tuple(sorted(faults, key=lambda fault: (fault.at, fault.target)))


def _forgets(fault: Fault) -> bool:
    """Whether Redis holds less after it."""
    return fault.target == "keys" or (fault.target, fault.kind) in _FORGETTING


_TURN = 5  # runs that follow one another at one station: moving costs some seconds


def station_of(seed: int, series: str) -> Station:
    """Where the run with this seed takes place.

    Args:
        seed: the run's.
        series: the name of one, or `all` for all of them in turn.
    """
    turn = seed // _TURN
    if series == "all":
        stations = (
            Station(Series.OUTBOX),
            Station(Series.STREAM),
            Station(Series.OUTBOX, rabbit=True),
            Station(Series.REPLICAS),
        )
        return stations[turn % len(stations)]
    # One turn in four with RabbitMQ.
    return Station(Series(series), rabbit=turn % 4 == 3)
