"""Publishing on real brokers: confirmed, or a typed error within the limit."""

from __future__ import annotations

import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from kombu import Connection

from cachekeeper.broker.names import QUEUE
from cachekeeper.broker.queues import work_queue
from cachekeeper.devservers import RedisServer
from cachekeeper.errors import BrokerUnavailable
from cachekeeper.publishing import publisher as publishers
from cachekeeper.publishing.publisher import Publisher, publish, publish_many
from cachekeeper.settings import PublisherSettings
from producers import UserDeleted, UserUpdated
from testkit.delivering import remember_queues
from testkit.patient_publishing import PUBLISH_SECONDS
from testkit.servers import RabbitServer
from testkit.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cachekeeper.devservers import FoundServer, Guardian

EVENT = UserDeleted(user_id="42")

# What is only late, and so sent again, would be counted twice.
pytestmark = pytest.mark.usefixtures("patient_publishing")

LIMIT = 3.0  # for brokers that are away
SLACK = 5.0  # a busy machine


@pytest.fixture(scope="module", params=["redis", "rabbitmq"])
def _broker(
    request: pytest.FixtureRequest, guardian: Guardian, redis_found: FoundServer
) -> Iterator[RedisServer | RabbitServer]:
    server: RedisServer | RabbitServer
    if request.param == "redis":
        server = RedisServer(guardian, redis_found, name="broker")
    else:
        server = RabbitServer(guardian, request.getfixturevalue("rabbit_found"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def broker(_broker: RedisServer | RabbitServer) -> RedisServer | RabbitServer:
    """A broker with an empty queue that a test may stop and kill."""
    if not _broker.alive:
        _broker.start()
    take(_broker)
    remember_queues(_broker, QUEUE)
    return _broker


def limits(broker: RedisServer | RabbitServer, seconds: float) -> PublisherSettings:
    return PublisherSettings(broker_url=broker.url, publish_timeout_seconds=seconds)


@pytest.fixture
def publisher(broker: RedisServer | RabbitServer) -> Iterator[Publisher]:
    publisher = Publisher(limits(broker, PUBLISH_SECONDS))
    yield publisher
    publisher.close()


@contextmanager
def limited(publisher: Publisher, broker: RedisServer | RabbitServer) -> Iterator[None]:
    """While the test takes the broker away, the publisher has little time, and so have its new connections."""
    before, publisher._settings = publisher._settings, limits(broker, LIMIT)
    yield
    publisher._settings = before


def take(broker: RedisServer | RabbitServer) -> list[list[dict[str, Any]]]:
    """All messages, taken out of the queue: the events of each."""
    found = []
    with Connection(broker.url) as connection:
        channel: Any = connection.default_channel
        work_queue(broker.url)(channel).declare()
        while (message := channel.basic_get(QUEUE, no_ack=True)) is not None:
            arguments, keywords, _ = json.loads(message.body)
            assert keywords == {}
            assert len(arguments) == 1
            found.append(arguments[0])
    return found


def unconfirmed(publisher: Publisher) -> None:
    """An event that is not confirmed is a typed error, within the limit."""
    began = time.monotonic()
    with pytest.raises(BrokerUnavailable) as caught:
        publisher.publish(EVENT)
    assert time.monotonic() - began < LIMIT + SLACK
    assert "guest" not in str(caught.value)  # the URL's password


def wait_until_published(publisher: Publisher) -> None:
    """Try until an event is confirmed."""

    def confirmed() -> bool:
        try:
            publisher.publish(EVENT)
        except BrokerUnavailable:
            return False
        return True

    wait_until(confirmed, "a broker that takes events", 60)


def ready_again(broker: RedisServer | RabbitServer) -> None:
    """Wait until a broker that was away takes events, and empty its queue: RabbitMQ's elects a leader first."""
    other = Publisher(PublisherSettings(broker_url=broker.url))
    wait_until_published(other)
    other.close()
    take(broker)


def test_one_event(publisher: Publisher, broker: RedisServer | RabbitServer) -> None:
    publisher.publish(EVENT)
    assert take(broker) == [[EVENT.to_wire()]]


def test_a_message_is_what_celery_expects(publisher: Publisher, broker: RedisServer | RabbitServer) -> None:
    publisher.publish_many([EVENT, EVENT])
    with Connection(broker.url) as connection:
        channel: Any = connection.default_channel
        message = channel.basic_get(QUEUE, no_ack=True)
    assert message.content_type == "application/json"
    assert message.headers["task"] == "cachekeeper.apply"
    assert message.headers["id"] == message.properties["correlation_id"]
    assert message.properties["delivery_mode"] == 2
    # Celery writes them into logs.
    assert "42" not in message.headers["argsrepr"] + message.headers["kwargsrepr"]


def test_many_events_travel_in_few_messages(publisher: Publisher, broker: RedisServer | RabbitServer) -> None:
    events = [UserUpdated(user_id=str(number), name=f"n{number}", version=1) for number in range(1200)]
    assert publisher.publish_many(event for event in events) == 1200
    messages = take(broker)
    assert [len(bodies) for bodies in messages] == [500, 500, 200]
    assert [body for bodies in messages for body in bodies] == [event.to_wire() for event in events]


def test_threads_share_a_publisher(publisher: Publisher, broker: RedisServer | RabbitServer) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: publisher.publish(UserDeleted(user_id=str(number))), range(200)))
    ids = [int(body["user_id"]) for (body,) in take(broker)]
    assert sorted(ids) == list(range(200))


def test_a_forked_child_has_connections_of_its_own(publisher: Publisher, broker: RedisServer | RabbitServer) -> None:
    publisher.publish(UserDeleted(user_id="parent"))
    (parents,) = publisher._idle
    child = os.fork()
    if child == 0:
        status = 1
        try:
            for number in range(50):
                publisher.publish(UserDeleted(user_id=f"child{number}"))
            status = 2 if parents in publisher._idle else 0
            publisher.close()
        finally:
            os._exit(status)
    for number in range(50):
        publisher.publish(UserDeleted(user_id=f"parent{number}"))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    publisher.publish(UserDeleted(user_id="after"))  # the child's end has not closed the parent's connection
    ids = {body["user_id"] for (body,) in take(broker)}
    assert len(ids) == 102
    assert "after" in ids
    assert publisher._idle == [parents]


def test_a_broker_that_is_down(publisher: Publisher, broker: RedisServer | RabbitServer) -> None:
    broker.kill()
    with limited(publisher, broker):
        unconfirmed(publisher)
    broker.start()
    ready_again(broker)
    publisher.publish(EVENT)
    assert take(broker) == [[EVENT.to_wire()]]


def test_a_broker_that_goes_down(publisher: Publisher, broker: RedisServer | RabbitServer) -> None:
    publisher.publish(EVENT)
    broker.kill()
    with limited(publisher, broker):
        unconfirmed(publisher)
        unconfirmed(publisher)
    broker.start()
    ready_again(broker)


def test_a_broker_that_hangs(publisher: Publisher, broker: RedisServer | RabbitServer) -> None:
    broker.pause()
    try:
        with limited(publisher, broker):
            unconfirmed(publisher)
    finally:
        broker.resume()
    ready_again(broker)
    publisher.publish(EVENT)


def test_a_broker_that_begins_to_hang(publisher: Publisher, broker: RedisServer | RabbitServer) -> None:
    with limited(publisher, broker):
        wait_until_published(publisher)  # a connection that gives up soon; so a broker that is well may be late for it
        broker.pause()
        try:
            unconfirmed(publisher)
            unconfirmed(publisher)
            began = time.monotonic()
            publisher.close()
            assert time.monotonic() - began < LIMIT + SLACK
        finally:
            broker.resume()
    ready_again(broker)
    publisher.publish(EVENT)
    assert take(broker) == [[EVENT.to_wire()]]


def test_a_broker_that_was_restarted_costs_no_error(publisher: Publisher, broker: RedisServer | RabbitServer) -> None:
    with ThreadPoolExecutor(4) as pool:  # several connections in store
        list(pool.map(lambda _: publisher.publish(EVENT), range(40)))
    broker.restart(keep_data=True)
    ready_again(broker)
    publisher.publish(UserDeleted(user_id="afterwards"))
    assert [bodies[0]["user_id"] for bodies in take(broker)] == ["afterwards"]


def test_a_queue_that_was_deleted_is_made_again(publisher: Publisher, broker: RedisServer | RabbitServer) -> None:
    publisher.publish(EVENT)
    if isinstance(broker, RedisServer):
        with broker.client() as client:
            client.flushall()
    else:
        with Connection(broker.url) as connection:
            channel: Any = connection.default_channel
            channel.queue_delete(QUEUE)
    # RabbitMQ confirms what it drops for want of a queue; it has to be asked to say so.
    publisher.publish(UserDeleted(user_id="afterwards"))
    assert [bodies[0]["user_id"] for bodies in take(broker)] == ["afterwards"]
    if isinstance(broker, RabbitServer):
        # Empty, for the next test: in its files the name of the deleted queue stands for the new one's, which a node
        # that is killed within a second would not know (see `remember_queues`).
        broker.restart()


def test_a_password_that_is_wrong_is_no_outage_without_end(broker: RedisServer | RabbitServer) -> None:
    if isinstance(broker, RabbitServer):
        url = broker.url.replace("guest:guest", "guest:hunter2")
    else:
        url = broker.url.replace("redis://", "redis://nobody:hunter2@")
    publisher = Publisher(PublisherSettings(broker_url=url, publish_timeout_seconds=LIMIT))
    with pytest.raises(BrokerUnavailable) as caught:
        publisher.publish(EVENT)
    assert "hunter2" not in str(caught.value)


def test_the_functions_take_the_environment(
    broker: RedisServer | RabbitServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publishers, "_default", Publisher())
    monkeypatch.setenv("CACHEKEEPER_BROKER_URL", broker.url)
    monkeypatch.setenv("CACHEKEEPER_PUBLISH_TIMEOUT_SECONDS", str(PUBLISH_SECONDS))
    publish(EVENT)
    assert publish_many([EVENT, EVENT]) == 2
    assert take(broker) == [[EVENT.to_wire()], [EVENT.to_wire()] * 2]
    publishers._default.close()


def test_closing_while_others_publish_fails_nobody(publisher: Publisher, broker: RedisServer | RabbitServer) -> None:
    with ThreadPoolExecutor(5) as pool:
        work = [pool.submit(publisher.publish, EVENT) for _ in range(60)]
        while not all(one.done() for one in work):  # no pause: the more often, the more is found
            publisher.close()
        assert [one.result() for one in work] == [None] * 60
    assert len(take(broker)) == 60
