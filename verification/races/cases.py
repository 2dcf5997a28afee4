"""The cases by name. In each, every judged read begins after an acknowledgement."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from verification.races import cases_events, cases_loads, cases_others
from verification.races.stage import Stage

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True)
class Case:
    """One interleaving.

    Attributes:
        name: the row in the table.
        play: plays the interleaving.
    """

    name: str
    play: Callable[[Stage], None]

    @property
    def text(self) -> str:
        """The steps, as the table explains them."""
        return " ".join((self.play.__doc__ or "").split())


CASES = tuple(
    Case(name, play) for module in (cases_loads, cases_events, cases_others) for name, play in module.PLAYS.items()
)
