"""Run a program for a limited time, and keep what it printed."""

from __future__ import annotations

import signal
import subprocess
import tempfile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

_LAST_WORDS_SECONDS = 10.0


def run_bounded(
    command: Sequence[str], *, directory: Path, environment: Mapping[str, str], seconds: float
) -> tuple[int, str]:
    """Run `command`, and end it if it takes longer than `seconds`.

    A Python program that is ended prints where each of its threads is. A run can also hang as it ends, for example in a
    thread that never returns. Without a limit it would print nothing until the whole CI run is ended from outside.

    Returns:
        Its exit status, which is not 0 if it was ended, and what it printed.
    """
    with tempfile.TemporaryFile() as output:  # not a pipe: servers that it started could hold that open
        process = subprocess.Popen(
            command,
            cwd=directory,
            env={**environment, "PYTHONFAULTHANDLER": "1"},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            status, ending = process.wait(seconds), ""
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGABRT)
            ending = f"\nended, because it took longer than {seconds:g} s\n"
            try:
                status = process.wait(_LAST_WORDS_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                status = process.wait()
        output.seek(0)
        return status, output.read().decode(errors="replace") + ending
