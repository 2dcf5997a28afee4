"""The figures of one run, and when they make it clean."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

KINDS: Mapping[str, str] = {
    "stale": "reads older than an acknowledged version",
    "stuck": "keys that stay old after the drain",
    "lost": "events that were committed and never applied",
    "wrong_key": "answers of another key, or never written",
    "untyped": "errors that are no typed outage",
    "block_ttls": "blocks that end at another time than their document says",
    "ttls": "keys that live longer than they may",
    "markers_ahead": "keys with a version above the document's, which would refuse every fill",
    "dead_letters": "events given up as dead letters",
    "undrained": "runs in which not everything was applied in time after the last fault",
    "unready": "runs in which Redis did not become *ready* in time after that",
    "unanswered": "lookups without an answer when nothing was going on any more",
}
"""The ways to break a promise: each is a count in the row of its run, of the violations of that name. None may be."""

READER_THREADS = 12
"""Of all readers: one moment without an answer is met by each of them, once."""

OUTAGES = 0.05
"""Of all reads, at most. What is cached is read on while MongoDB is away, and MongoDB is asked while Redis is: a read
has no answer only where both fail it. A run whose reads mostly fail would say nothing of staleness."""

UNCACHED = 0.5
"""Of all reads, at most. What MongoDB answers past the cache is never stale: a run in which Redis is left alone most
of the time would say nothing."""

CALM_OUTAGES = 0.01
"""Of the reads while no fault could have touched them; of few of these, one for each reader's thread. Not none: two
shared cores may keep a server from answering within a time limit of 0.3 seconds without any fault. After the drain it
is none: such a read is a broken promise.

Of changes given up, none: a fault lasts 2.5 seconds at most, and a writer tries for a minute."""


@dataclass(frozen=True, slots=True)
class Row:
    """The figures of one run, as they are stored.

    Attributes:
        seed, series, broker, duration: of the run.
        operations: changes that were committed, and reads that had an answer.
        reads, reads_after_ack: those that were checked, and those of keys with an acknowledged version among them.
        faults: how many of each kind came about.
        errors: reads without an answer, by the type of the error.
        stale, stuck, lost, wrong_key, untyped, block_ttls, ttls, markers_ahead, dead_letters, undrained, unready,
            unanswered: see `KINDS`.
        uncached: questions to MongoDB past the cache, since Redis did not answer or was not *ready*.
        given_up: changes that a writer tried to make for a minute, in vain.
        calm_reads, calm_outages: reads while no fault could have touched them, and those that ended in a typed outage.
        ended: processes that ended by themselves, and were started again.
        staleness: the longest from a commit to the last read of an older version, seconds; it was at least that.
        recovery: from the end of the last fault until everything was applied, seconds.
        seconds: that the run took, all told.
        aborted: why it came to no verdict; None where it did. Then all counts are 0 and say nothing.
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
        """How often each kind of promise was broken, of those that were."""
        return {kind: count for kind in KINDS if (count := getattr(self, kind))}

    @property
    def bound(self) -> float | None:
        """Of a million reads that could be stale, how many may have been, with 95 % confidence: the rule of three.

        Rounded up. None where a promise was broken, or nothing was read.
        """
        if not self.clean or not self.reads_after_ack:
            return None
        return math.ceil(3e9 / self.reads_after_ack) / 1000

    @property
    def available(self) -> bool:
        """Whether outages were no more than the faults can account for, and no change was given up."""
        outages = sum(self.errors.values())
        return (
            not self.given_up
            and outages <= OUTAGES * (self.reads + outages)
            and self.calm_outages <= max(CALM_OUTAGES * self.calm_reads, READER_THREADS)
        )

    @property
    def enough(self) -> bool:
        """Whether so much went on, and by way of Redis, that it says something, and no process ended by itself."""
        least = ((self.reads_after_ack, 100), (self.changes, 5), (sum(self.faults.values()), 1))
        asked = self.uncached <= UNCACHED * self.reads
        return not self.ended and asked and all(count >= a_second * self.duration for count, a_second in least)

    @property
    def clean(self) -> bool:
        """Whether every promise was kept, by a run that could have broken one."""
        return self.aborted is None and self.enough and self.available and not self.kinds
