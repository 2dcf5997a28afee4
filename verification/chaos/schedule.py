"""The times of the faults: a pure function of seed, duration and station, so that a seed replays them."""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import StrEnum


class Series(StrEnum):
    """How changes become events, and which MongoDB is used."""

    OUTBOX = "outbox"
    STREAM = "stream"
    REPLICAS = "replicas"


@dataclass(frozen=True, slots=True)
class Station:
    """The servers and the series of a run.

    Attributes:
        series: how changes become events.
        rabbit: whether RabbitMQ is the broker. Else it is a Redis that writes its append-only file at every command.
    """

    series: Series
    rabbit: bool = False

    @property
    def broker(self) -> str:
        """The broker's name in a row."""
        return "rabbitmq" if self.rabbit else "redis"


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault.

    Attributes:
        at: seconds from the begin of the run.
        target: the server, process, line or data that it hits.
        kind: what happens to the target.
        seconds: how long it lasts; 0 if it is over at once.
        amount: milliseconds, a count or a share, depending on the kind.
    """

    at: float
    target: str
    kind: str
    seconds: float = 0.0
    amount: float = 0.0


@dataclass(frozen=True, slots=True)
class _Kind:
    """One kind of fault of a target: its weight among the others, and the ranges of its length and amount."""

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
# Most races need slow loads.
_LOADS = (_Kind("slow", 10, (0.8, 2.5), (40, 400)), *_LINES[1:])
_LOADING = ("readers-mongo", "workers-mongo")
_CLEAR = 0.1  # seconds between two faults of one target
_FIRST = 0.4  # seconds before the first
_QUIET = 0.5  # seconds without a new one at the end
# Mean seconds between two faults that make the cache lose keys; the seeds take them in turn. Races between fills and
# lost keys need many such faults. But a wrong value must survive until a later read or the sweep sees it.
_FORGETTING_GAPS = (10.0, 0.1, 1.0)
# These lose all keys at once: neither server has a file.
_FORGETTING = {("cache", "kill"), ("security", "kill"), ("security", "flush")}

LINES = (
    *("readers-cache", "readers-security", "readers-mongo"),
    *("workers-cache", "workers-security", "workers-mongo", "workers-broker"),
    *(
        "writers-security",
        "writers-mongo",
        "writers-broker",
    ),  # writers look up no name, so they have no line to the cache
    *("relay-mongo", "relay-broker", "stream-mongo"),
)
"""The connections that go through the proxy: all that the product's processes and its users have to servers."""


def remembers(seed: int) -> bool:
    """Whether Redis loses no keys in the second half of the run: three seeds in six, one with each gap."""
    return seed // len(_FORGETTING_GAPS) % 2 == 1


def spares_readers(seed: int) -> bool:
    """Whether no fault hits the readers' own lines and loads, so that many reads are calm: one seed in four."""
    return seed % 4 == 3


def _targets(seed: int, station: Station) -> dict[str, tuple[float, tuple[_Kind, ...]]]:
    """Return for each target the mean seconds between two faults, and the kinds of fault."""
    broker = (
        # RabbitMQ would take seconds to start empty, so a purge loses the waiting messages instead.
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
        # Flushed more often than killed: after a kill, clients ask MongoDB for a while and do not use Redis.
        "security": (3, (_Kind("kill", 3, (0.05, 0.6)), _Kind("stop", 2, (0.1, 0.8)), _Kind("flush", 6))),
        # The cache loses all keys, those that a small maxmemory evicts, or single values or metadata.
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
        del targets["events"]  # a copy would hide an event that the stream has lost
        targets["stream"] = (8, _PROCESS)
    if station.series is Series.REPLICAS:
        targets["set"] = (
            2,
            (
                _Kind("step-down", 2),
                # Shorter than an election less a heartbeat. A primary that is replaced meanwhile would answer the
                # commands that wait in its sockets before it learns of its successor. That case is not promised
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
    """Return the faults of one run, in order of time. The faults of one target never overlap.

    Args:
        seed: the seed of the run.
        duration: how many seconds the run lasts.
        station: the station of the run.
    """
    faults: list[Fault] = []
    for target, (gap, kinds) in _targets(seed, station).items():
        dice = random.Random(f"{seed} {duration:g} {station.series} {station.rabbit} {target}")
        at = _FIRST + dice.expovariate(1 / gap)
        while at < duration - _QUIET:
            kind = dice.choices(kinds, [each.weight for each in kinds])[0]
            # The square makes most faults short and small: near the lower end of the range.
            seconds, amount = (low + (high - low) * dice.random() ** 2 for low, high in (kind.seconds, kind.amount))
            seconds = min(seconds, max(duration - _QUIET - at, kind.seconds[0]))
            faults.append(Fault(round(at, 3), target, kind.name, round(seconds, 3), round(amount, 3)))
            at += seconds + _CLEAR + dice.expovariate(1 / gap)
    if remembers(seed):
        faults = [each for each in faults if each.at < duration / 2 or not _forgets(each)]
    return tuple(sorted(faults, key=lambda fault: (fault.at, fault.target)))


def _forgets(fault: Fault) -> bool:
    """Whether the fault makes Redis lose keys."""
    return fault.target == "keys" or (fault.target, fault.kind) in _FORGETTING


_TURN = 5  # successive runs at one station: a move to another takes some seconds


def station_of(seed: int, series: str) -> Station:
    """Return the station of the run with this seed.

    Args:
        seed: the seed of the run.
        series: the name of a series, or `all` for all of them in turn.
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
    # One turn in four uses RabbitMQ.
    return Station(Series(series), rabbit=turn % 4 == 3)
