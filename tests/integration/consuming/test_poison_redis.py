"""What somebody has pushed onto the list of a Redis broker, put into the queue of a real worker."""

from __future__ import annotations

import json
from base64 import b64encode
from typing import TYPE_CHECKING, Any

import pytest

from cachekeeper.broker.names import CONTROL_EXCHANGE, QUEUE, UNACKED, UNACKED_INDEX
from cachekeeper.broker.queues import work_queue
from cachekeeper.consuming.messages import LONGEST
from cachekeeper.consuming.redis_channel import Connection as OurConnection
from cachekeeper.devservers import RedisServer
from testkit.delivering import Site
from testkit.waiting import wait_until
from tests.integration.consuming.poison import (
    EVENT,
    GOOD,
    HEADERS,
    NO_TASK,
    NO_TYPE,
    SOON,
    becomes_a_letter,
    lives_on,
    nothing_left,
    said,
)

if TYPE_CHECKING:
    from kombu import Message

    from cachekeeper.devservers.worker_process import WorkerProcess

__all__ = ["nothing_left"]

PIDBOX = f"{CONTROL_EXCHANGE}.pidbox"
redis_only = pytest.mark.parametrize("site", ["redis"], indirect=True)
TAG = {"delivery_tag": "t1", "body_encoding": "base64"}
HOME = {"exchange": "", "routing_key": QUEUE}
ENVELOPE: dict[str, Any] = {
    "body": b64encode(GOOD).decode(),
    "content-type": "application/json",
    "content-encoding": "utf-8",
    "headers": HEADERS,
    "properties": {**TAG, "delivery_info": HOME, "priority": 0},
}


def envelope(properties: object = None, **changes: Any) -> bytes:
    wanted = ENVELOPE["properties"] if properties is None else properties
    return json.dumps({**ENVELOPE, "properties": wanted, **changes}).encode()


def without(name: str) -> bytes:
    return json.dumps({key: value for key, value in ENVELOPE.items() if key != name}).encode()


ITEMS: dict[str, dict[str, bytes]] = {
    "it is not a kombu message: not JSON": {
        "text": b"garbage",
        "empty": b"",
        "not UTF-8": b"\xff\xfe",
        "an object that kombu does not make": envelope(headers={"a": {"__type__": "x", "__value__": 1}}),
        "an object that kombu cannot make": envelope(headers={"a": {"__type__": "bytes", "__value__": 5}}),
        "nested too deeply to be read": b"[" * 100_000,
    },
    "it is not a kombu message: no properties": {
        "a bare event": EVENT.encode(),
        "a number": b"5",
        "null": b"null",
        "a list": b"[]",
        "a bare body": GOOD,
        "no properties": without("properties"),
        "properties that are a list": envelope([]),
    },
    "it is not a kombu message: nested too deeply": {
        "headers nested deeply": envelope(headers={"a": json.loads("[" * 400 + "]" * 400)}),
    },
    "it is not a kombu message: no delivery tag": {
        "no delivery tag": envelope({"delivery_info": HOME}),
        "a tag that is a list": envelope({**TAG, "delivery_tag": [1], "delivery_info": HOME}),
        "a tag that is an object": envelope({**TAG, "delivery_tag": {}, "delivery_info": HOME}),
        "a tag that is a number": envelope({**TAG, "delivery_tag": 5, "delivery_info": HOME}),
        "an empty tag": envelope({**TAG, "delivery_tag": "", "delivery_info": HOME}),
    },
    "it is not a kombu message: no readable body": {
        "no body": without("body"),
        "a body that is an object": envelope(body={"type": "user.deleted"}),
        "a body that is not base64": envelope(body="?"),
        "half a body": envelope(body="abc"),
        "a body that is not ASCII": envelope(body="\ud800"),
        "an encoding that there is not": envelope({**TAG, "delivery_info": HOME, "body_encoding": "rot13"}),
        "an encoding that is no name": envelope({**TAG, "delivery_info": HOME, "body_encoding": {}}),
    },
    "it is too long": {"longer than allowed": b"[" + b" " * (2 * LONGEST)},
    NO_TASK: {
        "headers that are null": envelope(headers=None),
        "headers that are a number": envelope(headers=5),
        "headers that are a list": envelope(headers=["task"]),
        "headers that are text": envelope(headers="task"),
        "no headers": without("headers"),
    },
    NO_TYPE: {
        "a content type that is no name": envelope(**{"content-type": {}}),
        "no content type": without("content-type"),
    },
    "its body is not text": {
        "half a character": envelope({"delivery_tag": "t1", "delivery_info": HOME}, body="\ud800"),
    },
}

ODD_ITEMS: dict[str, bytes] = {
    "no delivery info": envelope(TAG),
    "delivery info that is a list": envelope({**TAG, "delivery_info": []}),
    "no exchange": envelope({**TAG, "delivery_info": {"routing_key": QUEUE}}),
    "another exchange": envelope({**TAG, "delivery_info": {"exchange": "celery", "routing_key": "celery"}}),
    "an exchange that is no name": envelope({**TAG, "delivery_info": {"exchange": {}, "routing_key": []}}),
    "a consumer tag that is none": envelope({**TAG, "delivery_info": {**HOME, "consumer_tag": {}}}),
    "a priority without number": envelope({**TAG, "delivery_info": HOME, "priority": float("inf")}),
    "a priority that is none": envelope({**TAG, "delivery_info": HOME, "priority": {}}),
    "a body in clear": envelope({"delivery_tag": "t1", "delivery_info": HOME}, body=GOOD.decode()),
    "an id that is no text": envelope(headers={**HEADERS, "id": "\ud800"}),
    "retries beyond all numbers": envelope(headers={**HEADERS, "retries": 10**400}),
    "correlations that are none": envelope({**TAG, "delivery_info": HOME, "correlation_id": {}, "reply_to": []}),
}


def push(site: Site, item: bytes) -> None:
    with site.broker.client() as client:  # type: ignore[union-attr]  # a Redis
        client.lpush(QUEUE, item)


def flat_items() -> list[Any]:
    return [pytest.param(reason, item, id=name) for reason, items in ITEMS.items() for name, item in items.items()]


@redis_only
@pytest.mark.parametrize(("reason", "item"), flat_items())
def test_no_item_ends_a_worker(site: Site, worker: WorkerProcess, reason: str, item: bytes) -> None:
    pid = worker.pid
    push(site, item)
    letter = becomes_a_letter(site, worker, pid, reason)
    if "kombu" in reason:
        assert json.loads(letter["body"]) == item.decode("utf-8", "backslashreplace")


@redis_only
@pytest.mark.parametrize("item", ODD_ITEMS.values(), ids=ODD_ITEMS.keys())
def test_an_item_that_can_be_read_is_applied(site: Site, worker: WorkerProcess, item: bytes) -> None:
    pid = worker.pid
    push(site, item)
    wait_until(lambda: site.client.exists("blocked:poison") or not worker.alive, "the event applied", SOON)
    lives_on(site, worker, pid)


CONTROL: dict[str, bytes] = {
    "no JSON": b"[[",
    "a number": b"5",
    "no properties": b'{"body": "e30=", "headers": {}}',
    "headers that are none": envelope({**TAG, "delivery_info": {"exchange": PIDBOX}}, headers=5),
    "no delivery tag": envelope({"delivery_info": HOME}),
    "no delivery info": envelope(TAG),
    "a body that is none": envelope({**TAG, "delivery_info": HOME}, body="!"),
    "a body without a method": envelope({**TAG, "delivery_info": HOME}, body=b64encode(b"[]").decode()),
}


@redis_only
@pytest.mark.parametrize("item", CONTROL.values(), ids=CONTROL.keys())
def test_nothing_that_is_published_to_all_workers_ends_one(site: Site, worker: WorkerProcess, item: bytes) -> None:
    pid = worker.pid
    with site.broker.client() as client:  # type: ignore[union-attr]  # a Redis
        database = site.broker.url.rpartition("/")[2]
        assert client.publish(f"/{database}.{PIDBOX}", item) == 1
    site.send(GOOD, HEADERS)
    wait_until(lambda: site.client.exists("blocked:poison") or not worker.alive, "the event applied", SOON)
    site.settle()
    assert (worker.alive, worker.pid) == (True, pid)
    assert "Connection to broker lost" not in said(worker)


def test_whatever_is_put_back_comes_again(redis_server: RedisServer) -> None:
    """As the worker does during an outage. kombu drops what it cannot put back, and says so in the log."""
    items = [item for group in ITEMS.values() for item in group.values() if len(item) < LONGEST] + [*ODD_ITEMS.values()]
    with redis_server.client() as client, OurConnection(redis_server.url) as connection:
        seen: list[Message] = []
        consumer = connection.Consumer([work_queue(redis_server.url)], accept=["json"], on_message=seen.append)
        consumer.on_decode_error = lambda message, _: seen.append(message)
        consumer.consume()
        for item in items:
            for _ in range(2):
                client.lpush(QUEUE, item)
                connection.drain_events(timeout=SOON)
                seen.pop().reject(requeue=True)
                assert client.llen(QUEUE) == 1, item[:100]
                item = client.rpop(QUEUE)  # noqa: PLW2901  # what was put back is put back once more
        assert client.exists(UNACKED, UNACKED_INDEX) == 0
