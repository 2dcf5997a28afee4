"""The guarded process's side of the guardian: temporary directories and child processes that never outlive it."""

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
"""How the names of temporary directories begin."""
_LAUNCH = 'read -r go && exec "$@" </dev/null'
"""The first program of every child: waits for a line, then becomes the server."""


class Guardian:
    """Starts children and makes directories that are gone when this process is gone, however it ends.

    Everything is told to the guardian process *before* it exists:

    - A directory's name is sent before the directory is made.
    - A child starts as a shell that waits for a line on its standard input. Its process group is sent to the guardian,
      then the line to the shell, which becomes the server. Killed before the first step, this process closes the
      shell's input and the shell ends by itself; killed after it, the guardian knows the group.

    Cleaning up is done by the guardian process in every case, an orderly end included: what runs after a SIGKILL is
    what runs every day.

    Args:
        holding: file descriptors that the guardian process inherits, and so keeps open until it has cleaned up.

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
        """Whether the guardian process still runs. When it does not, nothing is guarded any more."""
        return self._process.poll() is None

    def directory(self) -> Path:
        """Make a private temporary directory that is removed at the end."""
        path = Path(tempfile.gettempdir()).resolve() / f"{PREFIX}{secrets.token_hex(8)}"
        self.remove_at_end(path)
        path.mkdir(mode=0o700)
        return path

    def remove_at_end(self, path: Path) -> None:
        """Have a file or tree removed at the end, whether or not it exists by then."""
        self._tell("path", str(path))

    def spawn(
        self,
        command: Sequence[str],
        *,
        log: Path,
        environment: Mapping[str, str] | None = None,
        directory: Path | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start a child in a process group (and session) of its own, its output appended to a file.

        Args:
            command: the program, by path, and its arguments.
            log: the file for standard output and standard error.
            environment: all of the child's variables; None: those of this process.
            directory: the child's working directory; None: that of this process.

        Raises:
            ServerFailed: the guardian process is gone, so that the child would be unguarded.
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
        """Kill a child and all of its process group, stopped or not, and wait until it is gone. Idempotent."""
        if self._children.pop(child.pid, None) is None:
            return  # gone already, and its number may by now be somebody else's
        guardian_process.kill(child.pid)
        child.wait()
        with contextlib.suppress(ServerFailed):  # no guardian, so nobody who would kill a stranger
            self._tell("forget", child.pid)

    def close(self) -> None:
        """Have everything that is left killed and removed, and wait until it is. Idempotent.

        In a forked copy of the owner this does nothing: the servers are not the copy's to end.
        """
        if os.getpid() != self._owner or self._pipe.closed:
            return
        # A word, not only the end of the pipe: a forked child of this process may hold a copy of it.
        with contextlib.suppress(ServerFailed):
            self._tell("end")
        self._pipe.close()
        if self._process.wait() != 0:  # it was killed: do its work here
            self._told.clean()
        for child in self._children.values():
            child.wait()  # killed by now; this takes the zombie away
        self._children.clear()

    def _tell(self, verb: str, *arguments: str | int) -> None:
        line = json.dumps([verb, *arguments]).encode() + b"\n"
        try:
            with self._lock:  # a long line reaches the pipe in pieces; two threads must not mix theirs
                self._told.obey(line)
                self._pipe.write(line)
        except BrokenPipeError:
            raise ServerFailed("the guardian process", "is gone; nothing would clean up after this one", "") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _input_of(process: subprocess.Popen[bytes]) -> IO[bytes]:
    return cast("IO[bytes]", process.stdin)  # never None: it was started with a pipe
