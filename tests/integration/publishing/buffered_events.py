"""Events for buffers, told apart by their users, and what the broker has of them."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, cast

from cachekeeper.broker.names import QUEUE
from producers import UserDeleted

if TYPE_CHECKING:
    from cachekeeper.devservers import RedisServer
    from cachekeeper.model.events import Event


def events(count: int, first: int = 0) -> list[Event]:
    return [UserDeleted(user_id=str(number)) for number in range(first, first + count)]


def messages(broker: RedisServer) -> list[list[int]]:
    """The users of each message in the queue, the oldest first."""
    with broker.client() as client:
        found = [json.loads(raw) for raw in reversed(cast("list[bytes]", client.lrange(QUEUE, 0, -1)))]
    bodies = [json.loads(base64.b64decode(envelope["body"])) for envelope in found]
    return [[int(event["user_id"]) for event in body[0][0]] for body in bodies]


def arrived(broker: RedisServer) -> list[int]:
    return [user for message in messages(broker) for user in message]
