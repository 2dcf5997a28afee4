"""A small `make soak`: a minute on both brokers side by side. Slow, because of the minute and the servers' start."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from verification.soak.__main__ import BROKERS
from verification.soak.small import missed, small_soak

if TYPE_CHECKING:
    from cachekeeper.devservers import Guardian


@pytest.mark.timeout(900)
@pytest.mark.usefixtures("redis_found", "mongo_found", "rabbit_found")
def test_nothing_grows_within_a_minute_of_reconnects(guardian: Guardian) -> None:
    found = small_soak(guardian, BROKERS, 60, cut_seconds=5)
    assert {kind: missed(kind, soaked) for kind, soaked in found.items()} == {kind: set() for kind in BROKERS}
    assert all(soaked.published > 0 for soaked in found.values())
    # Zero would mean that the figure is read from names that the worker no longer uses. Its upper limit would then
    # prove nothing.
    assert all(max(soaked.in_hand) > 0 for soaked in found.values())
    assert max(found["redis"].unacked) > 0
