"""What is said of an error of MongoDB: an outage or a refusal, and the cure that is true of it."""

from __future__ import annotations

import pytest
from pymongo.errors import ExecutionTimeout, OperationFailure, WriteConcernError, WTimeoutError

from cachekeeper.connections.mongodb_errors import database_errors
from cachekeeper.errors import DatabaseUnavailable

SECRET = "'Ada' of somebody"  # what the server's text may quote


def said(error: Exception) -> str:
    with pytest.raises(DatabaseUnavailable) as told, database_errors("looking", 5):
        raise error
    assert SECRET not in str(told.value)
    assert told.value.__cause__ is error
    return str(told.value)


def failure(code: int, text: str, name: str | None = None, labels: tuple[str, ...] = ()) -> OperationFailure:
    details = {"code": code, "errmsg": f"{text} {SECRET}", "errorLabels": [*labels]}
    return OperationFailure(f"{text}, full error: {SECRET}", code, {**details, **({"codeName": name} if name else {})})


@pytest.mark.parametrize("text", ["bad auth : Authentication failed.", "Bad Auth: no such user"])
def test_a_login_that_atlas_refuses_has_the_password_as_its_cure(text: str) -> None:
    assert "the password or the authSource of this connection is wrong" in said(failure(8000, text, "AtlasError"))


@pytest.mark.parametrize(
    "text", ["you are over your space quota, using 512 MB of 512 MB", "CMD_NOT_ALLOWED: a bad auth mechanism", ""]
)
def test_another_refusal_of_atlas_does_not(text: str) -> None:
    assert said(failure(8000, text, "AtlasError")) == "MongoDB refused while looking (AtlasError, code 8000)"


@pytest.mark.parametrize(
    "text",
    [
        "command find requires authentication",
        "Command find requires authentication",
        "there are no users authenticated",
    ],
)
def test_where_no_user_is_given_one_is_missing_and_no_role(text: str) -> None:
    words = said(failure(13, text, "Unauthorized"))
    assert words.startswith("MongoDB refused while looking (Unauthorized, code 13): this connection does not log in")
    assert "role" not in words


def test_a_user_without_the_right_lacks_a_role() -> None:
    words = said(failure(13, "not authorized on shop to execute command", "Unauthorized"))
    assert "(Unauthorized, code 13): the user of this connection lacks a role: grant it readWrite" in words


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ExecutionTimeout("operation exceeded time limit", 50, {"codeName": "MaxTimeMSExpired"}), "MaxTimeMSExpired"),
        (WTimeoutError("waiting for replication timed out", 64, {"codeName": "WriteConcernFailed"}), "code 64"),
        (WriteConcernError("not enough data-bearing nodes", 100, {}), "code 100"),
        (failure(276, "aborted", "IndexBuildAborted"), "IndexBuildAborted, code 276"),
        (failure(112, "write conflict", "WriteConflict"), "WriteConflict, code 112"),
        (failure(11602, "interrupted", "InterruptedDueToReplStateChange"), "code 11602"),
        (failure(4242, "whatever", None, ("RetryableWriteError",)), "code 4242"),
    ],
    ids=lambda each: type(each).__name__ if isinstance(each, Exception) else each,
)
def test_what_passes_is_an_outage_and_no_refusal(error: OperationFailure, code: str) -> None:
    words = said(error)
    assert words.startswith("MongoDB failed while looking (")
    assert code in words
