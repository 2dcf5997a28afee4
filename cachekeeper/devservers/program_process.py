"""A long-running `cachekeeper` command as a child process."""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from cachekeeper.devservers.guardian import Guardian
from cachekeeper.devservers.process import ServerProcess


class ProgramProcess(ServerProcess):
    """`cachekeeper COMMAND`, run by this Python in the current directory; ready once its output contains `ready`.

    Args:
        guardian: ends the command when this process dies.
        environment: variables to add to those of this process; they name the servers.
        command: `relay`, `stream` or `serve`.
        ready: a text that its output contains once it is ready.
        port: the port to listen on; 0: a free one; None: it does not listen.
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
        return None if self._ready in self.log_tail(1000) else f"its output does not contain {self._ready!r}"
