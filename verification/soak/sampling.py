"""Measurements of the processes, second by second."""

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
    """The measurements of one moment.

    Attributes:
        at: seconds since the load began.
        cuts: how often connections had been cut by then.
        calm: for how many seconds the worker has been connected to the broker since the last cut; 0 if it is not
            connected.
        events: how many events were published by then.
        levels: the measured amounts, by process, then by metric.
    """

    at: float
    cuts: int
    calm: float
    events: int
    levels: Mapping[str, Mapping[str, float]]


def levels_of(process: psutil.Process) -> dict[str, float]:
    """Measure a process now, by metric."""
    with process.oneshot():
        return {
            MEMORY: process.memory_info().rss / _MIB,
            THREADS: process.num_threads(),
            FILES: process.num_fds(),
            CONNECTIONS: len(process.net_connections("tcp")),
        }


@dataclass
class Soaked:
    """The measurements and results of a run.

    Attributes:
        duration: how long the load lasted, in seconds.
        samples: one each second, in order.
        prefetch: the prefetch that the worker applied, in each of its reports.
        granted: the prefetch that the broker granted, at each look; empty for Redis, which grants none.
        in_hand: how many messages the worker had received and not finished, in each of its reports.
        queued: how many messages waited in the queue, at each look at the broker.
        unacked: how many messages were in flight according to the broker, at each look.
        connected: how many connections the broker had, at each look.
        failed_looks: the error of each look at the broker that failed, as text.
        looks_due: how many looks at the broker fit into the duration.
        configured: the configured prefetch.
        published: how many events the broker confirmed.
        applied: how many of the published events a worker applied.
        twice: how often a worker applied an event again.
        retries: how often the publisher had to try again.
        reads: how many reads the reader made; `read_errors` of them failed.
        stale: how many cached names differ from MongoDB at the end.
        cached: how many names are cached at the end.
        waiting, held: how many messages are left in the queue and in flight.
        letters: how many dead letters there are.
        keys: how many keys are left in the broker's Redis; None for RabbitMQ.
        reconnects: how often the worker connected to the broker again.
        spent: the CPU time of each process since its start, in seconds.
        load: the machine's load average over one minute, at each sample.
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
