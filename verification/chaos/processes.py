"""The processes of a run: workers, relays, and the remote control of readers and writers."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cachekeeper.devservers import Guardian, ServerProcess
from cachekeeper.devservers.worker_process import WorkerProcess
from verification.chaos import proxied_command

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.connection import Connection

_ANSWER_SECONDS = 180.0
"""Longer than a writer needs to make or give up its last change, and longer than a reader needs for a sweep."""


class Worker(WorkerProcess):
    """A worker that is started without waiting for it to be ready: the servers it needs may be down at that moment."""

    def _not_ready(self) -> str | None:
        return None


class Command(ServerProcess):
    """`cachekeeper relay` or `cachekeeper stream`, with its connections led through the proxy."""

    listens = False

    def __init__(self, guardian: Guardian, command: str, environment: Mapping[str, str], directory: Path) -> None:
        super().__init__(guardian, command, directory=directory)
        self._verb = command
        self._variables = {**os.environ, "PYTHONUNBUFFERED": "1", **environment}

    def _command(self) -> Sequence[str]:
        return [sys.executable, "-m", proxied_command.__name__, self._verb]

    def _environment(self) -> Mapping[str, str]:
        return self._variables

    def _not_ready(self) -> str | None:
        return None


class Remote:
    """A reader or writer process, controlled through a pipe."""

    def __init__(self, target: Callable[..., None], *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe: Connection
        self._pipe, other = context.Pipe()
        self._lock = threading.Lock()
        self._process = context.Process(target=target, args=(other, *arguments), daemon=True)
        self._process.start()
        other.close()

    def ask(self, verb: str, argument: object = None) -> Any:
        """Send a command to the process, and wait for the answer."""
        self.tell(verb, argument)
        return self.answer()

    def tell(self, verb: str, argument: object = None) -> None:
        """Send a command to the process. Call `answer` next."""
        self._lock.acquire()
        self._pipe.send((verb, argument))

    def answer(self) -> Any:
        """Wait for the answer to the last command.

        Raises:
            TimeoutError: the process did not answer in time.
            EOFError: the process has ended.
        """
        try:
            if not self._pipe.poll(_ANSWER_SECONDS):
                raise TimeoutError(f"{self._process.name} did not answer within {_ANSWER_SECONDS:g} s")
            return self._pipe.recv()
        finally:
            self._lock.release()

    def close(self) -> None:
        """End the process."""
        self._pipe.close()
        self._process.join(5)
        self._process.kill()
