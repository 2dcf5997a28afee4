"""A primary that steps down while it waits for a majority answers a write with an error of its own kind."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from pymongo.errors import BulkWriteError

from cachekeeper import persisting
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
    from collections.abc import Sequence

    from pymongo import UpdateOne

    from cachekeeper.embedded import FoundServer, Guardian, RedisServer

_SHUTDOWN_IN_PROGRESS = 91  # of a primary that is deposed before a majority has them; a driver tries again
_WRITE_CONCERN_FAILED = 64  # a driver does not try again


@pytest.fixture(scope="module")
def failing(guardian: Guardian, mongo_found: FoundServer) -> Iterator[MongoServer]:
    """A MongoDB that can be told to fail."""
    server = MongoServer(guardian, mongo_found, parameters={"enableTestCommands": 1})
    server.start()
    yield server
    server.kill()


@pytest.fixture(autouse=True)
def _well_again(failing: MongoServer) -> Iterator[None]:
    """Whatever becomes of a test, the next one's writes are well."""
    yield
    fail_writes(failing, 0)


@pytest.fixture
def keeper(failing: MongoServer, redis_server: RedisServer) -> Iterator[Keeper]:
    keeper = Keeper(Settings(redis_url=redis_server.url, mongodb_url=failing.url, **PATIENT))
    yield keeper
    keeper.close()


def fail_writes(server: MongoServer, times: int | None, code: int = _SHUTDOWN_IN_PROGRESS, *, skip: int = 0) -> None:
    """So many writes, None for all but the first `skip`, are made, and answered with an error."""
    data = {"failCommands": ["findAndModify", "update"], "writeConcernError": {"code": code, "errmsg": "failing"}}
    mode: object = {"skip": skip} if times is None else {"times": times} if times else "off"
    with server.client() as client:
        client.admin.command({"configureFailPoint": "failCommand", "mode": mode, "data": data})


@pytest.fixture
def hasty(failing: MongoServer, redis_server: RedisServer) -> Iterator[Keeper]:
    """A keeper that soon gives up."""
    settings = {**PATIENT, "load_timeout_seconds": 0.5}
    keeper = Keeper(Settings(redis_url=redis_server.url, mongodb_url=failing.url, **settings))
    yield keeper
    keeper.close()


def later() -> datetime:
    return datetime.now(UTC) + timedelta(hours=1)


def test_a_block_that_meets_it_is_a_typed_outage_and_a_retry_is_safe(
    failing: MongoServer, keeper: Keeper, hasty: Keeper
) -> None:
    fail_writes(failing, None)  # a driver tries again until the time limit
    with pytest.raises(DatabaseUnavailable):
        block_token("t", later(), keeper=hasty)
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


BATCH: list[list[Command]] = [[Block(BLOCKED, "u", None)], [Persist(SESSION, "v", END_SESSION)]]


@pytest.mark.parametrize("event", BATCH, ids=["block", "document"])
def test_an_event_that_meets_it_is_applied_again(
    failing: MongoServer, keeper: Keeper, hasty: Keeper, event: list[Command]
) -> None:
    fail_writes(failing, None)
    (result,) = apply(hasty, [event])
    assert isinstance(result.error, DatabaseUnavailable)
    fail_writes(failing, 0)
    (result,) = apply(keeper, [event])
    assert result.error is None


def test_a_block_whose_lengthening_meets_it_is_not_blocked_so_long(failing: MongoServer, keeper: Keeper) -> None:
    sooner, latest = later(), later() + timedelta(hours=1)
    block_token("w", sooner, keeper=keeper)
    fail_writes(failing, None, _WRITE_CONCERN_FAILED, skip=1)  # not the insert, which finds it there
    (result,) = apply(keeper, [[Block(BLOCKED, "w", latest)]])
    assert isinstance(result.error, DatabaseUnavailable)
    assert keeper.store(BLOCKED.server).client.ttl("blocked:w") < 2 * 3600


def no_event_is_applied_that_a_majority_may_not_have(failing: MongoServer, keeper: Keeper) -> None:
    fail_writes(failing, 2, _WRITE_CONCERN_FAILED)
    errors = [result.error for event in BATCH for result in apply(keeper, [event])]
    fail_writes(failing, 0)
    assert [type(error) for error in errors] == [DatabaseUnavailable] * 2
    assert keeper.store(BLOCKED.server).client.exists("blocked:u") == 0
    assert [result.error for result in apply(keeper, BATCH)] == [None, None]


def test_no_event_is_applied_that_a_majority_may_not_have(failing: MongoServer, keeper: Keeper) -> None:
    no_event_is_applied_that_a_majority_may_not_have(failing, keeper)


def test_who_does_not_look_for_it_is_found(
    failing: MongoServer, keeper: Keeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    careful = persisting._bulk

    def careless(keeper: Keeper, name: str, writes: Sequence[UpdateOne], doing: str) -> persisting._Written:
        try:
            return careful(keeper, name, writes, doing)
        except BulkWriteError:
            return persisting._Written(frozenset(range(len(writes))), 0, {})

    monkeypatch.setattr(persisting, "_bulk", careless)
    with pytest.raises(AssertionError):
        no_event_is_applied_that_a_majority_may_not_have(failing, keeper)
