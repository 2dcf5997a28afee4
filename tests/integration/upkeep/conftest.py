"""Fixtures of the tests of upkeep."""

import pytest

from cachekeeper.upkeep import warming


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Views are warmed by three documents at once."""
    monkeypatch.setattr(warming, "BATCH", 3)
