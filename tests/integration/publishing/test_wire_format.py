"""The golden messages on real brokers: what lies in the queue is what they say, and a worker takes what they say."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import amqp
import pytest
from kombu import Connection
from redis import Redis

from cachekeeper.broker.names import QUEUE
from cachekeeper.broker.queues import transport_options
from cachekeeper.consuming.messages import EventMessage, Failures, read_message
from cachekeeper.consuming.processor import Processor, Verdict
from cachekeeper.model.registry import load_registry
from cachekeeper.publishing.broker_connection import BrokerConnection
from cachekeeper.publishing.publisher import Publisher
from cachekeeper.publishing.wire_format import OutgoingMessage
from cachekeeper.settings import PublisherSettings
from testkit.verdicts import verdicts
from testkit.waiting import wait_until
from tests.golden.wire_events import WIRE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kombu import Message

    from cachekeeper.devservers import RedisServer
    from testkit.servers import RabbitServer
    from testkit.shop import Shop

REGISTRY = load_registry(("producers", "lookups", "worker"))


def golden(name: str) -> Any:
    return json.loads((WIRE / f"{name}.json").read_text("utf-8"))


GOLDEN = golden("message")
MESSAGE_ID = GOLDEN["headers"]["id"]
EVENTS: list[dict[str, Any]] = GOLDEN["body"][0][0]


def send(url: str) -> None:
    """The golden message, as the publisher sends it."""
    broker = BrokerConnection(url, 5)
    try:
        broker.send(OutgoingMessage([json.dumps(event) for event in EVENTS], id=MESSAGE_ID), 10)
    finally:
        broker.close()


@pytest.fixture
def rabbit(rabbit_server: RabbitServer) -> Iterator[Any]:
    """A plain AMQP channel, and an empty queue."""
    with Connection(rabbit_server.url) as connection:
        broker = BrokerConnection(rabbit_server.url, 5)
        broker.probe()  # makes the queue
        broker.close()
        channel: Any = connection.default_channel
        channel.queue_purge(QUEUE)
        yield channel
        channel.queue_purge(QUEUE)


def test_what_lies_in_rabbitmq(rabbit_server: RabbitServer, rabbit: Any) -> None:
    send(rabbit_server.url)
    found: Message = rabbit.basic_get(QUEUE, no_ack=True)
    plain: Any = found
    assert json.loads(plain.body) == GOLDEN["body"]
    plain.headers.pop("x-delivery-count", None)  # the broker's own; RabbitMQ 4 leaves it out the first time
    assert plain.headers == GOLDEN["headers"]
    assert {name: plain.properties[name] for name in GOLDEN["properties"]} == GOLDEN["properties"]
    assert plain.delivery_info["exchange"] == GOLDEN["exchange"]
    assert plain.delivery_info["routing_key"] == GOLDEN["routing_key"]


def test_a_letter_keeps_its_failures_through_rabbitmq(rabbit_server: RabbitServer, rabbit: Any) -> None:
    publisher = Publisher(PublisherSettings(broker_url=rabbit_server.url))
    publisher.send(OutgoingMessage([json.dumps(EVENTS[0])], failed=(3, 1_930_367_167_890)))
    publisher.close()
    found = read_message(rabbit.message_to_python(rabbit.basic_get(QUEUE, no_ack=True)))
    assert isinstance(found, EventMessage)
    assert found.events == [EVENTS[0]]
    assert found.failures == Failures(3, datetime(2031, 3, 4, 5, 6, 7, 890000, UTC))


@pytest.mark.parametrize("name", ["message", "least"])
def test_what_others_put_into_rabbitmq(rabbit: Any, name: str) -> None:
    file = golden(name)
    message = amqp.Message(json.dumps(file["body"]), application_headers=file["headers"], **file["properties"])
    rabbit.basic_publish(message, exchange="", routing_key=QUEUE)
    # Published without waiting for a confirmation, as others may.
    found = wait_until(lambda: rabbit.basic_get(QUEUE, no_ack=True), "the message")
    assert read_message(rabbit.message_to_python(found)) == EventMessage(MESSAGE_ID, EVENTS)


def test_what_lies_in_redis(redis_server: RedisServer) -> None:
    send(redis_server.url)
    with redis_server.client() as client:
        (raw,) = client.lrange(QUEUE, 0, -1)
    found, wanted = json.loads(raw), golden("redis")
    for envelope in (found, wanted):
        assert len(envelope["properties"].pop("delivery_tag")) == 36  # a UUID of its own for each message
        envelope.pop("body")  # the same JSON: see the unit test, and the next one
    assert found == wanted


@pytest.mark.parametrize("name", ["redis", "redis-least"])
def test_what_others_put_into_redis_is_applied_and_may_be_put_back(shop: Shop, name: str) -> None:
    url = f"redis://127.0.0.1:{shop.server.port}/1"
    with Redis.from_url(url) as client:
        client.lpush(QUEUE, json.dumps(golden(name)))
    shop.db["users"].insert_one({"_id": 42, "name": EVENTS[0]["name"], "version": EVENTS[0]["version"]})
    delivery = Processor(shop.settings(broker_url=url), REGISTRY)
    delivery.pause.start()
    with Connection(url, transport_options=transport_options(url, 5)) as connection:
        channel: Any = connection.default_channel
        channel.basic_get(QUEUE).reject(requeue=True)
        message: Message = channel.basic_get(QUEUE)
        read = read_message(message)
        assert read == EventMessage(MESSAGE_ID, EVENTS)
        said = verdicts(delivery, [read])
        message.ack()
    delivery.pause.stop()
    delivery.keeper.close()
    assert said == [Verdict.DONE]
    assert not list(shop.db["dead_letters"].find())
    name_in_redis: Any = shop.redis.get("user:42:name")
    assert name_in_redis.decode() == EVENTS[0]["name"]
