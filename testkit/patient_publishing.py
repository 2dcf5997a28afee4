"""Publishing to a broker that is well, where a test counts messages.

A publisher that is not answered in time tries again, and then a message may be there twice: so on a machine that is
paused for a second. The limit of an answer is the shorter of a constant and a fourth of the limit of a publish; here
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
"""What is waited for an answer then. With a limit of a few seconds, as tests of outages have, little changes."""

IN_A_CHILD = f"""
from cachekeeper.publishing import publisher
publisher._CALL_SECONDS = {ANSWER_SECONDS}
"""
"""The first lines of a program of its own that is as patient."""


@contextmanager
def patience() -> Iterator[None]:
    """Publishers of this process with that limit wait as long for an answer."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(publisher, "_CALL_SECONDS", ANSWER_SECONDS)
        yield


@pytest.fixture
def patient_publishing() -> Iterator[None]:
    """The same for a whole test."""
    with patience():
        yield


def give_patience(impatient: Publisher, broker_url: str) -> None:
    """That limit, from the next message on."""
    impatient._settings = PublisherSettings(broker_url=broker_url, publish_timeout_seconds=PUBLISH_SECONDS)
