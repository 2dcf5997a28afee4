"""A connection of ours to a Redis broker that consumes, and what lies in that Redis."""

from __future__ import annotations

import json
import socket
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest

from cachekeeper.broker.names import QUEUE, UNACKED, UNACKED_INDEX
from cachekeeper.broker.queues import transport_options, work_queue
from cachekeeper.consuming.redis_channel import Connection

if TYPE_CHECKING:
    from collections.abc import Iterator

    import redis

    from cachekeeper.devservers import RedisServer

SOON = 30.0
SHORT = 0.5
YEAR = 365 * 86_400


def connected(server: RedisServer, **options: Any) -> Connection:
    return Connection(server.url, transport_options={**transport_options(server.url, SOON), **options})


@pytest.fixture
def broker_client(any_redis: RedisServer) -> Iterator[redis.Redis]:
    with any_redis.client() as client:
        yield client


class Consuming:
    """A connection that consumes events, and holds what it gets."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.held: list[Any] = []
        self.consumer = connection.Consumer([work_queue(connection.as_uri())], on_message=self.held.append)
        self.consumer.consume()

    @property
    def channel(self) -> Any:
        return self.connection.default_channel

    def get(self, count: int = 1) -> list[Any]:
        """So many messages more."""
        wanted = len(self.held) + count
        while len(self.held) < wanted:
            self.connection.drain_events(timeout=SOON)
        return self.held[-count:]

    def idle(self, seconds: float = SHORT) -> None:
        """Listen so long, and get nothing."""
        held = len(self.held)
        with suppress(socket.timeout):
            self.connection.drain_events(timeout=seconds)
        assert len(self.held) == held


@contextmanager
def consuming(server: RedisServer, **options: Any) -> Iterator[Consuming]:
    with connected(server, **options) as connection:
        yield Consuming(connection)


def item(number: int, tag: str = "one for all") -> bytes:
    properties = {"delivery_tag": tag, "delivery_info": {"exchange": "", "routing_key": QUEUE}, "priority": 0}
    return json.dumps({"body": str(number), "headers": {}, "properties": properties}).encode()


def push(client: redis.Redis, count: int) -> list[bytes]:
    """As whoever publishes in another language. The first of them is the first to be taken."""
    items = [item(number) for number in range(count)]
    client.lpush(QUEUE, *items)
    return items


def numbers(messages: list[Any]) -> list[int]:
    return [int(message.body) for message in messages]


def listed(client: redis.Redis) -> list[bytes]:
    """What is on the list; the next to be taken is the first."""
    found: Any = client.lrange(QUEUE, 0, -1)
    return [*reversed(found)]


def records(client: redis.Redis) -> int:
    """How many messages are recorded as held."""
    held: Any = client.hlen(UNACKED)
    assert client.zcard(UNACKED_INDEX) == held
    return int(held)
