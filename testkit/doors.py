"""The HTTP door over a real socket, clients for it, and the events that have reached the broker."""

from __future__ import annotations

import base64
import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import uvicorn
from kombu import Connection

from cachekeeper.broker.names import QUEUE
from cachekeeper.broker.queues import work_queue
from cachekeeper.devservers import RedisServer
from cachekeeper.http_api import Door
from cachekeeper.http_api.messages import BATCHED, STRUCTURED
from cachekeeper.model.registry import load_registry
from cachekeeper.settings import DoorSettings

REGISTRY = load_registry(("producers",))
KEY = "a-key-for-the-tests-0123456789"
AUTHORIZED = {"Authorization": f"Bearer {KEY}"}


def settings(broker_url: str, **fields: Any) -> DoorSettings:
    """Return the settings of a door to this broker."""
    return DoorSettings(broker_url=broker_url, http_api_keys=(KEY,), **fields)


@contextmanager
def serving(door: Door) -> Iterator[str]:
    """Serve the door with uvicorn, in a thread, and yield its URL."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(door, http="h11", ws="none", lifespan="on", log_config=None, access_log=False)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(30)
            assert not thread.is_alive()


@dataclass(frozen=True)
class Answer:
    """An answer of the door."""

    status: int
    headers: Mapping[str, str]
    body: dict[str, Any]
    seconds: float

    @property
    def faults(self) -> list[tuple[int | None, str]]:
        """The index of each wrong event, and the field that is wrong."""
        return [(error.get("index"), error["field"]) for error in self.body.get("errors", [])]


def ask(
    url: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None, method: str | None = None
) -> Answer:
    """Send one request on a new connection, and return the answer. Every refusal must be in problem-details format."""
    began = time.monotonic()
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=30)
    try:
        connection.request(method or ("GET" if body is None else "POST"), path, body, dict(headers or {}))
        response = connection.getresponse()
        answer = Answer(
            response.status,
            {name.lower(): value for name, value in response.getheaders()},
            json.loads(response.read()),
            time.monotonic() - began,
        )
    finally:
        connection.close()
    if answer.status >= 400:
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.body["status"] == answer.status
        assert answer.body["detail"]
    return answer


def post(url: str, events: object, **headers: str) -> Answer:
    """Publish one event, or a list of them."""
    kind = BATCHED if isinstance(events, list) else STRUCTURED
    return ask(url, "/events", json.dumps(events).encode(), {**AUTHORIZED, "Content-Type": kind, **headers})


def user_deleted(number: int, **change: object) -> dict[str, Any]:
    """Return a CloudEvent."""
    event = {"specversion": "1.0", "id": f"event-{number}", "source": "/tests", "type": "user.deleted"}
    return {**event, "data": {"user_id": str(number)}, **change}


def bodies(server: RedisServer) -> list[dict[str, Any]]:
    """Return the events in a Redis broker, oldest message first."""
    with server.client() as client:
        messages = [json.loads(raw) for raw in reversed(client.lrange(QUEUE, 0, -1))]
    return [event for message in messages for event in json.loads(base64.b64decode(message["body"]))[0][0]]


def taken(url: str) -> list[dict[str, Any]]:
    """Take all events out of a broker, and return them."""
    found = []
    with Connection(url) as connection:
        queue = work_queue(url)(connection.channel())
        while (message := queue.get(no_ack=True)) is not None:
            found += message.decode()[0][0]
    return found
