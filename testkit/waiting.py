"""Waiting for a condition, with a deadline; and waits that take no time."""

import threading
import time
from collections.abc import Callable
from typing import TypeVar

Seen = TypeVar("Seen")


class Waits(threading.Event):
    """An event that nobody waits for: it remembers how long each wait would have been.

    Attributes:
        seconds: of each wait, in order.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.seconds.append(timeout or 0)
        return self.is_set()


def wait_until(condition: Callable[[], Seen], what: str, seconds: float = 30.0) -> Seen:
    """Ask again and again until the answer is true, and return it.

    Args:
        condition: asked every 20 ms.
        what: is waited for, for the message.
        seconds: how long.

    Raises:
        AssertionError: it was not true in time.
    """
    deadline = time.monotonic() + seconds
    while not (seen := condition()):
        assert time.monotonic() < deadline, f"after {seconds:g} s still not: {what}"
        time.sleep(0.02)
    return seen
