"""Fixtures that only tests against real parts need."""

from pathlib import Path

import pytest

from tests.node import install
from tests.shop import shop, watched_mongo

__all__ = ["node_packages", "shop", "watched_mongo"]


@pytest.fixture(scope="session")
def node_packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the packages of examples/node; scripts are put there to run them."""
    return install(tmp_path_factory.mktemp("node"))
