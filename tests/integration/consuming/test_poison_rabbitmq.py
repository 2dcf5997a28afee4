"""Messages on RabbitMQ that py-amqp cannot read, put into the queue of a real worker."""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING, Any

import pytest
from amqp import Message as AmqpMessage
from kombu import Connection

from cachekeeper.broker.names import QUEUE
from testkit.delivering import Site
from tests.integration.consuming.poison import EVENT, GOOD, HEADERS, becomes_a_letter, nothing_left

if TYPE_CHECKING:
    from cachekeeper.devservers.worker_process import WorkerProcess

__all__ = ["nothing_left"]


rabbit_only = pytest.mark.parametrize("site", ["rabbitmq"], indirect=True)
_TYPE, _HEADERS, _JSON = 0x8000, 0x2000, b"\x10application/json"


def table(*fields: bytes) -> bytes:
    return struct.pack(">I", len(b"".join(fields))) + b"".join(fields)


def nested(levels: int) -> bytes:
    found = b"V"
    for _ in range(levels):
        found = b"A" + struct.pack(">I", len(found)) + found
    return found


PROPERTIES: dict[str, bytes] = {
    # In milliseconds, as JavaScript counts them, it is the year 58,000.
    "a time beyond Python's years": struct.pack(">H", _TYPE | _HEADERS)
    + _JSON
    + table(b"\x04time", b"T", struct.pack(">Q", 1_769_000_000_000)),
    "a content type that is not UTF-8": struct.pack(">H", _TYPE) + b"\x02\xff\xfe",
    "headers nested too deeply": struct.pack(">H", _TYPE | _HEADERS) + _JSON + table(b"\x01a", nested(3000)),
}


@rabbit_only
@pytest.mark.parametrize("properties", PROPERTIES.values(), ids=PROPERTIES.keys())
def test_no_properties_end_a_worker(site: Site, worker: WorkerProcess, properties: bytes) -> None:
    pid = worker.pid
    message: Any = AmqpMessage(EVENT)
    message._serialize_properties = lambda: properties
    with Connection(site.broker.url) as connection:
        channel: Any = connection.default_channel
        channel.basic_publish(message, exchange="", routing_key=QUEUE)
    letter = becomes_a_letter(site, worker, pid, "its properties cannot be read")
    assert json.loads(letter["body"]) == EVENT


@rabbit_only
def test_what_came_by_another_way_is_no_control_message(site: Site, worker: WorkerProcess) -> None:
    """kombu cannot unpack it; by its key alone it would be taken for one, and acknowledged."""
    pid = worker.pid
    with Connection(site.broker.url) as connection:
        channel: Any = connection.default_channel
        channel.exchange_declare("theirs", "topic", auto_delete=True)
        channel.queue_bind(QUEUE, "theirs", "user.#")
        with connection.Producer(channel) as producer:
            producer.publish(
                GOOD,
                exchange="theirs",
                routing_key="user.updated",
                headers=dict(HEADERS),
                content_type="application/json",
                content_encoding="utf-8",
                compression="zlib",
            )
        becomes_a_letter(site, worker, pid, "it is compressed")
        channel.queue_unbind(QUEUE, "theirs", "user.#")
