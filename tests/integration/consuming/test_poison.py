"""Every message that is known to end or stall a Celery worker, put into the queue of a real one.

Each is a case of what Celery 5.7, kombu 5.7 and py-amqp 5.4 do with a message: Celery's reading of task messages
(`celery.worker.request`, `strategy`), kombu's of bodies, headers and compression (`kombu.message`), its emulation of
acknowledgements on Redis (`kombu.transport.redis`, `virtual`), and py-amqp's of properties (`amqp.serialization`).
"""

from __future__ import annotations

import bz2
import json
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from cachekeeper.broker.names import CONTROL_EXCHANGE, TASK
from cachekeeper.consuming.messages import LONGEST
from cachekeeper.publishing.wire_format import task_body
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
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cachekeeper.devservers.worker_process import WorkerProcess

__all__ = ["nothing_left"]

EMPTY = b'{"callbacks":null,"errbacks":null,"chain":null,"chord":null}'
BOMB = 256 * 1024 * 1024
NO_PARTS = "its body is not [args, kwargs, embed]"
NO_JSON = "its body is not JSON"
NO_ID = "it has no id"
NO_EVENTS = "its argument is not one list of events"


def sent(body: bytes = GOOD, headers: Mapping[str, Any] | None = None, **properties: Any) -> dict[str, Any]:
    """A message as a Celery client in whichever language may send it."""
    return {"body": body, "headers": dict(HEADERS if headers is None else headers), **properties}


def protocol_1(**changes: Any) -> dict[str, Any]:
    body = {"task": TASK, "id": "m1", "args": [[json.loads(EVENT)]], "kwargs": {}, "retries": 0, **changes}
    return sent(json.dumps(body).encode(), {})


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
        # Compressed in parts: each process of pytest makes it anew.
        "a bomb": sent(bz2.compress(bytes(BOMB // 64)) * 64, {**HEADERS, "compression": "application/x-bz2"}),
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
# --- Redis: what somebody has pushed onto the list
