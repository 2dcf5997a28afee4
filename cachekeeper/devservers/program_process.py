"""A command of `cachekeeper` that runs until it is stopped, as a child process."""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from cachekeeper.devservers.guardian import Guardian
from cachekeeper.devservers.process import ServerProcess


class ProgramProcess(ServerProcess):
    """`cachekeeper COMMAND` under this Python, in the current directory; ready when it says so.

    Args:
        guardian: ends the process if this one cannot.
        environment: variables on top of this process's own; they name the servers.
        command: `relay`, `stream` or `serve`.
        ready: what is in its output once it is ready.
        port: on which it is told to listen, 0 for a free one; None: it listens on none.
        directory, start_seconds: see `ServerProcess`.
    """

    def __init__(
        self,
        guardian: Guardian,
        environment: Mapping[str, str],
        *,
        command: str,
        ready: str,
        port: int | None = None,
        directory: Path | None = None,
        start_seconds: float = 60.0,
    ) -> None:
        super().__init__(guardian, command, directory=directory, start_seconds=start_seconds)
        self.listens = port is not None
        self.port = port or 0
        self.environment = dict(environment)
        self._ready = ready

    def _command(self) -> Sequence[str]:
        program = [sys.executable, "-c", "from cachekeeper.cli import main; main()", self.name]
        return [*program, "--port", str(self.port)] if self.listens else program

    def _environment(self) -> Mapping[str, str]:
        return {**os.environ, "PYTHONUNBUFFERED": "1", **self.environment}

    def _not_ready(self) -> str | None:
        return None if self._ready in self.log_tail(1000) else f"it has not said {self._ready!r}"
