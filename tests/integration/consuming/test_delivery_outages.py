"""Away is not failed: servers freeze and die while events come in. The worker waits, loses nothing, and goes on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from pymongo import ReadPreference
from redis.exceptions import ReadOnlyError, ResponseError

from cachekeeper.broker.names import DEAD_QUEUE, QUEUE
from cachekeeper.devservers import MongoServer, RedisServer
from producers import UserLoggedOut
from testkit.delivering import Site, remember_queues
from testkit.servers import RabbitServer
from testkit.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import redis

    from cachekeeper.devservers import FoundServer, Guardian
    from cachekeeper.devservers.worker_process import WorkerProcess

SOON = 60.0
EVENTS = 60

# For what does not depend on the broker.
one_broker = pytest.mark.parametrize("site", ["redis"], indirect=True)


@pytest.fixture(scope="module", params=["redis", "rabbitmq"])
def site(
    request: pytest.FixtureRequest, guardian: Guardian, redis_found: FoundServer, mongo_found: FoundServer
) -> Iterator[Site]:
    """Servers that may be stopped and killed."""
    cache = RedisServer(guardian, redis_found, name="cache")
    mongo = MongoServer(guardian, mongo_found)
    broker: RedisServer | RabbitServer
    if request.param == "redis":
        broker = RedisServer(guardian, redis_found, name="broker")
    else:
        broker = RabbitServer(guardian, request.getfixturevalue("rabbit_found"))
    servers = (cache, mongo, broker)
    for server in servers:
        server.start()
    with Site(guardian, broker, cache, mongo, "delivery_outages") as site:
        yield site
    for server in servers:
        server.kill()


@pytest.fixture
def worker(site: Site) -> Iterator[WorkerProcess]:
    with site.working() as worker:
        yield worker


def server_of(site: Site, name: str) -> RedisServer | MongoServer:
    return site.cache if name == "redis" else site.mongo


def take_away(server: RedisServer | MongoServer, how: str) -> None:
    if isinstance(server, MongoServer) and how == "deposed":  # and nobody is elected: it is the only one
        with server.client() as client:
            client.admin.command("replSetStepDown", 600, force=True)
    else:
        server.pause() if how == "frozen" else server.kill()


def bring_back(server: RedisServer | MongoServer, how: str) -> None:
    if isinstance(server, MongoServer) and how == "deposed":
        with server.client() as client:
            client.admin.command("replSetFreeze", 0, read_preference=ReadPreference.SECONDARY)
    elif how == "frozen":
        server.resume()
    else:
        server.start()  # Redis is empty then, MongoDB is not


def logouts(mark: str) -> list[UserLoggedOut]:
    return [UserLoggedOut(session_id=f"{mark}{n}", token_id=f"{mark}{n}") for n in range(EVENTS)]


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("redis", "frozen"),
        ("redis", "killed"),
        ("mongodb", "frozen"),
        ("mongodb", "killed"),
        ("mongodb", "deposed"),
    ],
)
def test_a_worker_waits_for_a_server_and_goes_on_by_itself(
    site: Site, worker: WorkerProcess, name: str, how: str
) -> None:
    mark, server = f"{name}-{how}-", server_of(site, name)
    site.publish(UserLoggedOut(token_id=f"{mark}before"))
    wait_until(lambda: site.client.exists(f"blocked:{mark}before"), "a worker that works", SOON)
    take_away(server, how)
    site.publish_each(*logouts(mark))
    # It notices, and puts back what it had: all events wait in the broker.
    wait_until(lambda: "stopped fetching events" in worker.log_tail(50), "a worker that waits", SOON)
    wait_until(lambda: site.waiting() == EVENTS, "all events in the broker", SOON)
    if site.is_rabbit:
        counts = site.deliveries()
        assert len(counts) == EVENTS
        # The outage costs a message one delivery: not as many as a worker could fetch and put back meanwhile.
        assert set(counts) <= {0, 1}
    else:
        assert site.held() == 0
    bring_back(server, how)
    keys = [f"blocked:{mark}{n}" for n in range(EVENTS)]
    wait_until(lambda: site.client.exists(*keys) == EVENTS, "all events applied", SOON)
    wait_until(lambda: not site.waiting(), "an empty queue", SOON)
    assert site.db["sessions"].count_documents({"_id": {"$regex": f"^{mark}"}, "ended_at": {"$exists": True}}) == EVENTS
    assert site.letters == []
    assert worker.log_tail(1000).count("stopped fetching events") <= 3
    assert "Traceback" not in worker.log_tail(1000)


@one_broker
def test_one_message_of_many_events_waits_for_a_frozen_server_once(site: Site, worker: WorkerProcess) -> None:
    site.mongo.pause()
    try:
        site.publish(*logouts("batch"))
        # Its time limit, not so many times its time limit as there are events.
        wait_until(lambda: "stopped fetching events" in worker.log_tail(50), "a worker that waits", 20)
        wait_until(lambda: site.waiting() == 1, "the message in the broker", 20)
    finally:
        site.mongo.resume()
    wait_until(lambda: site.client.exists(*(f"blocked:batch{n}" for n in range(EVENTS))) == EVENTS, "all applied", SOON)


@one_broker
def test_a_worker_that_starts_during_an_outage_waits(site: Site) -> None:
    site.mongo.pause()
    worker = site.worker()
    try:
        worker.start()  # it answers pings
        site.publish(UserLoggedOut(token_id="early"))
        wait_until(lambda: "events wait in the broker" in worker.log_tail(50), "a worker that waits", SOON)
        assert site.waiting() == 1
        assert not site.client.exists("blocked:early")
    finally:
        site.mongo.resume()
    wait_until(lambda: site.client.exists("blocked:early"), "the event applied", SOON)
    worker.stop()


@one_broker
@pytest.mark.parametrize("name", ["redis", "mongodb"])
def test_a_worker_that_waits_can_be_stopped(site: Site, worker: WorkerProcess, name: str) -> None:
    server = server_of(site, name)
    server.pause()
    try:
        site.publish(UserLoggedOut(session_id="stopped", token_id="stopped"))
        wait_until(lambda: "stopped fetching events" in worker.log_tail(50), "a worker that waits", SOON)
        worker.stop()  # it would be killed if it did not end
        assert worker.exit_text == "exited with status 0"
        assert site.waiting() == 1
    finally:
        server.resume()
    worker.start()
    wait_until(lambda: site.client.exists("blocked:stopped"), "the event applied", SOON)


# It answers pings, and reads.
REFUSES: dict[str, Callable[[redis.Redis], object]] = {
    "NOREPLICAS": lambda client: client.config_set("min-replicas-to-write", 1),
    "READONLY": lambda client: client.replicaof("127.0.0.1", 1),  # as after a failover; its primary is gone
}


def accept_writes(client: redis.Redis) -> None:
    client.config_set("min-replicas-to-write", 0)
    client.replicaof("NO", "ONE")


@one_broker
@pytest.mark.parametrize("word", REFUSES)
def test_a_redis_that_refuses_writes_is_away(site: Site, worker: WorkerProcess, word: str) -> None:
    REFUSES[word](site.client)
    try:
        with pytest.raises(ResponseError) as refused:
            site.client.set("refused", "1")
        assert type(refused.value) is (ReadOnlyError if word == "READONLY" else ResponseError)
        site.publish_each(*logouts(word))
        wait_until(lambda: "stopped fetching events" in worker.log_tail(50), "a worker that waits", SOON)
        wait_until(lambda: "while trying a write" in worker.log_tail(50), "a probe that fails", SOON)
        wait_until(lambda: site.waiting() == EVENTS, "all events in the broker", SOON)
        assert site.letters == []
    finally:
        accept_writes(site.client)
    keys = [f"blocked:{word}{n}" for n in range(EVENTS)]
    wait_until(lambda: site.client.exists(*keys) == EVENTS, "all events applied", SOON)
    assert site.letters == []


def test_a_broker_that_restarts_is_found_again(site: Site, worker: WorkerProcess) -> None:
    site.publish(UserLoggedOut(token_id="old"))
    wait_until(lambda: site.client.exists("blocked:old"), "a worker that works", SOON)
    remember_queues(site.broker, QUEUE, DEAD_QUEUE)
    site.broker.restart(keep_data=True)
    site.publish(*logouts("restarted"))
    keys = [f"blocked:restarted{n}" for n in range(EVENTS)]
    wait_until(lambda: site.client.exists(*keys) == EVENTS, "all events applied", SOON)
    assert worker.alive
    assert site.letters == []


def test_a_broker_that_restarts_while_the_worker_waits_brings_it_nothing(site: Site, worker: WorkerProcess) -> None:
    site.mongo.pause()
    try:
        site.publish_each(*logouts("both"))
        wait_until(lambda: site.waiting() == EVENTS, "all events in the broker", SOON)
        wait_until(lambda: "stopped fetching events" in worker.log_tail(50), "a worker that waits", SOON)
        remember_queues(site.broker, QUEUE, DEAD_QUEUE)
        site.broker.restart(keep_data=True)
        wait_until(lambda: "Connection to broker lost" in worker.log_tail(200), "a worker without a broker", SOON)
        # It connects again, and answers; but it fetches nothing.
        wait_until(lambda: worker._not_ready() is None, "a worker that answers", SOON)
        wait_until(lambda: site.waiting() == EVENTS, "all events in the broker", SOON)
    finally:
        site.mongo.resume()
    keys = [f"blocked:both{n}" for n in range(EVENTS)]
    wait_until(lambda: site.client.exists(*keys) == EVENTS, "all events applied", SOON)
    assert site.letters == []


@one_broker
def test_a_broker_that_dies_while_messages_are_in_hand_does_not_end_the_worker(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, seconds in (("LOAD_TIMEOUT", "40"), ("LOOKUP_TIMEOUT", "50"), ("LEASE", "50")):
        monkeypatch.setitem(site.environment, f"CACHEKEEPER_{name}_SECONDS", seconds)
    with site.working() as worker:
        pid = worker.pid
        site.mongo.pause()
        try:
            # Fewer than it may hold: it goes on asking for more.
            site.publish_each(*logouts("inhand")[:3])
            wait_until(lambda: not site.waiting(), "messages in hand", SOON)
            site.broker.kill()
            wait_until(lambda: "Connection to broker lost" in worker.log_tail(200), "a worker without a broker", SOON)
        finally:
            site.mongo.resume()
        # Applied, and nobody is there to hear it.
        wait_until(lambda: site.client.exists(*(f"blocked:inhand{n}" for n in range(3))) == 3, "all applied", SOON)
        site.broker.start()
        site.publish(UserLoggedOut(token_id="last"))
        wait_until(lambda: site.client.exists("blocked:last"), "an event after it", SOON)
        assert worker.alive
        assert worker.pid == pid
        assert "Traceback" not in worker.log_tail(1000)
        assert site.letters == []
