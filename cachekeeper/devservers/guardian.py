"""Start child processes and make temporary directories that are gone when this process ends."""

import contextlib
import json
import os
import secrets
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Self, cast

from cachekeeper.devservers import guardian_process
from cachekeeper.devservers.errors import ServerFailed

PREFIX = "cachekeeper-"
"""The beginning of the names of temporary directories."""
_LAUNCH = 'read -r go && exec "$@" </dev/null'
"""The shell script that every child starts as: it waits for a line, and then becomes the server."""


class Guardian:
    """Starts child processes and makes directories that are gone when this process ends, however it ends.

    The guardian process is told of each directory and each child *before* it exists:

    - A directory's name is sent before the directory is made.
    - A child starts as a shell that waits for a line on its standard input. This process sends the child's process
      group to the guardian, and then the line to the shell, which becomes the server. If this process is killed before
      it has sent the group, the shell's input closes and the shell ends by itself. If it is killed later, the guardian
      knows the group.

    The guardian process always does the cleaning up, also after an orderly end. So the code that runs after a SIGKILL
    is the code that runs every day.

    Args:
        holding: file descriptors that the guardian process inherits and keeps open until it has cleaned up.

    Raises:
        OSError: the guardian process could not be started.
    """

    def __init__(self, holding: Sequence[int] = ()) -> None:
        self._owner = os.getpid()
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", guardian_process.__file__, str(self._owner)],
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            pass_fds=tuple(holding),
        )
        self._pipe = _input_of(self._process)
        self._children: dict[int, subprocess.Popen[bytes]] = {}
        self._told = guardian_process.Charge()

    @property
    def pid(self) -> int:
        """The process id of the guardian process."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the guardian process still runs. Without it, children may outlive this process."""
        return self._process.poll() is None

    def directory(self) -> Path:
        """Make a private temporary directory that is removed at the end."""
        path = Path(tempfile.gettempdir()).resolve() / f"{PREFIX}{secrets.token_hex(8)}"
        self.remove_at_end(path)
        path.mkdir(mode=0o700)
        return path

    def remove_at_end(self, path: Path) -> None:
        """Remove a file or a directory tree at the end, if it exists then."""
        self._tell("path", str(path))

    def spawn(
        self,
        command: Sequence[str],
        *,
        log: Path,
        environment: Mapping[str, str] | None = None,
        directory: Path | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start a child in its own process group and session, and append its output to a file.

        Args:
            command: the program, by path, and its arguments.
            log: the file for standard output and standard error.
            environment: all of the child's variables; None: those of this process.
            directory: the child's working directory; None: that of this process.

        Raises:
            ServerFailed: the guardian process has ended, so the child could outlive this process.
        """
        with log.open("ab") as output:
            process = subprocess.Popen(
                ["/bin/sh", "-c", _LAUNCH, "sh", *command],
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=None if environment is None else dict(environment),
                cwd=directory,
            )
        self._children[process.pid] = process
        with _input_of(process) as pipe:
            self._tell("group", process.pid)
            pipe.write(b"go\n")
        return process

    def kill(self, child: subprocess.Popen[bytes]) -> None:
        """Kill a child and its process group, even if paused, and wait until it is gone. Idempotent."""
        if self._children.pop(child.pid, None) is None:
            return  # it has ended, and another process may have its id by now
        guardian_process.kill(child.pid)
        child.wait()
        with contextlib.suppress(ServerFailed):  # the guardian has ended: it can kill nothing by this id
            self._tell("forget", child.pid)

    def close(self) -> None:
        """Kill all remaining children, remove all paths, and wait until that is done. Idempotent.

        In a forked copy of this process it does nothing: the servers belong to the original process.
        """
        if os.getpid() != self._owner or self._pipe.closed:
            return
        # Closing the pipe is not enough: a forked child of this process may hold a copy of it.
        with contextlib.suppress(ServerFailed):
            self._tell("end")
        self._pipe.close()
        if self._process.wait() != 0:  # the guardian was killed: clean up here
            self._told.clean()
        for child in self._children.values():
            child.wait()  # it has been killed by now; this reaps the zombie
        self._children.clear()

    def _tell(self, verb: str, *arguments: str | int) -> None:
        line = json.dumps([verb, *arguments]).encode() + b"\n"
        try:
            with self._lock:  # a long line reaches the pipe in pieces; two threads must not mix theirs
                self._told.obey(line)
                self._pipe.write(line)
        except BrokenPipeError:
            raise ServerFailed(
                "the guardian process", "is gone, so the servers could outlive this program; start it again", ""
            ) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _input_of(process: subprocess.Popen[bytes]) -> IO[bytes]:
    return cast("IO[bytes]", process.stdin)  # never None: the process was started with a pipe
