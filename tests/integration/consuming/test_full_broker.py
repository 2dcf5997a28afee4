"""Workers of a Redis broker at its memory limit: no event is lost, and it is emptied, so that there is room again."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from cachekeeper.devservers import RedisServer
from cachekeeper.devservers.worker_process import WorkerProcess
from cachekeeper.errors import BrokerUnavailable
from producers import UserLoggedOut
from testkit.delivering import Site
from testkit.full_brokers import full
from testkit.servers import RedisChoice, redis_choices
from testkit.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cachekeeper.devservers import Guardian, MongoServer

SOON = 60.0
ROUNDS, EACH = 20, 10


@pytest.fixture(scope="module", params=redis_choices(), ids=lambda choice: choice.label)
def broker(request: pytest.FixtureRequest, guardian: Guardian) -> Iterator[RedisServer]:
    """One broker of each kind of server that there is."""
    choice: RedisChoice = request.param
    server = RedisServer(guardian, choice.get(), name="broker")
    server.start()
    yield server
    server.kill()


@pytest.fixture
def site(
    guardian: Guardian, broker: RedisServer, redis_server: RedisServer, mongo_server: MongoServer, database: str
) -> Iterator[Site]:
    with broker.client() as client:
        client.flushall()
    with Site(guardian, broker, redis_server, mongo_server, database) as site:
        yield site


def applied(site: Site, tokens: list[str]) -> int:
    return int(site.client.exists(*(f"blocked:{token}" for token in tokens)))


def drained(site: Site) -> bool:
    return not site.waiting() and not site.held()


def test_nothing_is_lost_by_a_broker_that_is_full_again_and_again(site: Site, broker: RedisServer) -> None:
    """kombu takes an event off the list with one command and records it with a second, which a full broker refuses."""
    tokens = [f"full-{number}" for number in range(ROUNDS * EACH)]
    with site.working() as worker:
        site.settle()
        for number in range(ROUNDS):
            worker.pause()
            site.publish_each(*(UserLoggedOut(token_id=token) for token in tokens[number * EACH : (number + 1) * EACH]))
            with full(broker):
                worker.resume()
                # Taken, applied and acknowledged while there is no room.
                wait_until(lambda: drained(site), "an empty broker", SOON)
        assert applied(site, tokens) == ROUNDS * EACH
        assert worker.alive
    assert site.letters == []


def test_a_queue_that_fills_its_broker_is_emptied(site: Site, broker: RedisServer) -> None:
    """The limit is crossed by the events themselves: published until it is full, and again where some were taken."""
    tokens: list[str] = []
    with site.working() as worker, broker.client() as client:
        site.settle()
        worker.pause()
        client.config_set("maxmemory", int(client.info("memory")["used_memory"]) + 60_000)
        try:
            refused = 0
            # How many fill it depends on what the server happened to hold for its clients.
            while len(tokens) < (200 if refused else 2_000):
                tokens.append(f"filled-{len(tokens)}")
                while True:
                    try:
                        site.publisher.publish(UserLoggedOut(token_id=tokens[-1]))
                    except BrokerUnavailable:
                        refused += 1
                        worker.resume()
                    else:
                        break
            worker.resume()
            assert refused, "the broker was full"
            wait_until(lambda: drained(site), "an empty broker", SOON)
        finally:
            client.config_set("maxmemory", 0)
        assert applied(site, tokens) == len(tokens)
    assert site.letters == []


def pinged(worker: WorkerProcess) -> int:
    """The exit status of what an orchestrator runs to know whether a worker is well."""
    return subprocess.run(
        [sys.executable, "-m", "celery", "-A", "cachekeeper", "inspect", "ping", "--timeout", "10"],
        env={**os.environ, **worker.environment},
        check=False,
        capture_output=True,
        timeout=SOON,
    ).returncode


class Unasked(WorkerProcess):
    """A worker that is not asked whether it is ready: who asks uses kombu as it is, which a full broker refuses."""

    def _not_ready(self) -> None:
        return None


def test_a_worker_that_starts_while_the_broker_is_full_empties_it(site: Site, broker: RedisServer) -> None:
    """Else nobody ever does: declaring the queue, and saying which it listens to, are writes too."""
    tokens = [f"late-{number}" for number in range(EACH)]
    site.publish_each(*(UserLoggedOut(token_id=token) for token in tokens))
    worker = Unasked(site.guardian, site.worker().environment)
    with full(broker):
        worker.start()
        wait_until(lambda: applied(site, tokens) == EACH or not worker.alive, "all applied", SOON)
        wait_until(lambda: drained(site), "an empty broker", SOON)
        assert pinged(worker) == 0
        worker.stop()
    assert worker.exit_text == "exited with status 0"
    assert "Traceback" not in worker.log_tail(1000)
