"""A MongoDB that can be told to fail for a while."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from cachekeeper.devservers import MongoServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cachekeeper.devservers import FoundServer, Guardian

SHUTDOWN_IN_PROGRESS = 91  # from a primary that is deposed before a majority has a write; a driver retries
DUPLICATE_KEY = 11000
WRITE_CONCERN_FAILED = 64  # a driver does not retry


@pytest.fixture(scope="module")
def failing_server(guardian: Guardian, mongo_found: FoundServer) -> Iterator[MongoServer]:
    """One server for a module. Tests use the fixture `failing`."""
    server = MongoServer(guardian, mongo_found, parameters={"enableTestCommands": 1})
    server.start()
    yield server
    server.kill()


@pytest.fixture
def failing(failing_server: MongoServer) -> Iterator[MongoServer]:
    """A server that works until it is told to fail, and works again after the test, even if the test fails."""
    yield failing_server
    be_well(failing_server)


def be_well(server: MongoServer) -> None:
    """Stop failing."""
    _configure(server, "off", {})


def fail_writes(server: MongoServer, times: int | None, code: int = SHUTDOWN_IN_PROGRESS, *, skip: int = 0) -> None:
    """Make the next `times` writes succeed but answer with an error. `None`: all writes after the first `skip`."""
    data = {"failCommands": ["findAndModify", "update"], "writeConcernError": {"code": code, "errmsg": "failing"}}
    _configure(server, {"skip": skip} if times is None else {"times": times}, data)


def refuse_saves(server: MongoServer, times: int) -> None:
    """Refuse the next `times` saves, as if there were a document with that id already."""
    which = {"keyPattern": {"_id": 1}, "keyValue": {"_id": "s1"}}
    data = {"failCommands": ["findAndModify"], "errorCode": DUPLICATE_KEY, "errorExtraInfo": which}
    _configure(server, {"times": times}, data)


def delay_writes(server: MongoServer, milliseconds: int) -> None:
    """Delay each update by `milliseconds`."""
    _configure(server, "alwaysOn", {"failCommands": ["update"], "blockConnection": True, "blockTimeMS": milliseconds})


def fail_indexing(server: MongoServer, how: dict[str, Any]) -> None:
    """Make `createIndexes` fail: no index is made, or it is made and not acknowledged."""
    _configure(server, "alwaysOn", {"failCommands": ["createIndexes"], **how})


@contextmanager
def hold_index_builds(server: MongoServer) -> Iterator[None]:
    """Hold index builds inside the block, as in a large collection. An empty collection has its index at once."""
    name = "hangAfterStartingIndexBuild"
    with server.client() as client:
        client.admin.command({"configureFailPoint": name, "mode": "alwaysOn"})
        try:
            yield
        finally:
            client.admin.command({"configureFailPoint": name, "mode": "off"})


def _configure(server: MongoServer, mode: str | dict[str, int], data: dict[str, Any]) -> None:
    with server.client() as client:
        client.admin.command({"configureFailPoint": "failCommand", "mode": mode, "data": data})
