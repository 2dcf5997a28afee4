"""One server as a child process: start it, stop it, kill it, freeze it, and start it again where it was."""

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
    """A child process with a directory, a log, and a port of its own on 127.0.0.1 unless it `listens` on none.

    Args:
        guardian: ends the process if this one cannot.
        name: for messages and the log's file name.
        directory: where the log goes, and the data below `data`; None: a temporary one.
        data: where the server keeps its data; None: `directory/data`.
        start_seconds: how long a start may take.
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
        """Ask the server once: None when it is ready, else why not."""

    def _environment(self) -> Mapping[str, str] | None:
        """All variables of the child; None: those of this process."""
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
        """Whether the process exists (a paused one does)."""
        return self._process is not None and self._process.poll() is None

    @property
    def exit_text(self) -> str:
        """How the process ended: `exited with status 1`, `was killed by SIGKILL`, or `runs`."""
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
        """Start the process and wait until it is ready. On a first start, on a free port; later, on the same one.

        Raises:
            ServerFailed: it ended, or was not ready in time.
        """
        if self.alive:
            raise ServerFailed(self.name, "already runs", "")
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
        """Ask it to end (SIGTERM), and kill it when it has not done so in time. A process that has ended is no error.

        Args:
            seconds: how long it has.
        """
        if self._process is not None and self.alive:
            self._process.terminate()
            self._process.send_signal(signal.SIGCONT)  # one that is paused would never see the first
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(seconds)
        self.kill()

    def kill(self) -> None:
        """Kill it and all of its process group (SIGKILL), paused or not, and wait until it is gone."""
        if self._process is not None:
            self.guardian.kill(self._process)

    def pause(self) -> None:
        """Freeze it (SIGSTOP), and wait until it is: the kernel goes on accepting connections, nobody answers.

        Raises:
            ServerFailed: it does not run, has ended, or was not stopped in time, as when another thread resumed it.
        """
        self._signal(signal.SIGSTOP)
        # The kernel wakes one thread for it, and that one stops the others. On a busy machine that takes a while:
        # signal sent · a request arrives · another thread answers it · all are stopped.
        if hasattr(os, "waitid"):  # on macOS from Python 3.13 on
            self._wait_until_stopped()

    def resume(self) -> None:
        """Undo `pause` (SIGCONT).

        Raises:
            ServerFailed: it does not run.
        """
        self._signal(signal.SIGCONT)

    def restart(self, *, keep_data: bool = False) -> None:
        """Kill it if it runs, and start it on the same port.

        Args:
            keep_data: start from what its files hold; otherwise they are removed first.

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
            if not self.alive:  # looked at after the probe: the answer may have come from whoever has the port
                raise ServerFailed(self.name, f"{self.exit_text} while starting", self.log_tail())
            if problem is None:
                return
            if time.monotonic() > deadline:
                raise ServerFailed(
                    self.name, f"was not ready after {self.start_seconds:g} s ({problem})", self.log_tail()
                )
            self._wait_for_end(PROBE_SECONDS)

    def _wait_for_end(self, seconds: float) -> None:
        """The pause between two probes; a death ends it early."""
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(seconds)

    def _wait_until_stopped(self) -> None:
        # Looked at again and again: signal sent · another thread resumes it · a call that waits never returns.
        deadline = time.monotonic() + PAUSE_SECONDS
        while True:
            try:
                seen = os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT | os.WNOHANG)
                ended = seen is not None and seen.si_code != os.CLD_STOPPED
            except ChildProcessError:  # it ended, and another thread has asked for its status
                ended = True
            if ended:
                raise ServerFailed(self.name, f"{self.exit_text}; it is not paused", self.log_tail())
            if seen is not None:
                return
            if time.monotonic() > deadline:
                raise ServerFailed(self.name, f"was not stopped by SIGSTOP within {PAUSE_SECONDS:g} s", self.log_tail())
            time.sleep(PROBE_SECONDS)

    def _signal(self, number: signal.Signals) -> None:
        if not self.alive:
            raise ServerFailed(self.name, f"{self.exit_text}; it gets no {number.name}", self.log_tail())
        os.killpg(self.pid, number)
