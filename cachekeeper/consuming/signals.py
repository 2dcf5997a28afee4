"""The errors that signal handlers raise during a worker's work, which say nothing about the event."""

from __future__ import annotations

import threading

from celery.exceptions import WorkerShutdown, WorkerTerminate

_RAISED = (WorkerShutdown, WorkerTerminate, KeyboardInterrupt)


def signal_errors() -> tuple[type[BaseException], ...]:
    """Return the errors that signal handlers may raise in this thread. They end the worker; no event causes them.

    Python runs signal handlers in the main thread, in the middle of its work. With Celery's pool `threads`, other
    threads apply events: an error of these types there comes from the event's own handler. With `-P solo`, the main
    thread applies events.

    Returns:
        Exception classes for an `except` clause, which calls this function only if there is an error.
    """
    return _RAISED if threading.current_thread() is threading.main_thread() else ()
