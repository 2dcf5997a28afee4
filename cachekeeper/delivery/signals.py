"""What signal handlers raise amid the work of a worker, where they can."""

from __future__ import annotations

import threading

from celery.exceptions import WorkerShutdown, WorkerTerminate

_RAISED = (WorkerShutdown, WorkerTerminate, KeyboardInterrupt)


def signal_errors() -> tuple[type[BaseException], ...]:
    """The errors that signal handlers may raise in this thread: they end the worker, and say nothing of the event.

    Python runs signal handlers in the main thread, amid whatever that is doing. With Celery's pool threads that is
    never an event; with `-P solo` it is. In another thread there are none: an error of these types is a handler's own.

    Returns:
        For an `except` clause, which asks when there is an error.
    """
    return _RAISED if threading.current_thread() is threading.main_thread() else ()
