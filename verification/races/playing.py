"""Play a case, and say how it ended."""

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
    ERROR = "error"  # no read was stale, but a call failed
    NOT_APPLICABLE = "n/a"


@dataclass(frozen=True)
class Ended:
    """How a case ended.

    Attributes:
        ending: the result.
        why: the reads with a wrong answer, the errors, or the reason why it cannot be played.
    """

    ending: Ending
    why: str = ""


class _Complaints(logging.Handler):
    """Collect errors that libraries log instead of raising them: a swallowed error counts as an error."""

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
    """Play one case with one contender."""
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
            Ending.STALE, "; ".join(f"read {seen!r}, true is {true!r}" for seen, true in stage.judged if seen != true)
        )
    if stage.errors:
        return Ended(Ending.ERROR, ", ".join(stage.errors))
    return Ended(Ending.FRESH)
