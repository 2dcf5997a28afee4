"""Known-bad variants of what `make soak` runs: each rises, and is found in half a minute on a Redis broker."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from verification.soak.__main__ import MUTANTS
from verification.soak.sampling import CONNECTIONS, FILES, MEMORY, THREADS
from verification.soak.small import missed, small_soak

if TYPE_CHECKING:
    from cachekeeper.devservers import Guardian


@pytest.mark.timeout(900)
@pytest.mark.usefixtures("redis_found", "mongo_found")
def test_what_leaks_at_each_reconnect_or_message_is_caught(guardian: Guardian) -> None:
    found = small_soak(guardian, ["redis"], 36, cut_seconds=3, mutant=",".join(MUTANTS))
    rise = "rise from then to the end"
    assert missed("redis", found["redis"]) >= {
        f"worker, {MEMORY}: {rise}",  # messages
        f"worker, {THREADS}: {rise}",  # threads
        f"worker, {FILES}: {rise}",  # sockets
        f"worker, {CONNECTIONS}: {rise}",  # sockets, too
        f"publisher, {FILES}: {rise}",  # connections
        "prefetch that the worker applies, the most",  # prefetch
    }
