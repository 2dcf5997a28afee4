"""Ends pytest if the clients are not those of `--clients`. Loaded by `-p tests.repo.versions.plugin`.

Without it, a run in a wrong environment could pass on the versions of the development environment.
"""

import sys
from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version

import pymongo
import pytest
import redis
import redis.utils

from testkit.servers import RedisChoice, redis_choices
from tests.repo.versions.environments import CLIENTS, HIREDIS


def clients_text(versions: Mapping[str, str]) -> str:
    """The value of `--clients`. A client that is left out must not be installed."""
    return ",".join(f"{name}=={versions[name]}" for name in CLIENTS if name in versions)


def loaded() -> dict[str, str]:
    """The versions of the clients that this process has imported, from their modules."""
    found = {"redis": redis.__version__, "pymongo": pymongo.version}
    if redis.utils.HIREDIS_AVAILABLE:
        found[HIREDIS] = import_module(HIREDIS).__version__
    return found


def installed() -> dict[str, str]:
    """The versions of the clients that are installed, from their metadata."""
    found = {}
    for name in CLIENTS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def problems(wanted: str, loaded: Mapping[str, str], installed: Mapping[str, str]) -> list[str]:
    """Where the clients are not the ones that were asked for.

    Args:
        wanted: the value of `--clients`.
        loaded: see `loaded`.
        installed: see `installed`.
    """
    versions = dict(part.split("==", 1) for part in wanted.split(","))
    return [
        f"{name}: wanted {versions.get(name)}, {how} {found.get(name)}"
        for name in CLIENTS
        for how, found in (("imported", loaded), ("installed", installed))
        if found.get(name) != versions.get(name)
    ]


def pytest_addoption(parser: pytest.Parser) -> None:
    """The option that says which they must be."""
    parser.addoption("--clients", required=True, metavar="NAME==VERSION,…", help="the versions that must be loaded")


def pytest_configure(config: pytest.Config) -> None:
    """Look before any test runs.

    Raises:
        UsageError: they are others.
    """
    found = problems(config.getoption("--clients"), loaded(), installed())
    if found:
        raise pytest.UsageError(f"these are other clients than asked for ({sys.executable}): {'; '.join(found)}")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Of the Redis servers take the first that is there: clients differ here, servers where all tests run."""
    server = next((choice.label for choice in redis_choices() if choice.found), None)
    others = [item for item in items if isinstance(item, pytest.Function) and _is_of_another(item, server)]
    items[:] = [item for item in items if item not in set(others)]
    config.hook.pytest_deselected(items=others)


def _is_of_another(item: pytest.Function, server: str | None) -> bool:
    parameters = item.callspec.params.values() if hasattr(item, "callspec") else ()
    return any(isinstance(each, RedisChoice) and each.label != server for each in parameters)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what the tests ran with."""
    has = loaded()
    terminalreporter.write_sep("=", "ran with")
    for name in CLIENTS:
        terminalreporter.write_line(f"{name} {has.get(name, 'is not there')}")
