"""What a server's program says of itself: run with `--version`, which server it is, or why it does not run here."""

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
"""What the wheels' programs want from the system, by the name of Debian's and Ubuntu's package."""


@dataclass(frozen=True, slots=True)
class FoundServer:
    """A program that runs here.

    Attributes:
        kind: `redis`, `valkey`, `mongod` or `rabbitmq`.
        version: as text, such as `7.0.15`.
        path: the program.
        origin: `PATH`, or `the wheel NAME`, or whatever else its finder says.
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
    """Run a program with `--version` and say what it is.

    Args:
        path: the program.
        origin: how it was come by, for messages.

    Raises:
        ServerUnavailable: it does not run here, or is something else.
    """
    try:
        return run_for_version(path, origin)
    except Unfit as error:
        raise ServerUnavailable(f"server as {path}", [str(error)], "one that fits this system") from error


def run_for_version(path: Path, origin: str) -> FoundServer:
    """As `identify`, for one candidate of several.

    Raises:
        Unfit: it does not run here, or is something else.
    """
    try:
        ran = subprocess.run(
            [str(path), "--version"], capture_output=True, text=True, errors="replace", timeout=20, check=False
        )
    except OSError as error:  # of another processor, or linked against a C library that is not here (Alpine's musl)
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
        return f"{path} wants the system library {library}, which is missing{cure}"
    if match := _OLD_LIBRARY.search(ran.stderr):
        return f"{path} wants {match[2]}, newer than this system's {Path(match[1]).name}"
    if ran.returncode == _SIGILL:
        return f"{path} wants processor instructions that this one lacks (AVX, for MongoDB 5.0 and later)"
    said = (ran.stderr or ran.stdout).strip().splitlines()
    return f"{path} --version ended with status {ran.returncode}, saying: {said[-1] if said else 'nothing'}"
