"""The wait of relay and change stream while a server is away."""

from typing import Any

import pytest
from pymongo.errors import AutoReconnect, NotPrimaryError, OperationFailure

from cachekeeper.errors import BrokerUnavailable, DatabaseUnavailable
from cachekeeper.runtime.backoff import Backoff
from testkit.waiting import Waits


def test_it_waits_longer_each_time_up_to_a_limit_and_begins_anew() -> None:
    waits = Waits()
    backoff = Backoff(waits, waits="it waits", goes_on="it goes on")
    for _ in range(20):
        backoff.failed(DatabaseUnavailable("away"))
    for number, seconds in enumerate(waits.seconds):
        longest = min(0.1 * 2**number, 5)
        assert longest / 2 <= seconds <= longest, number
    assert len({seconds / 5 for seconds in waits.seconds[8:]}) > 1, "relays would come back together"
    backoff.succeeded()
    backoff.failed(DatabaseUnavailable("away"))
    assert waits.seconds[-1] <= 0.1


def test_an_outage_is_said_once_and_that_of_another_server_too(caplog: pytest.LogCaptureFixture) -> None:
    def said() -> list[Any]:
        return [record.getMessage().partition(", after")[0] for record in caplog.records]

    backoff = Backoff(Waits(), waits="it waits", goes_on="it goes on")
    backoff.succeeded()
    for error in (DatabaseUnavailable("a"), DatabaseUnavailable("b"), BrokerUnavailable("c"), BrokerUnavailable("d")):
        backoff.failed(error)
    backoff.succeeded()
    backoff.succeeded()
    backoff.failed(DatabaseUnavailable("e"))
    assert said() == ["it waits: a", "it waits: c", "it goes on", "it waits: e"]


def test_another_cause_within_an_outage_is_said_and_each_once(caplog: pytest.LogCaptureFixture) -> None:
    def failure(cause: Exception) -> DatabaseUnavailable:
        error = DatabaseUnavailable(f"MongoDB failed ({type(cause).__name__})")
        error.__cause__ = cause
        return error

    backoff = Backoff(Waits(), waits="it waits", goes_on="it goes on")
    for cause in (
        NotPrimaryError("p4ss"),
        AutoReconnect("p4ss"),
        NotPrimaryError("p4ss"),
        OperationFailure("p4ss", 18),
    ):
        backoff.failed(failure(cause))
        backoff.failed(failure(cause))
    assert [record.getMessage() for record in caplog.records] == [
        f"it waits: MongoDB failed ({name})" for name in ("NotPrimaryError", "AutoReconnect", "OperationFailure")
    ]
