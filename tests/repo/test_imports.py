"""What an import loads, seen in a process of its own: no contract sees that importing a submodule runs its packages."""

import os
import subprocess
import sys

import pytest

from cachekeeper.settings import PREFIX
from testkit.compose import ROOT


def run(code: str, **variables: str) -> str:
    """What the code prints."""
    environment = {**os.environ, **{PREFIX + name: value for name, value in variables.items()}}
    command = [sys.executable, "-c", code]
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.strip()


def imported_by(statement: str) -> set[str]:
    """The top-level modules that are there after a statement."""
    listing = "print(*{name.partition('.')[0] for name in sys.modules})"
    return set(run(f"import sys; {statement}; {listing}").split())


@pytest.mark.parametrize("package", ["cachekeeper", "lookups"])
def test_read_side_code_pulls_in_no_celery_and_no_command_line(package: str) -> None:
    assert imported_by(f"import {package}") & {"celery", "kombu", "billiard", "amqp", "typer", "rich"} == set()


def test_the_check_for_celery_can_fail() -> None:
    assert {"celery", "kombu"} <= imported_by("import celery.app.base")


def test_importing_the_producers_imports_no_broker_library() -> None:
    assert {"celery", "kombu", "amqp"} & imported_by("import producers") == set()


def test_a_first_publish_loads_kombu_and_no_celery() -> None:
    loaded = {"celery", "kombu"} & imported_by("import cachekeeper.publishing.broker_connection")
    assert loaded == {"kombu"}


def test_storing_needs_neither_a_broker_library_nor_celery() -> None:
    code = """
import sys
from producers import outbox
print(outbox.add.__name__, sorted({"celery", "kombu", "amqp", "billiard"} & sys.modules.keys()))
"""
    assert run(code) == "add []"


def test_importing_the_worker_connects_to_nothing() -> None:
    code = """
import socket, threading
def refuse(*_): raise SystemExit('it connects')
socket.socket.connect = refuse
socket.getaddrinfo = refuse
import worker.celery
assert threading.active_count() == 1, threading.enumerate()
print(worker.celery.app.conf.worker_pool)
"""
    broker = "amqp://me:secret@broker//"
    assert run(code, REDIS_URL="redis://cache", MONGODB_URL="mongodb://db/shop", BROKER_URL=broker) == "threads"
