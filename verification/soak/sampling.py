"""What is measured of the processes, second by second."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from collections.abc import Mapping

MEMORY, THREADS, FILES, CONNECTIONS = "memory", "threads", "file descriptors", "TCP connections"
METRICS = {MEMORY: "MiB", THREADS: "", FILES: "", CONNECTIONS: ""}
_MIB = 1 << 20


@dataclass(frozen=True)
class Sample:
    """One moment.

    Attributes:
        at: seconds since the load began.
        cuts: how often connections had been cut by then.
        calm: for how many seconds the worker has been connected to the broker since the last cut; 0: it is not.
        events: how many were published by then.
        levels: by process, then by metric: how much of it there is.
    """

    at: float
    cuts: int
    calm: float
    events: int
    levels: Mapping[str, Mapping[str, float]]


def levels_of(process: psutil.Process) -> dict[str, float]:
    """How much of each metric a process has now."""
    with process.oneshot():
        return {
            MEMORY: process.memory_info().rss / _MIB,
            THREADS: process.num_threads(),
            FILES: process.num_fds(),
            CONNECTIONS: len(process.net_connections("tcp")),
        }


@dataclass
class Soaked:
    """What a run came to.

    Attributes:
        duration: how long the load lasted, in seconds.
        samples: in order.
        prefetch: what the worker fetches at most, by each of its reports.
        granted: the same by the broker's own account, where it has one.
        in_hand: messages that the worker had in hand, by each of its reports.
        queued: messages that waited in the queue, at each look at the broker.
        unacked: messages in flight by the broker's account, at each look.
        connected: connections that the broker had, at each look.
        failed_looks: why a look at the broker failed, one text for each that did.
        looks_due: how many looks at the broker the duration has room for.
        configured: the prefetch as configured.
        published: events that the broker confirmed.
        applied: how many of them a worker applied.
        twice: how many more times it did.
        retries: how often the publisher had to try again.
        reads: how many there were, and `read_errors` of them failed.
        stale: keys that are not as MongoDB in the end.
        cached: keys of users that are there in the end.
        waiting, held: messages that are left in the queue and in flight.
        letters: dead letters.
        keys: left in the Redis of the broker; None for RabbitMQ.
        reconnects: how often the worker connected to the broker again.
        spent: by process, its CPU time since it started, in seconds.
        load: the machine's load averages over one minute, one a sample.
    """

    duration: float
    samples: list[Sample] = field(default_factory=list)
    prefetch: list[int] = field(default_factory=list)
    granted: list[int] = field(default_factory=list)
    in_hand: list[int] = field(default_factory=list)
    queued: list[int] = field(default_factory=list)
    unacked: list[int] = field(default_factory=list)
    connected: list[int] = field(default_factory=list)
    failed_looks: list[str] = field(default_factory=list)
    looks_due: float = 0
    configured: int = 0
    published: int = 0
    applied: int = 0
    twice: int = 0
    retries: int = 0
    reads: int = 0
    read_errors: int = 0
    stale: int = 0
    cached: int = 0
    waiting: int = 0
    held: int = 0
    letters: int = 0
    keys: int | None = None
    reconnects: int = 0
    spent: dict[str, float] = field(default_factory=dict)
    load: list[float] = field(default_factory=list)
