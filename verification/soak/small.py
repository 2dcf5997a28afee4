"""A soak that is short enough for a test."""

from __future__ import annotations

from typing import TYPE_CHECKING

from verification.soak.__main__ import soak
from verification.soak.results import figures_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cachekeeper.devservers import Guardian
    from verification.soak.sampling import Soaked

_RATE = 150.0
_VISIBILITY = 10  # seconds until Redis delivers again; the shipped minute would slow the tests down
_SEED = 3


def small_soak(
    guardian: Guardian, brokers: Sequence[str], seconds: float, *, cut_seconds: float, mutant: str = ""
) -> dict[str, Soaked]:
    """Run a soak on these brokers side by side, with connections cut every `cut_seconds`."""
    return soak(
        guardian,
        brokers,
        seconds,
        rate=_RATE,
        cut_seconds=cut_seconds,
        seed=_SEED,
        mutant=mutant,
        visibility=_VISIBILITY,
    )


def missed(kind: str, soaked: Soaked) -> set[str]:
    """The figures of one broker that missed their targets."""
    return {each.figure.removeprefix(f"{kind}: ") for each in figures_of(kind, soaked) if each.held is False}
