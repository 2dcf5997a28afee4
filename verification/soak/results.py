"""The figures of a run, each with its target."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING, Any

from testkit.report import Figure, at_least, at_most, plain
from verification.soak.judging import limits_of, points, trend
from verification.soak.run import PUBLISHER, READER, WORKER
from verification.soak.sampling import MEMORY, METRICS
from verification.soak.workload import USERS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from verification.soak.sampling import Soaked

_LEAST_RATE = 200.0
_MOST_QUEUED = 100
"""The publisher sends so many in a few seconds."""
_LOOKS_MADE = 1 / 4
_LOOKS_FAILED = 1 / 10
_STRAY_KEYS = 8
"""kombu keeps some keys in Redis, independent of the load: bindings, and a queue for each reply to `ping`."""


def figures_of(kind: str, soaked: Soaked) -> list[Figure]:
    """All figures of one run."""
    return [
        Figure(f"{kind}: {each.figure}", each.value, each.unit, each.target, each.held) for each in _all(kind, soaked)
    ]


def _all(kind: str, soaked: Soaked) -> Iterator[Figure]:
    limits = limits_of(soaked.duration)
    yield plain("duration of the load", soaked.duration, "seconds")
    rate, figure = soaked.published / soaked.duration, "events published a second"
    yield plain(figure, rate) if limits.slope is None else at_least(figure, rate, _LEAST_RATE)
    cuts = max(sample.cuts for sample in soaked.samples)
    yield plain("times that connections were cut", cuts)
    # A worker that does not reconnect proves nothing. One reconnect may be missing, since a second cut can come before
    # the worker is ready.
    yield at_least("times that the worker connected to the broker again", soaked.reconnects, cuts - 1)
    yield from _looks(kind, soaked)
    for process in (WORKER, PUBLISHER, READER):
        for metric, unit in METRICS.items():
            seen = trend(points(soaked.samples, process, metric, after=soaked.duration * limits.warm_up))
            name = f"{process}, {metric}"
            yield plain(f"{name}: after the warm-up", seen.start, unit)
            yield at_most(f"{name}: rise from then to the end", seen.rise, limits.rise[metric], unit)
            if limits.slope is not None:
                yield at_most(f"{name}: slope", seen.slope, limits.slope[metric], f"{unit} an hour".strip())
        yield plain(f"{process}, CPU time of the whole run", soaked.spent[process], "seconds")
    yield at_most("prefetch that the worker applies, the most", max(soaked.prefetch), soaked.configured)
    if soaked.granted:
        yield at_most("prefetch that the broker grants, the most", max(soaked.granted), soaked.configured)
    # A worker that starts to fetch again registers new messages while its threads finish the earlier ones. So twice the
    # prefetch is allowed.
    yield at_most("messages in flight in the worker, the most", max(soaked.in_hand), 2 * soaked.configured)
    # A longer queue means that the load is too high. Then the queue grows, and other growth does not prove a leak.
    queued = median(soaked.queued[-max(1, len(soaked.queued) // 4) :])
    yield at_most("messages that wait in the queue, median of the last quarter", queued, _MOST_QUEUED)
    yield plain("messages in flight by the broker's account, median", median(soaked.unacked))
    yield plain("messages in flight by the broker's account, the most", max(soaked.unacked))
    yield plain("connections by the broker's account, median", median(soaked.connected))
    yield from _outcome(kind, soaked)


def _looks(kind: str, soaked: Soaked) -> Iterator[Figure]:
    """Figures that show whether there were enough looks. With few of them, the broker's figures would be low, too."""
    looks = len(soaked.queued)
    yield at_least("looks at the broker", looks, soaked.looks_due * _LOOKS_MADE)
    yield at_most("looks at the broker that failed", len(soaked.failed_looks), looks * _LOOKS_FAILED)
    if kind != "redis":
        # While the worker is not connected, RabbitMQ grants it no prefetch.
        granted = len(soaked.granted)
        yield at_least("looks at which RabbitMQ granted the worker a prefetch", granted, max(1, looks * _LOOKS_MADE))


def _outcome(kind: str, soaked: Soaked) -> Iterator[Figure]:
    lost = soaked.published - soaked.applied
    figure = "events lost behind the broker's confirmation"
    # On Redis, an event that is on its way when a connection breaks may be lost, since it is in no list. The outbox
    # prevents that.
    yield plain(figure, lost) if kind == "redis" else at_most(figure, lost, 0)
    yield plain("events applied", soaked.applied)
    yield plain("events applied more than once", soaked.twice)
    yield plain("attempts that the publisher repeated", soaked.retries)
    yield plain("reads", soaked.reads)
    yield plain("reads that failed with a typed error", soaked.read_errors)
    yield at_most("cached names that differ from MongoDB in the end", soaked.stale, 0)
    yield at_least("cached names in the end", soaked.cached, USERS)
    yield at_most("messages left in the queue", soaked.waiting, 0)
    yield at_most("messages left in flight", soaked.held, 0)
    yield at_most("dead letters", soaked.letters, 0)
    if soaked.keys is not None:
        yield at_most("keys left in the broker's Redis", soaked.keys, _STRAY_KEYS)


def conditions(found: Mapping[str, Soaked]) -> str:
    """The load of the machine during the runs, as text."""
    load = [each for soaked in found.values() for each in soaked.load]
    return (
        f"{' and '.join(found)} side by side; load average {median(load):.1f} (median), {max(load):.1f} (the most), "
        "other work on the machine included"
    )


def series_of(soaked: Soaked) -> dict[str, Any]:
    """Compute the median of each minute, for each process and metric."""
    minutes = [
        [sample for sample in soaked.samples if minute <= sample.at / 60 < minute + 1]
        for minute in range(int(soaked.duration // 60))
    ]
    return {
        process: {
            metric: [
                round(median(sample.levels[process][metric] for sample in each), 1 if metric == MEMORY else 0)
                for each in minutes
                if each
            ]
            for metric in METRICS
        }
        for process in (WORKER, PUBLISHER, READER)
    }
