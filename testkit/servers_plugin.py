"""Fixtures: real servers, started at first use, which end with pytest, even if pytest is ended by SIGKILL.

- `redis_server`: this process's Redis, empty at the start of every test.
- `any_redis`: runs the test once for every Redis-protocol server that was found.
- `mongo_server`: this process's MongoDB, a replica set of one; `database`: a fresh database name on it.
- `rabbit_server`: this process's RabbitMQ.
- `own_redis`, `own_mongo`, `own_rabbit`: a server for one test only, which may kill, pause and restart it.
- `guardian`: for servers that a test starts itself.

Under pytest-xdist every worker process has its own servers.
"""

import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pymongo
import pytest
from hypothesis import HealthCheck, settings

from cachekeeper.devservers import Guardian, MongoServer, RedisServer, find_mongod, find_redis
from cachekeeper.devservers.parents import end_with_parent
from testkit.parts import Report, required, unexpected_skips
from testkit.servers import RabbitServer, RedisChoice, find_rabbitmq, needed, redis_choices

if TYPE_CHECKING:
    from cachekeeper.devservers import FoundServer

report = Report()


def _noted(found: "FoundServer") -> "FoundServer":
    report.note(found)
    return found


# No deadline: on a shared machine the time of an example means nothing. In CI Hypothesis's own profile also fixes the
# examples.
settings.register_profile("busy", parent=settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")


@pytest.fixture(scope="session")
def guardian() -> Iterator[Guardian]:
    """A guardian, which ends the processes that this pytest process starts."""
    with Guardian() as guardian:
        yield guardian


@pytest.fixture(scope="session")
def redis_found() -> "FoundServer":
    """The Redis program that tests use by default."""
    return _noted(needed("any-redis", find_redis))


@pytest.fixture(scope="session")
def mongo_found() -> "FoundServer":
    """The mongod that tests use."""
    return _noted(needed("mongod", find_mongod))


@pytest.fixture(scope="session")
def _session_redis(guardian: Guardian, redis_found: "FoundServer") -> Iterator[RedisServer]:
    server = RedisServer(guardian, redis_found)
    server.start()
    yield server
    server.kill()


@pytest.fixture
def redis_server(_session_redis: RedisServer) -> RedisServer:
    """This process's Redis: without persistence, `noeviction`; empty at the start of every test."""
    _flush(_session_redis)
    return _session_redis


@pytest.fixture
def own_redis(guardian: Guardian, redis_found: "FoundServer") -> Iterator[RedisServer]:
    """A Redis of the test's own, to kill, pause and restart."""
    server = RedisServer(guardian, redis_found)
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="session", params=redis_choices(), ids=lambda choice: choice.label)
def _each_redis(request: pytest.FixtureRequest, guardian: Guardian) -> Iterator[RedisServer]:
    choice: RedisChoice = request.param
    server = RedisServer(guardian, _noted(choice.get()))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def any_redis(_each_redis: RedisServer) -> RedisServer:
    """Every Redis-protocol server that was found, one after the other; empty at the start of every test."""
    _flush(_each_redis)
    return _each_redis


def _flush(server: RedisServer) -> None:
    with server.client() as client:
        client.flushall()


@pytest.fixture(scope="session")
def mongo_server(guardian: Guardian, mongo_found: "FoundServer") -> Iterator[MongoServer]:
    """This process's MongoDB, a replica set of one. It removes expired documents every second."""
    server = MongoServer(guardian, mongo_found, parameters={"ttlMonitorSleepSecs": 1})
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="session")
def _mongo_client(mongo_server: MongoServer) -> Iterator[pymongo.MongoClient[dict[str, Any]]]:
    with mongo_server.client() as client:
        yield client


@pytest.fixture
def database(_mongo_client: pymongo.MongoClient[dict[str, Any]]) -> Iterator[str]:
    """The name of a database of the test's own, dropped afterwards. `mongo_server.url_of(database)` is its URL."""
    name = f"test_{secrets.token_hex(6)}"
    yield name
    _mongo_client.drop_database(name)


@pytest.fixture
def own_mongo(guardian: Guardian, mongo_found: "FoundServer") -> Iterator[MongoServer]:
    """A MongoDB of the test's own, to kill, pause and restart. Takes about a second to start."""
    server = MongoServer(guardian, mongo_found, parameters={"ttlMonitorSleepSecs": 1})
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="session")
def rabbit_found() -> "FoundServer":
    """The RabbitMQ that tests use."""
    return _noted(needed("rabbitmq", find_rabbitmq))


@pytest.fixture(scope="session")
def rabbit_server(guardian: Guardian, rabbit_found: "FoundServer") -> Iterator[RabbitServer]:
    """This process's RabbitMQ. Takes some seconds to start; use queues of the test's own."""
    server = RabbitServer(guardian, rabbit_found)
    server.start()
    yield server
    server.kill()


@pytest.fixture
def own_rabbit(guardian: Guardian, rabbit_found: "FoundServer") -> Iterator[RabbitServer]:
    """A RabbitMQ of the test's own, to kill, pause and restart."""
    server = RabbitServer(guardian, rabbit_found)
    server.start()
    yield server
    server.kill()


def pytest_configure(config: pytest.Config) -> None:
    """End a worker of pytest-xdist at once with its controller. By default it may first finish the test it runs."""
    if hasattr(config, "workerinput"):
        end_with_parent()


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a CI run that skipped tests it must not skip, and pass the report on."""
    output = getattr(session.config, "workeroutput", None)
    if output is not None:  # under pytest-xdist, in a worker: the controller reports
        output["servers"] = sorted(report.used)
        return
    stats = _stats(session.config)
    if required() and unexpected_skips(stats.get("skipped", [])) and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
    if path := os.environ.get("TEST_REPORT"):
        counted = {name: len(stats.get(name, [])) for name in ("passed", "failed", "error", "skipped")}
        report.write(Path(path), {**counted, "unexpected": sum(unexpected_skips(stats.get("skipped", [])).values())})


def _stats(config: pytest.Config) -> dict[str, list[Any]]:
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    stats: dict[str, list[Any]] = getattr(reporter, "stats", {})
    return stats


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:  # noqa: ARG001  (pytest-xdist's own signature)
    """Under pytest-xdist, in the controller: add a worker's report. A worker that crashed has no report."""
    report.used.update(getattr(node, "workeroutput", {}).get("servers", ()))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print at the end the servers that the tests used."""
    terminalreporter.write_sep("=", "ran against")
    for line in report.lines():
        terminalreporter.write_line(line)
    if required() and (reasons := unexpected_skips(terminalreporter.stats.get("skipped", []))):
        terminalreporter.write_sep("=", "skipped, and must not be", red=True)
        for reason, count in reasons.items():
            terminalreporter.write_line(f"{count} x {reason}")
