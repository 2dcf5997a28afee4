"""End this process when its parent dies, so that a killed parent leaves no servers running."""

import os
import signal
import threading

_AT_IMPORT = (os.getpid(), os.getppid())
"""The ids of this process and its parent, read as early as possible: an earlier death of the parent goes unnoticed."""
LOOK_SECONDS = 0.2


def end_with_parent() -> None:
    """Send this process a SIGTERM when its parent dies. One call is enough."""
    own, parent = _AT_IMPORT
    if own != os.getpid():  # a fork of the process that imported this module
        parent = os.getppid()
    threading.Thread(target=_watch, args=(parent,), name="end-with-parent", daemon=True).start()


def _watch(parent: int) -> None:
    # An orphan gets a new parent at once, even while the dead one is still a zombie. Looking for the parent's id, as
    # `kill -0` does, would find the zombie, or a later process with the same id.
    alarm = threading.Event()
    while os.getppid() == parent:
        alarm.wait(LOOK_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)
