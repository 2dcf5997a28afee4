"""The errors that signal handlers raise amid the work of a worker: they say nothing of the event."""

from __future__ import annotations

import threading

from celery.exceptions import WorkerShutdown, WorkerTerminate

_RAISED = (WorkerShutdown, WorkerTerminate, KeyboardInterrupt)


def signal_errors() -> tuple[type[BaseException], ...]:
    """The errors that signal handlers may raise in this thread: they end the worker, and say nothing of the event.

    Python runs signal handlers in the main thread, amid whatever that is doing. Celery's pool threads apply events in
    other threads, where an error of these types was raised by an event's own handler. With `-P solo` the main thread
    applies them.

    Returns:
        For an `except` clause, which asks when there is an error.
    """
    return _RAISED if threading.current_thread() is threading.main_thread() else ()
