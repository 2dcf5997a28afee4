"""A core for the worker alone, where the platform can do that; everything else on the others."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import psutil


def available() -> set[int]:
    """The cores that this process may use; none where the platform cannot tell."""
    return os.sched_getaffinity(0) if sys.platform == "linux" else set()


def of_the_worker(cores: set[int]) -> set[int]:
    """One of them."""
    return {max(cores)} if cores else set()


def of_all_others(cores: set[int]) -> set[int]:
    """The others; the same where there is one only."""
    return cores - of_the_worker(cores) or cores


def keep_to(pid: int, cores: set[int]) -> None:
    """Keep a process and all of its threads to these cores; threads and children that it starts stay there, too."""
    if sys.platform == "linux" and cores:
        for thread in psutil.Process(pid).threads():
            os.sched_setaffinity(thread.id, cores)


@contextmanager
def kept_to(cores: set[int]) -> Iterator[None]:
    """This thread, and whatever it starts, on these cores."""
    if sys.platform != "linux" or not cores:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
