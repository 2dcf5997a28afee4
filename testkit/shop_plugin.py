"""Fixtures for tests against real parts only."""

from collections.abc import Generator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pymongo
import pytest
import redis

from cachekeeper import metrics
from cachekeeper.connections.mongodb import DatabaseReads
from cachekeeper.devservers import FoundServer, Guardian, MongoServer, RedisServer
from cachekeeper.devservers.ports import free_port
from cachekeeper.devservers.worker_process import WorkerProcess
from cachekeeper.model.sources import Absent
from cachekeeper.protocol import Value
from cachekeeper.reading.keeper import Keeper
from cachekeeper.reading.singleflight import Flight
from testkit.delivering import site, worker
from testkit.failpoints import failing, failing_server
from testkit.leftovers import ProgramDirectory
from testkit.node import install
from testkit.parts import missing
from testkit.patient_publishing import patient_publishing
from testkit.shop import Shop
from testkit.taps import MongoTap
from testkit.tokens import keeping
from testkit.waiting import wait_until
from testkit.watching import Reads

__all__ = [
    "failing",
    "failing_server",
    "node_packages",
    "patient_publishing",
    "place",
    "site",
    "worker",
]

_LOG_LINES = 60


@pytest.fixture(scope="session")
def watched_mongo(mongo_server: MongoServer) -> Iterator[tuple[pymongo.MongoClient[Any], Reads]]:
    """A client whose reads are watched. One for all tests, because a client costs a connection and threads."""
    reads = Reads()
    with mongo_server.client(event_listeners=[reads]) as client:
        yield client, reads


@pytest.fixture(autouse=True)
def _nothing_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this process log again what it logs only once."""
    monkeypatch.setattr(metrics, "_said", set())


@pytest.fixture
def shop(
    redis_server: RedisServer,
    mongo_server: MongoServer,
    database: str,
    watched_mongo: tuple[pymongo.MongoClient[Any], Reads],
) -> Iterator[Shop]:
    """A shop on this process's servers, empty."""
    client, reads = watched_mongo
    reads.reset()
    made = Shop(redis_server, mongo_server, database, client, reads)
    yield made
    made.close()


@pytest.fixture
def arrivals(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A list of the waits that readers reach: `flight` for another reader's load, `slot` for a read of MongoDB."""
    seen: list[str] = []
    wait, slot = Flight.wait, DatabaseReads.slot

    def telling_wait(self: Flight, seconds: float) -> Value | Absent | None:
        seen.append("flight")
        return wait(self, seconds)

    def telling_slot(self: DatabaseReads, patience: float) -> Any:
        seen.append("slot")
        return slot(self, patience)

    monkeypatch.setattr(Flight, "wait", telling_wait)
    monkeypatch.setattr(DatabaseReads, "slot", telling_slot)
    return seen


@pytest.fixture
def stocked(shop: Shop) -> Shop:
    """A shop whose database has one user, one session and one product."""
    ends = datetime.now(UTC) + timedelta(minutes=30)
    shop.db.users.insert_one({"_id": 1, "name": "Ann", "version": 1})
    shop.db.sessions.insert_one({"_id": "s1", "data": {"cart": [1]}, "version": 1, "expires_at": ends})
    shop.db.products.insert_one({"_id": 1, "name": "Lamp"})
    return shop


@pytest.fixture(scope="session")
def node_packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the packages of examples/node. Scripts are copied there to run them."""
    return install(tmp_path_factory.mktemp("node"))


@pytest.fixture
def cluster(guardian: Guardian, redis_found: FoundServer) -> Iterator[RedisServer]:
    """A Redis Cluster of one server."""
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
    """A MongoDB client with a database of the test's own. It notes its commands, and can be held before each."""
    with MongoTap(mongo_server, database) as mongo:
        yield mongo


@pytest.fixture
def client(redis_server: RedisServer) -> Iterator[redis.Redis]:
    """A plain client of this process's Redis."""
    with redis_server.client() as client:
        yield client


@pytest.fixture
def keeper(redis_server: RedisServer, mongo: MongoTap) -> Iterator[Keeper]:
    """A keeper on this process's servers, with long time limits. Its commands to MongoDB are tapped."""
    with keeping(redis_server.url, mongo) as keeper:
        yield keeper


@pytest.fixture
def place(tmp_path: Path, guardian: Guardian) -> Iterator[ProgramDirectory]:
    """A directory in which the programs of one test run. Processes that the test leaves are killed."""
    place = ProgramDirectory(tmp_path, guardian)
    yield place
    place.clear()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the workers' logs with a failed test, so that a failure once in a hundred runs can be explained."""
    made = yield
    if made.failed:
        for name, value in getattr(item, "funcargs", {}).items():
            if isinstance(value, WorkerProcess):
                made.sections.append((f"log of {name}", value.log_tail(_LOG_LINES)))
    return made
