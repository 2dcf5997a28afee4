"""Every message that is known to end or stall a Celery worker, put into the queue of a real one.

Each is a case of what Celery 5.7, kombu 5.7 and py-amqp 5.4 do with a message: Celery's reading of task messages
(`celery.worker.request`, `strategy`), kombu's of bodies, headers and compression (`kombu.message`), its emulation of
acknowledgements on Redis (`kombu.transport.redis`, `virtual`), and py-amqp's of properties (`amqp.serialization`).
"""

from __future__ import annotations

import bz2
import json
import struct
import zlib
from base64 import b64encode
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from amqp import Message as AmqpMessage
from kombu import Connection

from cachekeeper.broker.names import CONTROL_EXCHANGE, QUEUE, TASK, UNACKED, UNACKED_INDEX
from cachekeeper.broker.queues import work_queue
from cachekeeper.consuming.messages import LONGEST
from cachekeeper.consuming.redis_channel import Connection as OurConnection
from cachekeeper.devservers import RedisServer
from cachekeeper.publishing.wire_format import task_body, task_headers
from producers import UserLoggedOut
from testkit.delivering import Site
from testkit.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kombu import Message

    from cachekeeper.devservers.worker_process import WorkerProcess

SOON = 30.0
PIDBOX = f"{CONTROL_EXCHANGE}.pidbox"
EVENT = json.dumps(UserLoggedOut(token_id="poison").to_wire())
HEADERS = task_headers("m1", 1)
GOOD = task_body([EVENT])
EMPTY = b'{"callbacks":null,"errbacks":null,"chain":null,"chord":null}'
BOMB = 256 * 1024 * 1024


_began: dict[Path, int] = {}  # how long a worker's log was when the test began


@pytest.fixture(autouse=True)
def _nothing_left(request: pytest.FixtureRequest) -> None:
    """What one test has left, failed or not, is none of the next one's; a worker writes blocks again from MongoDB."""
    if "worker" not in request.fixturenames:
        return
    site: Site = request.getfixturevalue("site")
    log = request.getfixturevalue("worker").log
    _began[log] = log.stat().st_size
    site.db["dead_letters"].delete_many({})
    site.db["blocked_tokens"].delete_many({"_id": "poison"})
    site.client.delete("blocked:poison")


redis_only = pytest.mark.parametrize("site", ["redis"], indirect=True)
rabbit_only = pytest.mark.parametrize("site", ["rabbitmq"], indirect=True)


def sent(body: bytes = GOOD, headers: Mapping[str, Any] | None = None, **properties: Any) -> dict[str, Any]:
    """A message as a Celery client in whichever language may send it."""
    return {"body": body, "headers": dict(HEADERS if headers is None else headers), **properties}


def protocol_1(**changes: Any) -> dict[str, Any]:
    body = {"task": TASK, "id": "m1", "args": [[json.loads(EVENT)]], "kwargs": {}, "retries": 0, **changes}
    return sent(json.dumps(body).encode(), {})


NO_TASK = f"it is not for the task {TASK}"
NO_PARTS = "it is not [args, kwargs, embed]"
NO_JSON = "it is not JSON"
NO_TYPE = "its content type is not application/json"
NO_ID = "it has no id"
NO_EVENTS = "its argument is not one list of events"

POISON: dict[str, dict[str, dict[str, Any]]] = {
    NO_JSON: {
        "no JSON": sent(b"[["),
        "empty": sent(b""),
        "not UTF-8": sent(b"\xff\xfe\xfd"),
        "UTF-16, as its encoding says": sent(b"\xfe" + GOOD.decode().encode("utf-16"), content_encoding="utf-16"),
        "nested too deeply to be read": sent(b"[" * 100_000),
        "a number of 5000 digits": sent(task_body(["9" * 5000])),
    },
    NO_PARTS: {
        "an object": sent(b'{"some": "thing"}'),
        "a number": sent(b"5"),
        "null": sent(b"null"),
        "a text": sent(b'"text"'),
        "two parts": sent(b"[[], {}]"),
        "four parts": sent(b"[[], {}, {}, {}]"),
        "an ETA that is none": sent(b"{}", {**HEADERS, "eta": "soon", "expires": {}, "timelimit": 5}),
        "protocol 1 in the body, 2 in the headers": sent(protocol_1()["body"]),
    },
    NO_TASK: {
        "an unknown task": sent(headers={**HEADERS, "task": "there.is.none"}),
        "a task of Celery's own": sent(headers={**HEADERS, "task": "celery.backend_cleanup"}),
        "a task that is no name": sent(headers={**HEADERS, "task": [TASK]}),
        "no headers": sent(headers={}),
        "a bare event": sent(EVENT.encode(), {}),
        "no task": sent(headers={"id": "m1", "lang": "py"}),
        "protocol 1, an unknown task": protocol_1(task="there.is.none"),
        "protocol 1, a task that is no name": protocol_1(task={}),
    },
    NO_ID: {
        "no id": sent(headers={"task": TASK, "lang": "py"}),
        "an id that is a number": sent(headers={**HEADERS, "id": 5}),
        "an id that cannot be looked up": sent(headers={**HEADERS, "id": {"a": 1}}),
        "protocol 1, no id": protocol_1(id=None),
    },
    NO_EVENTS: {
        "arguments that are none": sent(b"[5, {}, " + EMPTY + b"]"),
        "no arguments": sent(b"[[], {}, " + EMPTY + b"]"),
        "an event for a list": sent(b"[[" + EVENT.encode() + b"], {}, " + EMPTY + b"]"),
        "protocol 1, arguments that are none": protocol_1(args=None),
    },
    "it has keyword arguments": {
        "keyword arguments": sent(b'[[[]], {"events": []}, ' + EMPTY + b"]"),
        "keyword arguments that are none": sent(b"[[[]], 5, " + EMPTY + b"]"),
    },
    NO_TYPE: {
        "pickled": sent(b"cos\nsystem\n", content_type="application/x-python-serialize"),
        "YAML": sent(b"!!python/object/apply:os.abort []", content_type="application/x-yaml"),
        "msgpack": sent(b"\x93\x91\x91\x80\x80\x80", content_type="application/x-msgpack"),
        "binary": sent(content_type="application/data", content_encoding="binary"),
        "no content type that there is": sent(content_type="x"),
    },
    "it is compressed": {
        "compressed": sent(zlib.compress(GOOD), {**HEADERS, "compression": "application/x-gzip"}),
        "compressed, it says": sent(headers={**HEADERS, "compression": "zlib"}),
        "compressed in a way that there is not": sent(headers={**HEADERS, "compression": "application/x-none"}),
        "compressed in a way that is no name": sent(headers={**HEADERS, "compression": {"a": []}}),
        "a bomb": sent(bz2.compress(bytes(BOMB)), {**HEADERS, "compression": "application/x-bz2"}),
    },
    f"it is longer than {LONGEST} bytes": {"longer than allowed": sent(b" " * LONGEST + b"[]")},
}

# What Celery would do with the event: put it off, throw it away, or call something else afterwards.
ODD: dict[str, dict[str, Any]] = {
    "an ETA years from now": sent(headers={**HEADERS, "eta": "2131-01-01T00:00:00+00:00"}),
    "an ETA that is none": sent(headers={**HEADERS, "eta": "soon"}),
    "expired": sent(headers={**HEADERS, "expires": "2001-01-01T00:00:00+00:00"}),
    "an expiry that is none": sent(headers={**HEADERS, "expires": [1]}),
    "time limits that are none": sent(headers={**HEADERS, "timelimit": "x"}),
    "retries without number": sent(headers={**HEADERS, "retries": 2**62}),
    "negative retries": sent(headers={**HEADERS, "retries": -5}),
    "retries that are none": sent(headers={**HEADERS, "retries": {"a": 1}}),
    "stamps that are none": sent(headers={**HEADERS, "stamped_headers": 5, "stamps": 5}),
    "another name": sent(headers={**HEADERS, "shadow": ["x"], "argsrepr": 5, "kwargsrepr": {}}),
    "a result asked for": sent(headers={**HEADERS, "ignore_result": False}, reply_to="nobody", correlation_id="x"),
    "an encoding that there is not": sent(content_encoding="klingon"),
    "a mark at the beginning": sent(b"\xef\xbb\xbf" + GOOD),
    "what is to be called next": sent(
        json.dumps(
            [
                [[json.loads(EVENT)]],
                {},
                {
                    "callbacks": [{"task": TASK, "args": [[{"type": "user.renamed"}]], "options": {}}],
                    "chain": [{"task": "there.is.none", "args": 5}],
                    "chord": {"task": 5},
                    "errbacks": "x",
                },
            ]
        ).encode()
    ),
    "nothing to be called next": sent(f"[[[{EVENT}]], null, 5]".encode()),
    "protocol 1": protocol_1(eta="soon", expires="x", callbacks=[{"task": "there.is.none"}], utc=5, taskset={}),
}


# Of these, the event alone is put away.
DEEP = {
    "nested deeply": "[" * 900 + "]" * 900,
    "objects nested deeply": '{"a":' * 40 + "1" + "}" * 40,
}


def flat(groups: dict[str, dict[str, dict[str, Any]]]) -> list[Any]:
    return [pytest.param(reason, case, id=name) for reason, cases in groups.items() for name, case in cases.items()]


def said(worker: WorkerProcess) -> str:
    """What it has logged in this test. To another's message kombu may well have logged a traceback."""
    return worker.log.read_bytes()[_began[worker.log] :].decode(errors="replace")


def lives_on(site: Site, worker: WorkerProcess, pid: int) -> None:
    """It is the same process, never lost its broker, works, and neither holds nor leaves anything."""
    site.settle()
    assert (worker.alive, worker.pid) == (True, pid)
    assert "Traceback" not in said(worker)
    assert "Connection to broker lost" not in said(worker)
    if not site.is_rabbit:
        wait_until(lambda: not site.held(), "nothing held", SOON)


def becomes_a_letter(site: Site, worker: WorkerProcess, pid: int, reason: str) -> dict[str, Any]:
    wait_until(lambda: site.letters or not worker.alive, "a dead letter", SOON)
    assert worker.alive, worker.log_tail()
    lives_on(site, worker, pid)
    letters = site.letters
    # Not delivered again and again.
    assert [(letter["reason"], letter["count"]) for letter in letters] == [(f"message: {reason}", 1)]
    assert not site.client.exists("blocked:poison")
    return letters[0]


@pytest.mark.parametrize(("reason", "poison"), flat(POISON))
def test_no_message_ends_a_worker(site: Site, worker: WorkerProcess, reason: str, poison: dict[str, Any]) -> None:
    pid = worker.pid
    site.send(**poison)
    becomes_a_letter(site, worker, pid, reason)


@pytest.mark.parametrize("deep", DEEP.values(), ids=DEEP.keys())
def test_a_deeply_nested_event_takes_no_neighbour_along(site: Site, worker: WorkerProcess, deep: str) -> None:
    pid = worker.pid
    site.send(task_body([EVENT, deep, EVENT]), HEADERS)
    wait_until(lambda: site.letters or not worker.alive, "a dead letter", SOON)
    lives_on(site, worker, pid)
    (letter,) = site.letters
    assert letter["reason"].startswith("event: is nested too deeply")
    assert json.loads(json.loads(letter["body"])) == json.loads(deep)
    assert site.client.exists("blocked:poison")


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD.keys())
def test_an_event_is_applied_now_and_nothing_else(site: Site, worker: WorkerProcess, odd: dict[str, Any]) -> None:
    pid = worker.pid
    site.send(**odd)
    wait_until(lambda: site.client.exists("blocked:poison") or not worker.alive, "the event applied", SOON)
    lives_on(site, worker, pid)
    assert site.letters == []


def test_what_unpacks_to_gigabytes_is_not_unpacked(site: Site, worker: WorkerProcess) -> None:
    def peak() -> int:
        (line,) = [line for line in status.read_text().splitlines() if line.startswith("VmHWM")]
        return int(line.split()[1]) * 1024

    pid, status = worker.pid, Path(f"/proc/{worker.pid}/status")
    if not status.exists():
        pytest.skip("only Linux tells how much memory a process has ever had")
    before = peak()
    site.send(**POISON["it is compressed"]["a bomb"])
    becomes_a_letter(site, worker, pid, "it is compressed")
    assert peak() - before < BOMB / 4


def test_what_was_revoked_is_applied(site: Site, worker: WorkerProcess) -> None:
    """Celery would acknowledge it, and nobody would hear of the event again."""
    from celery import Celery  # noqa: PLC0415  # as whoever operates it would

    pid = worker.pid
    with Celery("asking", broker=site.broker.url, set_as_current=False) as asking:
        asking.conf.control_exchange = CONTROL_EXCHANGE
        assert asking.control.revoke("m1", reply=True, timeout=SOON, limit=1)
    site.send(GOOD, HEADERS)
    wait_until(lambda: site.client.exists("blocked:poison") or not worker.alive, "the event applied", SOON)
    lives_on(site, worker, pid)


# --- RabbitMQ: what py-amqp cannot read

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


# --- Redis: what somebody has pushed onto the list

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
    "it is no message of kombu's: not JSON": {
        "text": b"garbage",
        "empty": b"",
        "not UTF-8": b"\xff\xfe",
        "an object that kombu does not make": envelope(headers={"a": {"__type__": "x", "__value__": 1}}),
        "an object that kombu cannot make": envelope(headers={"a": {"__type__": "bytes", "__value__": 5}}),
        "nested too deeply to be read": b"[" * 100_000,
    },
    "it is no message of kombu's: without properties": {
        "a bare event": EVENT.encode(),
        "a number": b"5",
        "null": b"null",
        "a list": b"[]",
        "a bare body": GOOD,
        "no properties": without("properties"),
        "properties that are a list": envelope([]),
    },
    "it is no message of kombu's: nested too deeply": {
        "headers nested deeply": envelope(headers={"a": json.loads("[" * 400 + "]" * 400)}),
    },
    "it is no message of kombu's: without a delivery tag": {
        "no delivery tag": envelope({"delivery_info": HOME}),
        "a tag that is a list": envelope({**TAG, "delivery_tag": [1], "delivery_info": HOME}),
        "a tag that is an object": envelope({**TAG, "delivery_tag": {}, "delivery_info": HOME}),
        "a tag that is a number": envelope({**TAG, "delivery_tag": 5, "delivery_info": HOME}),
        "an empty tag": envelope({**TAG, "delivery_tag": "", "delivery_info": HOME}),
    },
    "it is no message of kombu's: without a body that can be read": {
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
    "it is no text": {
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
