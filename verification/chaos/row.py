"""The figures of one run, and the conditions under which the run is clean."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

KINDS: Mapping[str, str] = {
    "stale": "reads older than an acknowledged version",
    "stuck": "keys that stay old after the drain",
    "lost": "events that were committed and never applied",
    "wrong_key": "answers of another key, or never written",
    "untyped": "errors that are not typed outages",
    "block_ttls": "blocks that end at another time than their document says",
    "ttls": "keys that live longer than they may",
    "markers_ahead": "keys with a version above the document's, which would refuse every fill",
    "dead_letters": "events given up as dead letters",
    "undrained": "runs in which not everything was applied in time after the last fault",
    "unready": "runs in which Redis did not become *ready* in time after that",
    "unanswered": "lookups without an answer when nothing was going on any more",
}
"""The kinds of broken promise. A run's row counts the violations of each kind; every count must be 0."""

READER_THREADS = 12
"""Threads of all readers together. A single moment without an answer can cost each thread one read."""

OUTAGES = 0.05
"""Largest share of all reads that may get no answer. Cached values are served while MongoDB is down, and MongoDB is
asked while Redis is down, so a read gets no answer only if both fail. A run whose reads mostly fail proves nothing
about staleness."""

UNCACHED = 0.5
"""Largest share of all reads that MongoDB may answer past the cache. Such an answer is never stale, so a run that
hardly uses Redis proves nothing."""

CALM_OUTAGES = 0.01
"""Largest share of the calm reads (those that no fault could touch) that may get no answer. If there are few calm
reads, one for each reader thread is allowed. The share is above 0 because two shared cores can delay a server beyond
its time limit of 0.3 seconds without any fault. After the drain the limit is 0: a read without an answer is then a
broken promise.

No change may be given up: a fault lasts at most 2.5 seconds, and a writer tries for a minute."""


@dataclass(frozen=True, slots=True)
class Row:
    """The figures of one run, as they are stored.

    Attributes:
        seed, series, broker, duration: those of the run.
        operations: number of committed changes and of reads that got an answer.
        changes: number of committed changes.
        reads: number of checked reads.
        reads_after_ack: number of checked reads of keys that had an acknowledged version.
        faults: number of injected faults of each kind.
        errors: number of reads without an answer, by the type of the error.
        stale, stuck, lost, wrong_key, untyped, block_ttls, ttls, markers_ahead, dead_letters, undrained, unready,
            unanswered: see `KINDS`.
        uncached: loads that asked MongoDB past the cache, because Redis did not answer or was not *ready*.
        given_up: changes that a writer tried to make for a minute, without success.
        calm_reads, calm_outages: reads that no fault could touch, and those of them that ended in a typed outage.
        ended: processes that ended by themselves, and were started again.
        staleness: the longest time seen from a commit to a read of an older version, in seconds. A lower bound.
        recovery: seconds from the end of the last fault until everything was applied and Redis was *ready*.
        seconds: how long the whole run took.
        aborted: why the run came to no verdict; None if it has one. If aborted, all counts are 0 and mean nothing.
    """

    seed: int
    series: str
    broker: str
    duration: float
    operations: int = 0
    changes: int = 0
    reads: int = 0
    reads_after_ack: int = 0
    faults: dict[str, int] = field(default_factory=dict)
    errors: dict[str, int] = field(default_factory=dict)
    stale: int = 0
    stuck: int = 0
    lost: int = 0
    wrong_key: int = 0
    untyped: int = 0
    block_ttls: int = 0
    ttls: int = 0
    markers_ahead: int = 0
    dead_letters: int = 0
    undrained: int = 0
    unready: int = 0
    unanswered: int = 0
    uncached: int = 0
    given_up: int = 0
    calm_reads: int = 0
    calm_outages: int = 0
    ended: list[str] = field(default_factory=list)
    staleness: float = 0.0
    recovery: float = 0.0
    seconds: float = 0.0
    aborted: str | None = None

    @property
    def kinds(self) -> dict[str, int]:
        """The number of violations by kind, for the kinds that the run has."""
        return {kind: count for kind in KINDS if (count := getattr(self, kind))}

    @property
    def bound(self) -> float | None:
        """The 95 % upper bound of stale reads per million reads that could be stale, by the rule of three.

        Rounded up. None if the run is not clean, or if no read could be stale.
        """
        if not self.clean or not self.reads_after_ack:
            return None
        return math.ceil(3e9 / self.reads_after_ack) / 1000

    @property
    def available(self) -> bool:
        """Whether the faults can account for all outages, and no change was given up."""
        outages = sum(self.errors.values())
        return (
            not self.given_up
            and outages <= OUTAGES * (self.reads + outages)
            and self.calm_outages <= max(CALM_OUTAGES * self.calm_reads, READER_THREADS)
        )

    @property
    def enough(self) -> bool:
        """Whether enough happened, and went through Redis, to prove something; and no process ended by itself."""
        least = ((self.reads_after_ack, 100), (self.changes, 5), (sum(self.faults.values()), 1))
        asked = self.uncached <= UNCACHED * self.reads
        return not self.ended and asked and all(count >= a_second * self.duration for count, a_second in least)

    @property
    def clean(self) -> bool:
        """Whether the run kept every promise and did enough that a broken one would have shown."""
        return self.aborted is None and self.enough and self.available and not self.kinds
