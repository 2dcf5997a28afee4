"""Fixtures of the relays' tests."""

from collections.abc import Iterator

import pytest

from testkit.shop import Shop
from tests.integration.relays.outbox_lab import OutboxLab
from tests.integration.relays.stream_lab import StreamLab


@pytest.fixture
def outbox_lab(shop: Shop) -> Iterator[OutboxLab]:
    """The outbox of one test."""
    lab = OutboxLab(shop)
    yield lab
    lab.close()


@pytest.fixture
def stream_lab(shop: Shop) -> Iterator[StreamLab]:
    """The change stream of one test."""
    lab = StreamLab(shop)
    yield lab
    lab.close()
