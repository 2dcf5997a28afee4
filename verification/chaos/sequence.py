"""Carry out runs one after the other. A run that aborts is noted, and the next run starts with new servers."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


class Closing(Protocol):
    """Something that must be closed: a stack."""

    def close(self) -> None:
        """End everything."""


S = TypeVar("S", bound=Closing)


def play(
    seeds: Iterable[int],
    *,
    start: Callable[[], S],
    run: Callable[[S, int], None],
    abort: Callable[[S | None, int, str], None],
) -> None:
    """Carry out a run for each seed.

    Args:
        seeds: the seeds of the runs.
        start: starts servers and processes, which serve until a run aborts.
        run: carries out one run and uses its outcome.
        abort: called with the servers (None: they did not start), the seed and the reason. Then the servers are closed.

    Raises:
        Exception: the first servers did not start, so that no run could take place.
    """
    stack: S | None = start()
    try:
        for seed in seeds:
            try:
                stack = stack or start()
                run(stack, seed)
            except Exception as error:  # noqa: BLE001  # after any error the run has no verdict, and that is stored
                abort(stack, seed, reason_of(error))
                _close(stack)
                stack = None
    finally:
        _close(stack)


def _close(stack: S | None) -> None:
    if stack is not None:
        try:
            stack.close()
        except Exception as error:  # noqa: BLE001  # the guardian ends the rest together with this process
            print(f"the servers did not close cleanly: {reason_of(error)}", flush=True)


def reason_of(error: BaseException) -> str:
    """Return an error's last line and where it was raised, without directories, which differ between machines."""
    *_, last = traceback.format_exception_only(error)
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno}, in {frames[-1].name})" if frames else ""
    return last.strip() + place
