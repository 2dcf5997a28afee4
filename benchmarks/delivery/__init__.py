"""The delivery of events to the cache: throughput, the cost of a single event, latency, and memory.

On each broker one worker runs, `celery -A cachekeeper worker` with the application's own configuration, on one core
where the platform can pin it. Its queue is filled while it is paused; then it is timed. The cases that are compared
alternate, round by round.

May import the engine, the shop and `testkit`.
"""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING

from benchmarks.delivery import cores
from benchmarks.delivery.lab import HELD, Lab
from benchmarks.delivery.open_loop import Offer, measure, percentile
from benchmarks.delivery.workload import text
from cachekeeper.devservers import Guardian, MongoServer, RedisServer, find_mongod, find_redis
from cachekeeper.publishing.publisher import EVENTS_PER_MESSAGE
from cachekeeper.publishing.wire_format import task_body
from testkit.report import Figure, at_least, at_most, plain, ratio, store
from testkit.servers import RabbitServer, find_rabbitmq

if TYPE_CHECKING:
    from collections.abc import Callable

ROUNDS = 9
MESSAGES = 1500  # in a queue of empty tasks, or of events one by one
BATCHES = 24
SMALL = 50  # events in a message: as many as a buffer of 50 ms gathers at 1,000 events a second
SMALL_BATCHES = 120
USERS = BATCHES * EVENTS_PER_MESSAGE
ROUND_TRIPS = 500
COLD_ROUNDS = 3
LOGOUT_ROUNDS = 3
LATENCY_SECONDS = 6.0
PARTS = (0.1, 0.5, 0.9)
BATCH_TARGET = 10
SINGLE_TARGET = 1.2
MIB = 1 << 20

EMPTY, EVALSHA = "empty task", "EVALSHA"
ONE, SOME, MANY = (f"event, {size} in a message" for size in (1, SMALL, EVENTS_PER_MESSAGE))


def main() -> bool:
    """Measure, and return whether all targets were met."""
    redis, mongod, rabbit = find_redis(), find_mongod(), find_rabbitmq()
    figures: list[Figure] = []
    with cores.kept_to(cores.of_all_others(cores.available())), Guardian() as guardian:
        cache, mongo = RedisServer(guardian, redis), MongoServer(guardian, mongod)
        brokers: dict[str, RedisServer | RabbitServer] = {
            "RabbitMQ": RabbitServer(guardian, rabbit),
            "Redis": RedisServer(guardian, redis, name="broker"),
        }
        try:
            cache.start()
            mongo.start()
            for name, broker in brokers.items():
                broker.start()
                figures += _measure(name, Lab(guardian, broker, cache, mongo, USERS))
                broker.stop()
        finally:
            for server in (cache, mongo, *brokers.values()):
                server.stop()
    return store("delivery", figures, [redis, mongod, rabbit])


def _measure(broker: str, lab: Lab) -> list[Figure]:
    """Measure everything on one broker."""
    with lab.working():
        idle = lab.resident
        lab.time_empty_tasks(MESSAGES)
        lab.time_events(MESSAGES, 1)
        small, lab.peak = lab.peak, 0
        seconds, cpu = _rounds(lab)
        cold = median(lab.time_events(USERS, EVENTS_PER_MESSAGE, cold=True) / USERS for _ in range(COLD_ROUNDS))
        peak = lab.peak
        latencies = [
            *_latencies(broker, lab, 1, 1 / median(seconds[ONE])),
            *_latencies(broker, lab, SMALL, 1 / median(seconds[SOME])),
        ]
        # Last: the blocks that logouts leave give the worker more work beside its messages.
        logouts = median(lab.time_logouts(USERS, EVENTS_PER_MESSAGE) / USERS for _ in range(LOGOUT_ROUNDS))
    body = task_body([text(user, 1) for user in range(EVENTS_PER_MESSAGE)])
    single = median(
        event / (task + trip) for event, task, trip in zip(seconds[ONE], seconds[EMPTY], seconds[EVALSHA], strict=True)
    )
    return [
        at_least(f"{broker}: events per second in batches, to empty tasks", ratio(seconds, EMPTY, MANY), BATCH_TARGET),
        at_most(f"{broker}: one event alone, to an empty task and an EVALSHA round trip", single, SINGLE_TARGET),
        plain(f"{broker}: EVALSHA round trip", median(seconds[EVALSHA]) * 1e6, "microseconds"),
        *(plain(f"{broker}: {name}", round(1 / median(seconds[name])), "per second and core") for name in cpu),
        plain(f"{broker}: {MANY}, nothing cached", round(1 / cold), "per second and core"),
        plain(f"{broker}: logout, {EVENTS_PER_MESSAGE} in a message", round(1 / logouts), "per second and core"),
        *(plain(f"{broker}: {name}, the worker's CPU", median(cpu[name]) * 1e6, "microseconds") for name in cpu),
        *latencies,
        plain(f"{broker}: worker's resident memory, idle", idle / MIB, "MiB"),
        plain(f"{broker}: the same at most, one event in a message", small / MIB, "MiB"),
        plain(f"{broker}: the same at most, {EVENTS_PER_MESSAGE} in a message", peak / MIB, "MiB"),
        plain(
            f"{broker}: a message of {EVENTS_PER_MESSAGE} in flight in the worker", (peak - small) / HELD / MIB, "MiB"
        ),
        plain(f"{broker}: a message of {EVENTS_PER_MESSAGE} on the wire", len(body) / 1024, "KiB"),
    ]


def _rounds(lab: Lab) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Return the seconds per task, event or round trip of each round, and the worker's CPU seconds per task or event.

    Each run returns its own time, because timing begins only when its queue has been filled.
    """
    contenders: dict[str, tuple[Callable[[], float], int]] = {
        EMPTY: (lambda: lab.time_empty_tasks(MESSAGES), MESSAGES),
        ONE: (lambda: lab.time_events(MESSAGES, 1), MESSAGES),
        EVALSHA: (lambda: lab.time_round_trips(ROUND_TRIPS), ROUND_TRIPS),
        MANY: (lambda: lab.time_events(USERS, EVENTS_PER_MESSAGE), USERS),
        SOME: (lambda: lab.time_events(SMALL * SMALL_BATCHES, SMALL), SMALL * SMALL_BATCHES),
    }
    names = list(contenders)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    cpu: dict[str, list[float]] = {name: [] for name in names if name != EVALSHA}
    for number in range(ROUNDS):
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            run, count = contenders[name]
            seconds[name].append(run() / count)
            if name in cpu:
                cpu[name].append(lab.spent / count)
    return seconds, cpu


def _latencies(broker: str, lab: Lab, size: int, highest: float) -> list[Figure]:
    """Measure from publish to visible, at fractions of the highest rate that was measured for messages of this size."""
    figures = []
    for part in PARTS:
        offer = Offer(part * highest / size, LATENCY_SECONDS, size, lab.users, lab.next_version)
        latencies, late = measure(lab, offer)
        said = f"{broker}: {size} in a message, {part:.0%} of that rate"
        figures += [
            plain(f"{said}, publish to visible, p50", percentile(latencies, 0.5) * 1e3, "milliseconds"),
            plain(f"{said}, publish to visible, p99", percentile(latencies, 0.99) * 1e3, "milliseconds"),
            plain(f"{said}, published late by, p99", percentile(late, 0.99) * 1e3, "milliseconds"),
        ]
    return figures
