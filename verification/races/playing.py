"""Plays a case: how did it end?"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from verification.races.stage import NotApplicableError, Servers, Stage

if TYPE_CHECKING:
    from verification.races.adapters import Contender
    from verification.races.cases import Case


class Ending(Enum):
    """How a case can end."""

    FRESH = "fresh"
    STALE = "stale"
    ERROR = "error"  # nobody was told anything stale, but a call failed
    NOT_APPLICABLE = "n/a"


@dataclass(frozen=True)
class Ended:
    """How a case ended.

    Attributes:
        ending: in a word.
        why: the reads that were told something else than what is so, the errors, or why it cannot be played.
    """

    ending: Ending
    why: str = ""


class _Complaints(logging.Handler):
    """What libraries log instead of raising: an error that is swallowed is one all the same."""

    def __init__(self, errors: list[str]) -> None:
        super().__init__(logging.ERROR)
        self._errors = errors

    def emit(self, record: logging.LogRecord) -> None:
        self._errors.append(f"{record.name}: {record.getMessage()}")


@contextmanager
def _listening(errors: list[str]) -> Iterator[None]:
    handler, root = _Complaints(errors), logging.getLogger()
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)


def play(case: Case, contender: Contender, servers: Servers) -> Ended:
    """One case, by one contender."""
    stage = Stage(servers, contender)
    try:
        with _listening(stage.errors):
            case.play(stage)
    except NotApplicableError as reason:
        return Ended(Ending.NOT_APPLICABLE, str(reason))
    finally:
        stage.close()
    if stage.stale:
        return Ended(
            Ending.STALE, "; ".join(f"told {seen!r}, is {true!r}" for seen, true in stage.judged if seen != true)
        )
    if stage.errors:
        return Ended(Ending.ERROR, ", ".join(stage.errors))
    return Ended(Ending.FRESH)
