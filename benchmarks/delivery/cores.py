"""Pins the worker to a core of its own, where the platform can do that, and everything else to the other cores."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import psutil


def available() -> set[int]:
    """Return the cores that this process may use; an empty set if the platform cannot tell."""
    return os.sched_getaffinity(0) if sys.platform == "linux" else set()


def of_the_worker(cores: set[int]) -> set[int]:
    """Return the core for the worker."""
    return {max(cores)} if cores else set()


def of_all_others(cores: set[int]) -> set[int]:
    """Return the other cores; the same core if there is only one."""
    return cores - of_the_worker(cores) or cores


def keep_to(pid: int, cores: set[int]) -> None:
    """Pin a process and all of its threads to these cores. Threads and children that it starts later stay there too."""
    if sys.platform == "linux" and cores:
        for thread in psutil.Process(pid).threads():
            os.sched_setaffinity(thread.id, cores)


@contextmanager
def kept_to(cores: set[int]) -> Iterator[None]:
    """Pin this thread, and everything that it starts inside, to these cores."""
    if sys.platform != "linux" or not cores:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
