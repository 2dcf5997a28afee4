"""`cachekeeper dev` as the tests start it, and ask it."""

import signal
import subprocess
from pathlib import Path

import psutil

from testkit.leftovers import CACHEKEEPER, ROOT, Program, ProgramDirectory, script

DEV = [*CACHEKEEPER, "dev", "--no-worker", "--no-relay"]
READY = "ctrl-C ends it all"
SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
# Under `nohup` the tests have SIGHUP ignored, and so would what they start.
HEARING = "import os, signal, sys; signal.signal(signal.SIGHUP, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"


def variables(text: str) -> dict[str, str]:
    """What a shell has after it evaluated the text; every line must be an export."""
    lines = text.splitlines()
    assert lines
    assert all(line.startswith("export CACHEKEEPER_") for line in lines)
    names = [line.split()[1].partition("=")[0] for line in lines]
    shown = "\n".join(f'printf "%s\\n" "${name}"' for name in names)
    said = subprocess.run(["sh", "-c", f"{text}\n{shown}"], env={}, capture_output=True, text=True, check=True).stdout
    return dict(zip(names, said.splitlines(), strict=True))


def ask(place: ProgramDirectory, *arguments: str, where: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """`cachekeeper dev --env` in another process."""
    return subprocess.run(
        [*CACHEKEEPER, "dev", "--env", *arguments],
        env=place.environment,
        cwd=where,
        capture_output=True,
        text=True,
        check=False,
    )


def process_of(dev: Program, name: str) -> psutil.Process:
    return next(child for child in psutil.Process(dev.process.pid).children() if name in child.name())


def parent_of(command: list[str]) -> list[str]:
    return script(f"import subprocess; subprocess.run({command!r})")


def fake_mongod(place: ProgramDirectory, does: str) -> Path:
    path = place.path / "mongod"
    path.write_text(f'#!/bin/sh\n[ "$1" = --version ] && echo "db version v9.9.9" && exit\n{does}\n')
    path.chmod(0o755)
    return path
