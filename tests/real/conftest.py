"""Fixtures that only tests against real parts need."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from cachekeeper.embedded import Guardian
from tests.node import install
from tests.real.delivering import site, worker
from tests.real.leftovers import Place
from tests.real.outbox_lab import lab
from tests.shop import arrivals, shop, stocked, watched_mongo

__all__ = ["arrivals", "lab", "node_packages", "place", "shop", "site", "stocked", "watched_mongo", "worker"]


@pytest.fixture(scope="session")
def node_packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the packages of examples/node; scripts are put there to run them."""
    return install(tmp_path_factory.mktemp("node"))


@pytest.fixture
def place(tmp_path: Path, guardian: Guardian) -> Iterator[Place]:
    """Where the programs of one test run; what the test leaves is killed."""
    place = Place(tmp_path, guardian)
    yield place
    place.clear()
