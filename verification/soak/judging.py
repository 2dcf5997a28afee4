"""Judge whether a series is flat.

Right after a cut there are fewer connections than before, and sometimes more. So only the calm seconds before each cut
count, in which the worker is connected again. Their median is one point. These points, without those of the warm-up,
must not rise:

- the *rise* is the median of the last third minus the median of the first third. One outlier changes neither median;
- the *slope* is Theil-Sen's: the median of the slopes between all pairs of points, per hour. It needs many points, so
  only a long run is judged by it.

A short run finds a leak at each cut or at each event. Only a long run finds a small leak per hour.
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
"""A run of at least this duration is judged by its slopes, too."""
_LEAST_POINTS = 6
LEAST_CUTS = 9
"""With so many cuts, enough points are left after the warm-up."""
_HOUR = 3600.0


@dataclass(frozen=True)
class Limits:
    """The limits within which a series counts as flat.

    Attributes:
        warm_up: the part of the run, from its beginning, that does not count; 1/4 is a quarter.
        rise: the largest allowed rise, by metric.
        slope: the largest allowed slope per hour, by metric; None if the run is too short to be judged by it.
    """

    warm_up: float
    rise: Mapping[str, float]
    slope: Mapping[str, float] | None


# A publisher with four threads has three or four connections, by chance. On Redis, each of them is two sockets.
SHORT = Limits(1 / 3, {MEMORY: 8.0, THREADS: 2, FILES: 6, CONNECTIONS: 6}, None)
LONG = Limits(
    1 / 4,
    {MEMORY: 6.0, THREADS: 2, FILES: 3, CONNECTIONS: 3},
    {MEMORY: 8.0, THREADS: 2, FILES: 3, CONNECTIONS: 3},
)


def limits_of(duration: float) -> Limits:
    """The limits for a run of this duration in seconds."""
    return LONG if duration >= LONG_SECONDS else SHORT


@dataclass(frozen=True)
class Trend:
    """The trend of a series.

    Attributes:
        start: the median of the first third.
        rise: the median of the last third minus `start`.
        slope: the slope per hour.
    """

    start: float
    rise: float
    slope: float


def points(samples: Iterable[Sample], process: str, metric: str, *, after: float) -> list[tuple[float, float]]:
    """One point before each cut: its time, and the median of the calm samples since the previous cut.

    Args:
        samples: the samples of the run, in order.
        process: the process to look at.
        metric: one of `METRICS`.
        after: seconds since the load began; earlier points do not count.
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
    """Compute the trend of a series.

    Raises:
        ValueError: the series has too few points.
    """
    if len(series) < _LEAST_POINTS:
        raise ValueError(
            f"{len(series)} points are too few; at least {_LEAST_POINTS} calm ones are needed: make the run longer"
        )
    third = len(series) // 3
    start = median(level for _, level in series[:third])
    end = median(level for _, level in series[-third:])
    slopes = [(b - a) / (until - at) for (at, a), (until, b) in combinations(series, 2)]
    return Trend(start, end - start, median(slopes) * _HOUR)
