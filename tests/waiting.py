"""Waiting for a condition, with a deadline."""

import time
from collections.abc import Callable
from typing import TypeVar

Seen = TypeVar("Seen")


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
