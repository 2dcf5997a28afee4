"""Ending with the parent process, for programs that somebody else started and may not come back for."""

import os
import signal
import threading

_AT_IMPORT = (os.getpid(), os.getppid())
"""This process and its parent, asked as early as can be: a parent that dies before that is not noticed."""
LOOK_SECONDS = 0.2


def end_with_parent() -> None:
    """From now on, send this process a SIGTERM when its parent dies. Once is enough."""
    own, parent = _AT_IMPORT
    if own != os.getpid():  # a fork of the process that imported this module
        parent = os.getppid()
    threading.Thread(target=_watch, args=(parent,), name="end-with-parent", daemon=True).start()


def _watch(parent: int) -> None:
    # An orphan gets another parent at once, also when the dead one stays a zombie: asking for its id, as `kill -0`
    # does, would find the zombie, or whoever has the number next.
    alarm = threading.Event()
    while os.getppid() == parent:
        alarm.wait(LOOK_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)
