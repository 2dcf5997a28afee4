"""An environment for each combination of client versions: the development environment with other clients.

All other packages are links to those of the development environment, so that making one takes seconds. Each has its own
interpreter: processes that tests start by `sys.executable` get the same clients. A client that is left out has neither
a module nor metadata there.
"""

import json
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

CLIENTS = ("redis", "pymongo", "hiredis")
HIREDIS = "hiredis"


class EnvironmentFailed(Exception):
    """An environment could not be made; the message says why."""


@dataclass(frozen=True, slots=True)
class Combination:
    """One choice of client versions.

    Attributes:
        name: also that of its directory.
        oldest: whether to take the lower end of each range, or the newest release in it.
        hiredis: whether redis-py has it to read with.
    """

    name: str
    oldest: bool
    hiredis: bool

    def requirements(self, ranges: Mapping[str, Requirement]) -> list[str]:
        """What pip is to install.

        Args:
            ranges: see `client_ranges`.
        """
        wanted = [ranges[name] for name in CLIENTS if self.hiredis or name != HIREDIS]
        return [f"{each.name}=={floor(each)}" if self.oldest else f"{each.name}{each.specifier}" for each in wanted]


# Each client at both ends, each with and without hiredis, in four runs.
COMBINATIONS = (
    Combination("oldest-without-hiredis", oldest=True, hiredis=False),
    Combination("newest-with-hiredis", oldest=False, hiredis=True),
    Combination("oldest-with-hiredis", oldest=True, hiredis=True),
    Combination("newest-without-hiredis", oldest=False, hiredis=False),
)


def client_ranges(project: Mapping[str, Any]) -> dict[str, Requirement]:
    """The ranges of the clients.

    Args:
        project: the table of that name in pyproject.toml.
    """
    found = [Requirement(text) for text in project["dependencies"]]
    return {each.name: each for each in found if each.name in CLIENTS}


def floor(requirement: Requirement) -> str:
    """The lower end of a range.

    Raises:
        EnvironmentFailed: it has none, or several.
    """
    lowest = [each.version for each in requirement.specifier if each.operator in {">=", "=="}]
    if len(lowest) != 1:
        raise EnvironmentFailed(f"{requirement}: the range in pyproject.toml must have one lower end (>=)")
    return lowest[0]


def make(combination: Combination, ranges: Mapping[str, Requirement], directory: Path) -> dict[str, str]:
    """Make the environment of a combination anew.

    Args:
        combination: which.
        ranges: see `client_ranges`.
        directory: where; what is there is deleted.

    Returns:
        The version of each client that pip installed.

    Raises:
        EnvironmentFailed: pip could not install them.
    """
    link(directory)
    report = directory / "installed.json"
    command = [
        *(sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(interpreter(directory))),
        # Never compile: where the oldest version has no wheel, its users cannot install it either without a compiler.
        # The dependencies are linked already.
        *("install", "--quiet", "--no-deps", "--only-binary", ":all:", "--report", str(report)),
        *combination.requirements(ranges),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise EnvironmentFailed(f"{combination.name}: pip could not install the clients:\n{done.stderr}")
    found = json.loads(report.read_text("utf-8"))["install"]
    return {each["metadata"]["name"]: each["metadata"]["version"] for each in found}


def link(directory: Path) -> None:
    """Make an environment like this one, but without the clients.

    Args:
        directory: where; what is there is deleted.
    """
    shutil.rmtree(directory, ignore_errors=True)
    venv.create(directory, symlinks=True)
    packages = Path(sysconfig.get_path("purelib", "venv", {"base": str(directory), "platbase": str(directory)}))
    for entry in _entries_to_link():
        (packages / entry.name).symlink_to(entry)


def interpreter(directory: Path) -> Path:
    """The Python of an environment."""
    return directory / "bin/python"


def _entries_to_link() -> Iterator[Path]:
    """What is installed in this environment, except the clients."""
    packages = Path(sysconfig.get_path("purelib"))
    clients = {file.parts[0] for name in CLIENTS for file in distribution(name).files or () if file.parts[0] != ".."}
    for entry in sorted(packages.iterdir()):
        if entry.name not in clients and entry.name != "__pycache__":
            yield entry
