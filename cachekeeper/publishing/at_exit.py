"""Flushes buffers before this process ends: normally, as a `multiprocessing` child or, if asked, by SIGTERM."""

from __future__ import annotations

import _thread
import atexit
import os
import signal
import sys
import threading
from importlib import import_module
from typing import Any, Protocol

from cachekeeper.runtime.forks import after_fork


class Unfinished(Protocol):
    """An object with something left to do before the process ends."""

    def finish(self) -> None:
        """Do what is left, within a time limit. Raises nothing."""


class _End:
    """The end of this process, and the objects that must finish before it."""

    def __init__(self) -> None:
        self.unfinished: set[Unfinished] = set()
        self.after_fork()

    def after_fork(self) -> None:
        # The unfinished objects belong to the parent, and the thread that was finishing them does not exist here.
        self.unfinished.clear()
        self.kind = threading.Lock
        self.finishing = threading.Lock()
        self.exiting = False
        self.terminated = False

    def finish(self) -> None:
        if self.kind is not threading.Lock:
            # gevent has patched the process since this lock was made. A greenlet that waits for such an old lock also
            # blocks the greenlet that holds it and waits for the broker. The process would then hang when a SIGTERM is
            # followed by the end of the interpreter.
            self.kind, self.finishing = threading.Lock, threading.Lock()
        with self.finishing:
            for one in list(self.unfinished):
                one.finish()
                self.unfinished.discard(one)

    def on_exit(self) -> None:
        self.exiting = True
        _resolve_without_threads()
        self.finish()
        if self.terminated:
            # A SIGTERM came, and the main thread ended while the other thread was finishing. So end by SIGTERM.
            os.kill(os.getpid(), signal.SIGTERM)

    def on_sigterm(self, _number: int, _frame: object) -> None:
        if self.exiting:
            return  # `on_exit` is finishing already
        # A second SIGTERM ends the process at once.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        self.terminated = True
        # In another thread, because the code that this handler interrupted may hold the locks that finishing needs. In
        # a bare one, because `threading` has locks of its own.
        _thread.start_new_thread(self.finish_and_end, ())

    def finish_and_end(self) -> None:
        self.finish()
        os.kill(os.getpid(), signal.SIGTERM)


def _resolve_without_threads() -> None:
    """Let gevent resolve host names in this thread: its pool needs threads, and an ending CPython 3.12 starts none."""
    monkey: Any = sys.modules.get("gevent.monkey")
    if monkey is not None and monkey.is_module_patched("socket"):
        sys.modules["gevent"].get_hub().resolver = import_module("gevent.resolver.blocking").Resolver()


_end = _End()


def remember(one: Unfinished) -> None:
    """Have `one` finish before this process ends. It is kept alive until then, even if no other code refers to it."""
    if one in _end.unfinished:
        return
    _end.unfinished.add(one)
    if "multiprocessing.util" in sys.modules:
        from multiprocessing.util import Finalize  # noqa: PLC0415  # imported already, so it costs nothing

        # In most versions of Python a forked child runs no `atexit` handlers.
        Finalize(None, _end.finish, exitpriority=0)


def forget(one: Unfinished) -> None:
    """Drop `one`, which has nothing left to do."""
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
