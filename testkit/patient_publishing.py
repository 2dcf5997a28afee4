"""Publishing with long time limits, for tests that count messages in a working broker.

A publisher that gets no answer in time retries, and then a message may be there twice. This happens on a machine that
is paused for a second. The limit of an answer is the shorter of a constant and a fourth of the limit of a publish; here
both are long.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from cachekeeper.publishing import publisher
from cachekeeper.publishing.publisher import Publisher
from cachekeeper.settings import PublisherSettings

PUBLISH_SECONDS = 120.0
"""For `CACHEKEEPER_PUBLISH_TIMEOUT_SECONDS`."""

ANSWER_SECONDS = 30.0
"""The limit for an answer. With a publish limit of a few seconds, as in tests of outages, it changes little."""

IN_A_CHILD = f"""
from cachekeeper.publishing import publisher
publisher._CALL_SECONDS = {ANSWER_SECONDS}
"""
"""The first lines of a separate program that waits as long."""


@contextmanager
def patience() -> Iterator[None]:
    """Make publishers of this process with that publish limit wait as long for an answer."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(publisher, "_CALL_SECONDS", ANSWER_SECONDS)
        yield


@pytest.fixture
def patient_publishing() -> Iterator[None]:
    """`patience` for a whole test."""
    with patience():
        yield


def give_patience(impatient: Publisher, broker_url: str) -> None:
    """Give a publisher that publish limit, from the next message on."""
    impatient._settings = PublisherSettings(broker_url=broker_url, publish_timeout_seconds=PUBLISH_SECONDS)
