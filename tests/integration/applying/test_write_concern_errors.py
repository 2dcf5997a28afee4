"""A primary that steps down while it waits for a majority answers a write with an error of its own kind."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from cachekeeper.applying import batch as applying
from cachekeeper.applying import mongo_writes as persisting
from cachekeeper.applying.batch import apply
from cachekeeper.errors import DatabaseUnavailable, WriteRefused
from cachekeeper.model.commands import Block, Command, Persist
from cachekeeper.reading.keeper import Keeper
from cachekeeper.settings import Settings
from lookups import BLOCKED, SESSION, block_token, is_blocked, read_session, save_session
from lookups.sessions import END_SESSION
from testkit.failpoints import WRITE_CONCERN_FAILED, be_well, fail_writes
from testkit.limits import PATIENT
from testkit.mutating import mutated

if TYPE_CHECKING:
    from cachekeeper.devservers import MongoServer, RedisServer


@pytest.fixture
def patient(failing: MongoServer, redis_server: RedisServer) -> Iterator[Keeper]:
    keeper = Keeper(Settings(redis_url=redis_server.url, mongodb_url=failing.url, **PATIENT))
    yield keeper
    keeper.close()


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
    failing: MongoServer, patient: Keeper, hasty: Keeper
) -> None:
    fail_writes(failing, None)  # a driver tries again until the time limit
    with pytest.raises(DatabaseUnavailable):
        block_token("t", later(), keeper=hasty)
    be_well(failing)
    block_token("t", later(), keeper=patient)
    assert is_blocked("t", keeper=patient)


def test_a_save_that_meets_it_is_a_typed_outage_and_a_retry_is_safe(failing: MongoServer, patient: Keeper) -> None:
    fail_writes(failing, 4)
    with pytest.raises(DatabaseUnavailable):
        save_session("s", {"cart": [1]}, keeper=patient)
    be_well(failing)
    save_session("s", {"cart": [1]}, keeper=patient)
    assert read_session("s", keeper=patient) == {"cart": [1]}


BATCH: list[list[Command]] = [[Block(BLOCKED, "u", None)], [Persist(SESSION, "v", END_SESSION)]]


@pytest.mark.parametrize("event", BATCH, ids=["block", "document"])
def test_an_event_that_meets_it_is_applied_again(
    failing: MongoServer, patient: Keeper, hasty: Keeper, event: list[Command]
) -> None:
    fail_writes(failing, None)
    (result,) = apply(hasty, [event])
    assert isinstance(result.error, DatabaseUnavailable)
    be_well(failing)
    (result,) = apply(patient, [event])
    assert result.error is None


def test_a_block_whose_lengthening_meets_it_is_not_blocked_so_long(failing: MongoServer, patient: Keeper) -> None:
    sooner, latest = later(), later() + timedelta(hours=1)
    block_token("w", sooner, keeper=patient)
    fail_writes(failing, None, WRITE_CONCERN_FAILED, skip=1)  # not the insert, which finds it there
    (result,) = apply(patient, [[Block(BLOCKED, "w", latest)]])
    assert isinstance(result.error, DatabaseUnavailable)
    assert patient.store(BLOCKED.server).client.ttl("blocked:w") < 2 * 3600


def no_event_is_applied_that_a_majority_may_not_have(failing: MongoServer, keeper: Keeper) -> None:
    fail_writes(failing, 2, WRITE_CONCERN_FAILED)
    errors = [result.error for event in BATCH for result in apply(keeper, [event])]
    be_well(failing)
    assert [type(error) for error in errors] == [DatabaseUnavailable] * 2
    assert keeper.store(BLOCKED.server).client.exists("blocked:u") == 0
    assert [result.error for result in apply(keeper, BATCH)] == [None, None]


def test_no_event_is_applied_that_a_majority_may_not_have(failing: MongoServer, patient: Keeper) -> None:
    no_event_is_applied_that_a_majority_may_not_have(failing, patient)


WRITE_CONCERN = 'for problem in error.details["writeConcernErrors"]:'


def all_are_left_out_where_one_is_refused_besides(failing: MongoServer, keeper: Keeper) -> None:
    database = keeper.database
    database.drop_collection(BLOCKED.collection)
    database.create_collection(BLOCKED.collection, validator={"_id": {"$ne": "forbidden"}})
    batch: list[list[Command]] = [[Block(BLOCKED, token, None)] for token in ("a", "forbidden", "b")]
    fail_writes(failing, 1, WRITE_CONCERN_FAILED)
    errors = [result.error for result in apply(keeper, batch)]
    be_well(failing)
    assert [type(error) for error in errors] == [DatabaseUnavailable] * 3
    assert keeper.store(BLOCKED.server).client.exists("blocked:a", "blocked:b") == 0
    assert [type(result.error) for result in apply(keeper, batch)] == [type(None), WriteRefused, type(None)]
    database.drop_collection(BLOCKED.collection)


def test_all_are_left_out_where_one_is_refused_besides(failing: MongoServer, patient: Keeper) -> None:
    """Of the others nobody knows whether a majority has them."""
    all_are_left_out_where_one_is_refused_besides(failing, patient)


def test_who_looks_at_the_refused_one_only_is_found(
    failing: MongoServer, patient: Keeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused_only = 'for problem in [] if error.details["writeErrors"] else error.details["writeConcernErrors"]:'
    monkeypatch.setattr(applying, "persist", mutated(persisting, WRITE_CONCERN, refused_only).persist)
    with pytest.raises(AssertionError):
        all_are_left_out_where_one_is_refused_besides(failing, patient)


def test_no_error_of_one_event_quotes_another(failing: MongoServer, patient: Keeper) -> None:
    """All events of a command share it, and a dead letter shows its traceback."""
    fail_writes(failing, 1, WRITE_CONCERN_FAILED)
    results = apply(patient, [[Block(BLOCKED, "mine", None)], [Block(BLOCKED, "neighbour", None)]])
    for result in results:
        assert result.error is not None
        said = "".join(traceback.format_exception(result.error))
        assert "WriteConcernError: failing" in said
        assert "neighbour" not in said
        assert "neighbour" not in str(getattr(result.error.__cause__, "details", None))


def test_who_does_not_look_for_it_is_found(
    failing: MongoServer, patient: Keeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(applying, "persist", mutated(persisting, WRITE_CONCERN, "for problem in ():").persist)
    with pytest.raises(AssertionError):
        no_event_is_applied_that_a_majority_may_not_have(failing, patient)
