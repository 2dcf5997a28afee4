"""Threads that a test starts, and gates that hold them.

A gate stops the thread that reaches it until the test opens it. So a test forces a race instead of waiting for it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from testkit.limits import LONG


class Gate:
    """Stops the threads that reach it until it is opened."""

    def __init__(self) -> None:
        self._reached = threading.Event()
        self._opened = threading.Event()

    def stop(self) -> None:
        self._reached.set()
        self._opened.wait(LONG)

    @property
    def reached(self) -> bool:
        return self._reached.is_set()

    def wait_for_arrival(self) -> None:
        assert self._reached.wait(LONG), "no thread reached the gate"

    def open(self) -> None:
        self._opened.set()


def opened() -> Gate:
    """Return an open gate, for a thread that must not be stopped."""
    gate = Gate()
    gate.open()
    return gate


@contextmanager
def threads(most: int = 8) -> Iterator[Callable[..., Future[Any]]]:
    """Yield a function that starts calls in threads of their own: `go(function, …)`, then `.result(LONG)`."""
    with ThreadPoolExecutor(most) as pool:
        yield pool.submit
