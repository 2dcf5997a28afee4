"""Known-bad variants, swapped in by the processes of a run. Each must be caught."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

MUTANTS: Mapping[str, Callable[[], None]] = {}


def mutate(name: str | None) -> None:
    """Swap one piece of this process; None changes nothing."""
    if name is not None:
        MUTANTS[name]()
