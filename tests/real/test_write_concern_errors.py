"""A primary that steps down while it waits for a majority answers a write with an error of its own kind."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from cachekeeper.applying import apply
from cachekeeper.commands import Block, Command, Persist
from cachekeeper.embedded import MongoServer
from cachekeeper.errors import DatabaseUnavailable
from cachekeeper.keeper import Keeper
from cachekeeper.settings import Settings
from lookups import BLOCKED, SESSION, block_token, is_blocked, read_session, save_session
from lookups.sessions import END_SESSION
from tests.shop import PATIENT

if TYPE_CHECKING:
    from cachekeeper.embedded import FoundServer, Guardian, RedisServer

_SHUTDOWN_IN_PROGRESS = 91


@pytest.fixture(scope="module")
def failing(guardian: Guardian, mongo_found: FoundServer) -> Iterator[MongoServer]:
    """A MongoDB that can be told to fail."""
    server = MongoServer(guardian, mongo_found, parameters={"enableTestCommands": 1})
    server.start()
    yield server
    server.kill()


@pytest.fixture
def keeper(failing: MongoServer, redis_server: RedisServer) -> Iterator[Keeper]:
    keeper = Keeper(Settings(redis_url=redis_server.url, mongodb_url=failing.url, **PATIENT))
    yield keeper
    keeper.close()


def fail_writes(server: MongoServer, times: int) -> None:
    """So many writes are made, and answered with an error: a primary that is deposed before a majority has them."""
    error = {"code": _SHUTDOWN_IN_PROGRESS, "errmsg": "stepping down"}
    data = {"failCommands": ["findAndModify", "update"], "writeConcernError": error}
    mode: object = {"times": times} if times else "off"
    with server.client() as client:
        client.admin.command({"configureFailPoint": "failCommand", "mode": mode, "data": data})


def later() -> datetime:
    return datetime.now(UTC) + timedelta(hours=1)


def test_a_block_that_meets_it_is_a_typed_outage_and_a_retry_is_safe(failing: MongoServer, keeper: Keeper) -> None:
    fail_writes(failing, 4)  # more often than the driver tries by itself
    with pytest.raises(DatabaseUnavailable):
        block_token("t", later(), keeper=keeper)
    fail_writes(failing, 0)
    block_token("t", later(), keeper=keeper)
    assert is_blocked("t", keeper=keeper)


def test_a_save_that_meets_it_is_a_typed_outage_and_a_retry_is_safe(failing: MongoServer, keeper: Keeper) -> None:
    fail_writes(failing, 4)
    with pytest.raises(DatabaseUnavailable):
        save_session("s", {"cart": [1]}, keeper=keeper)
    fail_writes(failing, 0)
    save_session("s", {"cart": [1]}, keeper=keeper)
    assert read_session("s", keeper=keeper) == {"cart": [1]}


def test_an_event_that_meets_it_is_applied_again(failing: MongoServer, keeper: Keeper) -> None:
    events: list[list[Command]] = [[Block(BLOCKED, "u", later())], [Persist(SESSION, "v", END_SESSION)]]
    for event in events:
        fail_writes(failing, 4)
        (result,) = apply(keeper, [event])
        assert isinstance(result.error, DatabaseUnavailable)
        fail_writes(failing, 0)
        (result,) = apply(keeper, [event])
        assert result.error is None
