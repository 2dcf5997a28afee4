"""Whether a series is flat.

Right after a cut there are fewer connections than before, and sometimes more: what counts is the median of the calm
seconds before each cut, in which the worker is connected again. These points, without those of the warm-up, must not
rise:

- the *rise* is the median of the last third less the median of the first third; one outlier moves neither;
- the *slope* is Theil-Sen's: the median of the slopes between all pairs of points. It needs many points, so only a long
  run is judged by it, per hour.

A short run finds what leaks at each cut or at each event. What leaks a little an hour only a long run finds.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from statistics import median
from typing import TYPE_CHECKING

from verification.soak.sampling import CONNECTIONS, FILES, MEMORY, THREADS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from verification.soak.sampling import Sample

LONG_SECONDS = 1200.0
"""A run that is as long as this is judged by its slopes, too."""
_LEAST_POINTS = 6
_HOUR = 3600.0


@dataclass(frozen=True)
class Limits:
    """What still counts as flat.

    Attributes:
        warm_up: which part of the run does not count.
        rise: by metric, how much more there may be in the end.
        slope: by metric, how much more per hour; None: the run is too short to tell.
    """

    warm_up: float
    rise: Mapping[str, float]
    slope: Mapping[str, float] | None


# A publisher of four threads has three connections or four, as it happens; each is two sockets with Redis.
SHORT = Limits(1 / 3, {MEMORY: 8.0, THREADS: 2, FILES: 6, CONNECTIONS: 6}, None)
LONG = Limits(
    1 / 4,
    {MEMORY: 6.0, THREADS: 2, FILES: 3, CONNECTIONS: 3},
    {MEMORY: 8.0, THREADS: 2, FILES: 3, CONNECTIONS: 3},
)


def limits_of(duration: float) -> Limits:
    """Those of a run of so many seconds."""
    return LONG if duration >= LONG_SECONDS else SHORT


@dataclass(frozen=True)
class Trend:
    """How a series went.

    Attributes:
        start: the median of the first third.
        rise: of the last third above it.
        slope: per hour.
    """

    start: float
    rise: float
    slope: float


def points(samples: Iterable[Sample], process: str, metric: str, *, after: float) -> list[tuple[float, float]]:
    """One point before each cut: when, and the median of the calm samples since the cut before.

    Args:
        samples: in order.
        process: whose.
        metric: of `METRICS`.
        after: seconds since the beginning: what came earlier does not count.
    """
    calm: dict[int, list[Sample]] = {}
    for sample in samples:
        calm.setdefault(sample.cuts, []).append(sample)
    found = []
    for each in calm.values():
        longest = max(sample.calm for sample in each)
        settled = [sample for sample in each if sample.calm and sample.calm >= longest / 2 and process in sample.levels]
        if settled and settled[-1].at >= after:
            found.append((settled[-1].at, median(sample.levels[process][metric] for sample in settled)))
    return found


def trend(series: Sequence[tuple[float, float]]) -> Trend:
    """How it went.

    Raises:
        ValueError: too few points to tell anything.
    """
    if len(series) < _LEAST_POINTS:
        raise ValueError(f"{len(series)} points are too few; at least {_LEAST_POINTS} calm ones are needed")
    third = len(series) // 3
    start = median(level for _, level in series[:third])
    end = median(level for _, level in series[-third:])
    slopes = [(b - a) / (until - at) for (at, a), (until, b) in combinations(series, 2)]
    return Trend(start, end - start, median(slopes) * _HOUR)
