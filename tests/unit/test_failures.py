"""A failure in the log: ours by its text, all others by class and place, since their text may contain a token."""

import logging

import pytest

from cachekeeper.errors import BrokerUnavailable
from cachekeeper.runtime.failures import failure_text, log_failure

TOKEN = "correct-horse-battery-staple"


def logged(caplog: pytest.LogCaptureFixture, error: Exception) -> tuple[int, str]:
    try:
        raise error
    except type(error) as caught:
        log_failure("%d events wait in 100 %%", 3, error=caught)
    (record,) = caplog.records
    return record.levelno, record.getMessage()


def test_an_error_of_our_own_is_a_warning_with_its_text(caplog: pytest.LogCaptureFixture) -> None:
    error = BrokerUnavailable("the broker did not answer")
    assert logged(caplog, error) == (logging.WARNING, "3 events wait in 100 %: the broker did not answer")
    assert failure_text(error) == "the broker did not answer"


def test_any_other_error_is_told_by_class_and_place_alone(caplog: pytest.LogCaptureFixture) -> None:
    level, said = logged(caplog, KeyError(TOKEN))
    first, *where = said.splitlines()
    assert (level, first) == (logging.ERROR, "3 events wait in 100 %: KeyError")
    assert any("test_failures.py" in line for line in where)
    assert TOKEN not in said
    assert failure_text(KeyError(TOKEN)) == "KeyError"
