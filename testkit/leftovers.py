"""Runs programs in a directory of their own, and finds what is left of them after their end."""

import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

import psutil

from cachekeeper.devservers import Guardian
from testkit.waiting import wait_until

ROOT = Path(__file__).parents[1]
_SEPARATE = 'out=$1 err=$2; shift 2; exec "$@" >"$out" 2>"$err"'
CACHEKEEPER = [sys.executable, "-c", "from cachekeeper.cli import main; main()"]


def is_alive(process: psutil.Process) -> bool:
    """Return whether the process runs. A zombie does not run; its parent may never reap it."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:  # it ended meanwhile
        return False


def _has_word(process: psutil.Process, part: str) -> bool:
    try:
        return any(part in word for word in process.cmdline())
    except (psutil.NoSuchProcess, psutil.AccessDenied):  # it ended meanwhile, or is another user's
        return False


class ProgramDirectory:
    """A directory that programs use as the system's temporary one, and by which their processes are found again.

    Args:
        path: the directory.
        guardian: ends the programs with this process. It does not end processes that the programs have started.
    """

    def __init__(self, path: Path, guardian: Guardian) -> None:
        self.path = path.resolve()
        self.guardian = guardian

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables for a program that runs here."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("CACHEKEEPER_")}
        return {**kept, "TMPDIR": str(self.path), "PYTHONUNBUFFERED": "1"}

    def processes(self) -> list[psutil.Process]:
        """Return all living processes that were started here.

        A process is recognised by its variables, its command line or its working directory, because a server may
        overwrite some of these. A zombie does not count.
        """
        return [process for process in psutil.process_iter() if self._is_mine(process)]

    def guardians(self) -> list[psutil.Process]:
        """Return those of the processes that guard others."""
        return [process for process in self.processes() if _has_word(process, "guardian_process")]

    def _is_mine(self, process: psutil.Process) -> bool:
        mark = str(self.path)
        try:
            return is_alive(process) and (
                mark in process.environ().values() or _has_word(process, mark) or process.cwd().startswith(mark)
            )
        except (psutil.NoSuchProcess, psutil.AccessDenied):  # it ended meanwhile, or is another user's
            return False

    def left(self) -> list[str]:
        """Return the processes and directories that are left, as text."""
        return [f"process {process.pid}" for process in self.processes()] + [
            str(path) for path in self.path.iterdir() if path.name.startswith("cachekeeper-")
        ]

    def assert_empty(self) -> None:
        """Assert that nothing is left, now or soon: after a SIGKILL the guardian needs a moment."""
        wait_until(lambda: not self.left(), f"nothing left in {self.path}", 20)

    def clear(self) -> None:
        """Kill the processes that are left, for a test that has failed or expects leftovers."""
        for process in self.processes():
            with suppress(psutil.NoSuchProcess):  # it ended meanwhile
                process.send_signal(signal.SIGKILL)


class Program:
    """A program that runs in a `ProgramDirectory`, with its output in files."""

    def __init__(self, place: ProgramDirectory, command: Sequence[str], name: str) -> None:
        self.place = place
        self._output = place.path / f"{name}.out"
        self._errors = place.path / f"{name}.err"
        self._output.touch()
        self._errors.touch()
        self.process = place.guardian.spawn(
            ["/bin/sh", "-c", _SEPARATE, "sh", str(self._output), str(self._errors), *command],
            log=self._errors,
            environment=place.environment,
            directory=ROOT,
        )

    @property
    def output(self) -> str:
        """The program's standard output so far."""
        return self._output.read_text()

    @property
    def errors(self) -> str:
        """The program's standard error so far."""
        return self._errors.read_text()

    def wait_for(self, text: str) -> Self:
        """Wait until it has written a text."""

        def written() -> bool:
            assert text in self.errors + self.output or self.process.poll() is None, self.errors
            return text in self.errors + self.output

        wait_until(written, f"{text!r} in the output", 60)
        return self

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the program, but not to its children."""
        self.process.send_signal(number)

    def end(self) -> int:
        """Wait until the program has ended, and return its exit status."""
        return self.process.wait(60)


@contextmanager
def running(place: ProgramDirectory, command: Sequence[str], name: str = "program") -> Iterator[Program]:
    """Run a program. Afterwards end it, with all that is left of it."""
    program = Program(place, command, name)
    try:
        yield program
    finally:
        place.guardian.kill(program.process)


def script(text: str) -> list[str]:
    """Return the command for a Python program."""
    return [sys.executable, "-c", text]
