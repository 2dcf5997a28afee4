"""Runs one after the other: one that aborts is noted, and the next one goes on with servers of its own."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


class Closing(Protocol):
    """What has to be closed: a stack."""

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
    """Let a run take place for each seed.

    Args:
        seeds: of the runs.
        start: starts servers and processes, which serve until a run aborts.
        run: one run, and what is made of its outcome.
        abort: told of the servers (None: they did not start), the seed and the reason. They are closed afterwards.

    Raises:
        Exception: there were no servers to begin with, so that no run could take place.
    """
    stack: S | None = start()
    try:
        for seed in seeds:
            try:
                stack = stack or start()
                run(stack, seed)
            except Exception as error:  # noqa: BLE001  # whatever it is: the run has no verdict, and that is stored
                abort(stack, seed, reason_of(error))
                _close(stack)
                stack = None
    finally:
        _close(stack)


def _close(stack: S | None) -> None:
    if stack is not None:
        try:
            stack.close()
        except Exception as error:  # noqa: BLE001  # what is left of it ends with this process, by its guardian
            print(f"the servers did not end as they should: {reason_of(error)}", flush=True)


def reason_of(error: BaseException) -> str:
    """The last line of an error's traceback, and where it was raised; no directories, which differ between machines."""
    *_, last = traceback.format_exception_only(error)
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno}, in {frames[-1].name})" if frames else ""
    return last.strip() + place
