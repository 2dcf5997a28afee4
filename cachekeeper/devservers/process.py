"""One server as a child process: start, stop, kill, pause, and restart it on the same port."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path

from cachekeeper.devservers.errors import ServerFailed
from cachekeeper.devservers.guardian import Guardian
from cachekeeper.devservers.ports import free_port

PORT_ATTEMPTS = 5
LOG_LINES = 20
PROBE_SECONDS = 0.01
PAUSE_SECONDS = 20.0
_PORT_TAKEN = re.compile(r"address already in use|eaddrinuse", re.IGNORECASE)


class ServerProcess(ABC):
    """A child process with its own directory and log and, if it `listens`, its own port on 127.0.0.1.

    Args:
        guardian: ends the server when this process dies.
        name: used in messages and in the log's file name.
        directory: holds the log; None: a new temporary directory.
        data: where the server keeps its data; None: `directory/data`.
        start_seconds: the longest time a start may take.
    """

    listens = True

    def __init__(
        self,
        guardian: Guardian,
        name: str,
        *,
        directory: Path | None = None,
        data: Path | None = None,
        start_seconds: float = 30.0,
    ) -> None:
        self.guardian = guardian
        self.name = name
        self.directory = guardian.directory() if directory is None else directory
        self.data = self.directory / "data" if data is None else data
        self.log = self.directory / f"{name}.log"
        self.start_seconds = start_seconds
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._log_offset = 0

    @abstractmethod
    def _command(self) -> Sequence[str]:
        """The program and its arguments, for `self.port` and `self.data`."""

    @abstractmethod
    def _not_ready(self) -> str | None:
        """Ask the server once. Return None if it is ready, else why it is not."""

    def _environment(self) -> Mapping[str, str] | None:
        """All environment variables of the child; None: those of this process."""
        return None

    @property
    def pid(self) -> int:
        """The process id.

        Raises:
            ServerFailed: it was never started.
        """
        if self._process is None:
            raise ServerFailed(self.name, "was never started", "")
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the process exists. A paused process does."""
        return self._process is not None and self._process.poll() is None

    @property
    def exit_text(self) -> str:
        """How the process ended: `exited with status 1`, `was killed by SIGKILL`; or `runs`, or `was never started`."""
        code = None if self._process is None else self._process.poll()
        if code is None:
            return "runs" if self.alive else "was never started"
        return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with status {code}"

    def log_tail(self, lines: int = LOG_LINES) -> str:
        """The last lines of the log since the latest start."""
        if not self.log.exists():
            return ""
        with self.log.open("rb") as file:
            file.seek(self._log_offset)
            text = file.read().decode(errors="replace")
        return "\n".join(text.splitlines()[-lines:])

    def start(self) -> None:
        """Start the process and wait until it is ready. The first start chooses a free port; later ones use it again.

        Raises:
            ServerFailed: it ended, or was not ready in time.
        """
        if self.alive:
            raise ServerFailed(self.name, "is already running", "")
        attempts = 1 if self.port or not self.listens else PORT_ATTEMPTS
        for attempt in range(attempts):
            if attempts > 1:
                self.port = free_port()
            try:
                self._launch()
                self._wait_until_ready()
            except ServerFailed as error:
                self.kill()
                if attempt + 1 < attempts and _PORT_TAKEN.search(error.log):
                    continue  # another process bound the port after `free_port` looked and before the server did
                raise
            except BaseException:
                self.kill()
                raise
            return

    def stop(self, seconds: float = 20.0) -> None:
        """Ask it to end (SIGTERM), and kill it if it does not end in time. If it has ended already, that is fine.

        Args:
            seconds: the time it has to end.
        """
        if self._process is not None and self.alive:
            self._process.terminate()
            self._process.send_signal(signal.SIGCONT)  # a paused process would never handle the SIGTERM
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(seconds)
        self.kill()

    def kill(self) -> None:
        """Kill it and its whole process group (SIGKILL), even if paused, and wait until it is gone."""
        if self._process is not None:
            self.guardian.kill(self._process)

    def pause(self) -> None:
        """Pause it (SIGSTOP), and wait until it is paused. The kernel still accepts connections; nothing answers them.

        Raises:
            ServerFailed: it is not running, it ended meanwhile, or it was not stopped in time (for example because
                another thread resumed it).
        """
        self._signal(signal.SIGSTOP)
        # The kernel wakes one thread for the signal, and that thread stops the others. On a busy machine this takes
        # time: signal sent · a request arrives · another thread answers it · all threads are stopped.
        if hasattr(os, "waitid"):  # on macOS from Python 3.13 on
            self._wait_until_stopped()

    def resume(self) -> None:
        """Undo `pause` (SIGCONT).

        Raises:
            ServerFailed: it is not running.
        """
        self._signal(signal.SIGCONT)

    def restart(self, *, keep_data: bool = False) -> None:
        """Kill it if it runs, and start it on the same port.

        Args:
            keep_data: start with the data in its files. If False, the files are removed first.

        Raises:
            ServerFailed: it did not start.
        """
        self.kill()
        if not keep_data:
            shutil.rmtree(self.data, ignore_errors=True)
        self.start()

    def _launch(self) -> None:
        self.data.mkdir(parents=True, exist_ok=True)
        self._log_offset = self.log.stat().st_size if self.log.exists() else 0
        self._process = self.guardian.spawn(self._command(), log=self.log, environment=self._environment())

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + self.start_seconds
        while True:
            problem = self._not_ready()
            if not self.alive:  # checked after the probe: another process on this port may have answered
                raise ServerFailed(self.name, f"{self.exit_text} while starting", self.log_tail())
            if problem is None:
                return
            if time.monotonic() > deadline:
                raise ServerFailed(
                    self.name, f"was not ready after {self.start_seconds:g} s ({problem})", self.log_tail()
                )
            self._wait_for_end(PROBE_SECONDS)

    def _wait_for_end(self, seconds: float) -> None:
        """Wait between two probes, or until the process ends."""
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(seconds)

    def _wait_until_stopped(self) -> None:
        # Poll. A blocking call could wait forever: signal sent · another thread resumes it · the call never returns.
        deadline = time.monotonic() + PAUSE_SECONDS
        while True:
            try:
                seen = os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT | os.WNOHANG)
                ended = seen is not None and seen.si_code != os.CLD_STOPPED
            except ChildProcessError:  # it ended, and another thread has reaped it
                ended = True
            if ended:
                raise ServerFailed(self.name, f"{self.exit_text} and cannot be paused", self.log_tail())
            if seen is not None:
                return
            if time.monotonic() > deadline:
                raise ServerFailed(self.name, f"did not stop within {PAUSE_SECONDS:g} s of SIGSTOP", self.log_tail())
            time.sleep(PROBE_SECONDS)

    def _signal(self, number: signal.Signals) -> None:
        if not self.alive:
            raise ServerFailed(self.name, f"{self.exit_text} and cannot receive {number.name}", self.log_tail())
        os.killpg(self.pid, number)
