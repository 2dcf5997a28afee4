"""Waiting for a condition, with a deadline; and an event whose waits are noted and return at once."""

import threading
import time
from collections.abc import Callable
from typing import TypeVar

Seen = TypeVar("Seen")


class Waits(threading.Event):
    """An event whose `wait` returns at once, and notes how long the wait would have been.

    Attributes:
        seconds: the length of each wait, in order.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.seconds.append(timeout or 0)
        return self.is_set()


def wait_until(condition: Callable[[], Seen], what: str, seconds: float = 30.0) -> Seen:
    """Call `condition` repeatedly until its result is true, and return that result.

    Args:
        condition: called every 20 ms.
        what: the awaited state, for the message.
        seconds: the time limit.

    Raises:
        AssertionError: the result was not true in time.
    """
    deadline = time.monotonic() + seconds
    while not (seen := condition()):
        assert time.monotonic() < deadline, f"after {seconds:g} s still not: {what}"
        time.sleep(0.02)
    return seen
