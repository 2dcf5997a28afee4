"""Run a server's program with `--version` to learn which server it is, or why it cannot run on this system."""

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from cachekeeper.devservers.errors import ServerUnavailable

_VERSION = re.compile(r"^(Redis|Valkey) server v=(\d+\.\d+\.\d+)|^(db) version v(\d+\.\d+\.\d+)", re.MULTILINE)
_KINDS = {"Redis": "redis", "Valkey": "valkey", "db": "mongod"}
_MISSING_LIBRARY = re.compile(r"error while loading shared libraries: ([^\s:]+)")
_OLD_LIBRARY = re.compile(r"([^\s:]+): version [`']([^']+)' not found")
_SIGILL = -4
DEBIAN_PACKAGES = {
    "libcurl.so.4": "libcurl4",
    "libcrypto.so.3": "libssl3",
    "libssl.so.3": "libssl3",
    "liblzma.so.5": "liblzma5",
    "libgcc_s.so.1": "libgcc-s1",
    "libstdc++.so.6": "libstdc++6",
    "libresolv.so.2": "libc6",
}
"""The system libraries that the wheels' programs need, each with its package in Debian and Ubuntu."""


@dataclass(frozen=True, slots=True)
class FoundServer:
    """A program that can run on this system.

    Attributes:
        kind: `redis`, `valkey`, `mongod` or `rabbitmq`.
        version: as text, such as `7.0.15`.
        path: the program.
        origin: where it was found: `PATH`, `the wheel NAME`, or another text of its finder.
    """

    kind: str
    version: str
    path: Path
    origin: str

    def __str__(self) -> str:
        where = "" if self.origin.startswith("the wheel") else f" ({self.path})"
        return f"{self.kind} {self.version} from {self.origin}{where}"


class Unfit(Exception):
    """One candidate cannot be used; the message says why."""


def identify(path: Path, origin: str) -> FoundServer:
    """Run a program with `--version` and return which server it is.

    Args:
        path: the program.
        origin: where it was found, for messages.

    Raises:
        ServerUnavailable: it cannot run on this system, or is not one of these servers.
    """
    try:
        return run_for_version(path, origin)
    except Unfit as error:
        raise ServerUnavailable(f"server at {path}", [str(error)], "one that is made for this system") from error


def run_for_version(path: Path, origin: str) -> FoundServer:
    """Do as `identify` does, for one of several candidates.

    Raises:
        Unfit: it cannot run on this system, or is not one of these servers.
    """
    try:
        ran = subprocess.run(
            [str(path), "--version"], capture_output=True, text=True, errors="replace", timeout=20, check=False
        )
    except OSError as error:  # made for another processor, or for a C library that is missing (Alpine has musl)
        raise Unfit(f"{path} does not run on this system: {error.strerror}") from error
    except subprocess.TimeoutExpired as error:
        raise Unfit(f"{path} --version gave no answer within 20 s") from error
    if match := _VERSION.search(ran.stdout):
        kind, version = (text for text in match.groups() if text)
        return FoundServer(_KINDS[kind], version, path, origin)
    raise Unfit(_why_not(path, ran))


def _why_not(path: Path, ran: subprocess.CompletedProcess[str]) -> str:
    if match := _MISSING_LIBRARY.search(ran.stderr):
        library = match[1]
        package = DEBIAN_PACKAGES.get(library)
        cure = f" (Debian and Ubuntu: apt-get install {package})" if package else ""
        return f"{path} needs the system library {library}, which is missing{cure}"
    if match := _OLD_LIBRARY.search(ran.stderr):
        return f"{path} needs {match[2]}, which {Path(match[1]).name} of this system does not have; use a newer system"
    if ran.returncode == _SIGILL:
        return f"{path} needs instructions that this processor lacks (MongoDB 5.0 and later need AVX)"
    said = (ran.stderr or ran.stdout).strip().splitlines()
    return f"{path} --version exited with status {ran.returncode} and printed: {said[-1] if said else 'nothing'}"
