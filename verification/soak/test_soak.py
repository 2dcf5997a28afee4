"""A small `make soak`: a minute on both brokers side by side. Slow, because of the minute and the servers' start."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from verification.soak.__main__ import BROKERS, MUTANTS, soak
from verification.soak.results import figures_of
from verification.soak.sampling import CONNECTIONS, FILES, MEMORY, THREADS

if TYPE_CHECKING:
    from cachekeeper.devservers import Guardian
    from verification.soak.sampling import Soaked

RATE = 150.0
VISIBILITY = 10  # seconds until Redis delivers again; the shipped minute would slow the test down
SEED = 3


def missed(kind: str, soaked: Soaked) -> set[str]:
    return {each.figure.removeprefix(f"{kind}: ") for each in figures_of(kind, soaked) if each.held is False}


@pytest.mark.timeout(900)
@pytest.mark.usefixtures("redis_found", "mongo_found", "rabbit_found")
def test_nothing_grows_within_a_minute_of_reconnects(guardian: Guardian) -> None:
    found = soak(guardian, BROKERS, 60, rate=RATE, cut_seconds=5, seed=SEED, visibility=VISIBILITY)
    assert {kind: missed(kind, soaked) for kind, soaked in found.items()} == {kind: set() for kind in BROKERS}
    assert all(soaked.published > 0 for soaked in found.values())
    # Zero would mean that the figure is read from names that the worker no longer uses. Its upper limit would then
    # prove nothing.
    assert all(max(soaked.in_hand) > 0 for soaked in found.values())
    assert max(found["redis"].unacked) > 0


@pytest.mark.timeout(900)
@pytest.mark.usefixtures("redis_found", "mongo_found")
def test_what_leaks_at_each_reconnect_or_message_is_caught(guardian: Guardian) -> None:
    every = ",".join(MUTANTS)
    found = soak(guardian, ["redis"], 36, rate=RATE, cut_seconds=3, seed=SEED, mutant=every, visibility=VISIBILITY)
    rise = "rise from then to the end"
    assert missed("redis", found["redis"]) >= {
        f"worker, {MEMORY}: {rise}",  # messages
        f"worker, {THREADS}: {rise}",  # threads
        f"worker, {FILES}: {rise}",  # sockets
        f"worker, {CONNECTIONS}: {rise}",  # sockets, too
        f"publisher, {FILES}: {rise}",  # connections
        "prefetch that the worker applies, the most",  # prefetch
    }
