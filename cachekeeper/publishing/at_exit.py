"""Flushes buffers before this process ends: by itself, as a child of `multiprocessing`, or, if asked, by SIGTERM."""

from __future__ import annotations

import _thread
import atexit
import os
import signal
import sys
import threading
from typing import Protocol

from cachekeeper.runtime.forks import after_fork


class Unfinished(Protocol):
    """Somebody with something left to do."""

    def finish(self) -> None:
        """Do it, within a time limit. Raises nothing."""


class _End:
    """How this process ends."""

    def __init__(self) -> None:
        self.unfinished: set[Unfinished] = set()
        self.after_fork()

    def after_fork(self) -> None:
        # What is unfinished is the parent's, and whoever was finishing it is not here.
        self.unfinished.clear()
        self.kind = threading.Lock
        self.finishing = threading.Lock()
        self.exiting = False
        self.terminated = False

    def finish(self) -> None:
        if self.kind is not threading.Lock:
            # gevent has patched the process since. A greenlet that waits for a lock of before stops the greenlet that
            # holds it and waits for the broker: SIGTERM, then the end of the interpreter, would hang.
            self.kind, self.finishing = threading.Lock, threading.Lock()
        with self.finishing:
            for one in list(self.unfinished):
                one.finish()
                self.unfinished.discard(one)

    def on_exit(self) -> None:
        self.exiting = True
        self.finish()
        if self.terminated:
            # The main thread has ended while the other one was at it: as what it was, a SIGTERM.
            os.kill(os.getpid(), signal.SIGTERM)

    def on_sigterm(self, _number: int, _frame: object) -> None:
        if self.exiting:
            return  # that is all there is to do
        # A second one ends the process at once.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        self.terminated = True
        # In a thread, since whatever this handler interrupted may hold the locks that finishing needs; and a bare one,
        # since `threading` has locks of its own.
        _thread.start_new_thread(self.finish_and_end, ())

    def finish_and_end(self) -> None:
        self.finish()
        os.kill(os.getpid(), signal.SIGTERM)


_end = _End()


def remember(one: Unfinished) -> None:
    """From now on, `one` is to finish before this process ends; the process keeps it, whoever else forgets it."""
    if one in _end.unfinished:
        return
    _end.unfinished.add(one)
    if "multiprocessing.util" in sys.modules:
        from multiprocessing.util import Finalize  # noqa: PLC0415  # costs nothing where it is imported already

        # A child that was forked calls nothing that `atexit` knows, in most versions of Python.
        Finalize(None, _end.finish, exitpriority=0)


def forget(one: Unfinished) -> None:
    """It has nothing left to do."""
    _end.unfinished.discard(one)


def mind_sigterm() -> None:
    """Finish before a SIGTERM ends this process, unless the program handles or ignores that signal already.

    Raises:
        ValueError: the handler cannot be installed here.
    """
    if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        return
    try:
        signal.signal(signal.SIGTERM, _end.on_sigterm)
    except ValueError as error:
        raise ValueError(
            "flush_on_sigterm: Python installs signal handlers in the main thread only. Make this BufferedPublisher "
            "there, or leave flush_on_sigterm out and call close() before the process ends"
        ) from error


atexit.register(_end.on_exit)
after_fork(_end, _End.after_fork)
