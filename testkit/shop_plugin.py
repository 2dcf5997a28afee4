"""Fixtures that only tests against real parts need."""

from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from cachekeeper.devservers import FoundServer, Guardian, MongoServer, RedisServer
from cachekeeper.devservers.ports import free_port
from cachekeeper.devservers.worker_process import WorkerProcess
from testkit.delivering import site, worker
from testkit.failpoints import failing, failing_server
from testkit.leftovers import Place
from testkit.node import install
from testkit.parts import missing
from testkit.patient_publishing import patient_publishing
from testkit.shop import arrivals, shop, stocked, watched_mongo
from testkit.taps import MongoTap
from testkit.waiting import wait_until

__all__ = [
    "arrivals",
    "failing",
    "failing_server",
    "node_packages",
    "patient_publishing",
    "place",
    "shop",
    "site",
    "stocked",
    "watched_mongo",
    "worker",
]

_LOG_LINES = 60


@pytest.fixture(scope="session")
def node_packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the packages of examples/node; scripts are put there to run them."""
    return install(tmp_path_factory.mktemp("node"))


@pytest.fixture
def cluster(guardian: Guardian, redis_found: FoundServer) -> Iterator[RedisServer]:
    """A Cluster of one."""
    if redis_found.version.startswith("6."):
        missing("cluster", f"{redis_found} is older")
    config: dict[str, str | int] = {"cluster-enabled": "yes", "cluster-port": free_port()}
    server = RedisServer(guardian, redis_found, config=config)
    server.start()
    with server.client() as client:
        client.execute_command("CLUSTER", "ADDSLOTS", *range(16384))
        wait_until(lambda: b"cluster_state:ok" in client.execute_command("CLUSTER", "INFO"), "the Cluster")
    yield server
    server.kill()


@pytest.fixture
def mongo(mongo_server: MongoServer, database: str) -> Iterator[MongoTap]:
    """A client of MongoDB with a database of the test's own, that notes its commands and can be held at them."""
    with MongoTap(mongo_server, database) as mongo:
        yield mongo


@pytest.fixture
def place(tmp_path: Path, guardian: Guardian) -> Iterator[Place]:
    """Where the programs of one test run; what the test leaves is killed."""
    place = Place(tmp_path, guardian)
    yield place
    place.clear()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Beside what failed, show what its workers have logged: what happens once in a hundred runs must tell why."""
    made = yield
    if made.failed:
        for name, value in getattr(item, "funcargs", {}).items():
            if isinstance(value, WorkerProcess):
                made.sections.append((f"log of {name}", value.log_tail(_LOG_LINES)))
    return made
