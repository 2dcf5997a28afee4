"""The wire format: what an earlier version published is read, and what is published now has the same shape."""

from __future__ import annotations

import base64
import json
import re
from typing import Any, Literal

import pytest
from kombu import Message
from pydantic import create_model

from cachekeeper.broker.names import LETTER_HEADER, OUTBOX_HEADER, QUEUE, TASK
from cachekeeper.broker.queues import work_queue
from cachekeeper.consuming.messages import EventMessage, read_message
from cachekeeper.errors import InvalidEvent
from cachekeeper.model.event_field_types import Id, Version
from cachekeeper.model.events import Event
from cachekeeper.model.registry import Registry, load_registry
from cachekeeper.publishing.publisher import BYTES_PER_MESSAGE, EVENTS_PER_MESSAGE, event_text
from cachekeeper.publishing.wire_format import OutgoingMessage, task_body, task_headers
from cachekeeper.values.ids import MAX_ID_BYTES
from cachekeeper.values.nesting import DEEPEST
from testkit.compose import ROOT
from testkit.prose import blocks, read
from tests.golden.wire_events import EVENTS, WIRE

REGISTRY = load_registry(("producers", "lookups", "worker"))
PAGE = ROOT / "docs/wire-format.md"
MESSAGES = ("least", "message", "redis", "redis-least")


def golden(name: str) -> Any:
    return json.loads((WIRE / f"{name}.json").read_text("utf-8"))


def spelt(value: object) -> str:
    """JSON, so that `7` and `7.0`, or `1` and `true`, are not the same."""
    return json.dumps(value, sort_keys=True)


# --- events ----------------------------------------------------------------------------------------------------------


def problems(registry: Registry, kind: str) -> list[str]:
    """What of the golden file of an event is not so (any more)."""
    found: list[str] = []
    file = golden(kind)
    events: list[Event] = []
    for body in file["written"]:
        try:
            event = registry.decode(body)
        except InvalidEvent as error:
            return [f"{body['id']} is not read: {error}"]
        events.append(event)
        if spelt(json.loads(event_text(event))) != spelt(body):
            found.append(f"{body['id']} is written as {event_text(event)}")
    for other in file["read"]:
        try:
            event = registry.decode(other["body"])
        except InvalidEvent as error:
            return [f"{spelt(other['body'])} is not read: {error}"]
        wanted = events[other["as"]]
        if event != wanted or registry.commands(event) != registry.commands(wanted):
            found.append(f"{spelt(other['body'])} is read as {event_text(event)}")
    # A version that must be null need not be written.
    fields = {name for name, info in registry.events[kind].model_fields.items() if info.annotation is not type(None)}
    if unseen := fields - {name for body in file["written"] for name in body}:
        found.append(f"no golden event has {sorted(unseen)}")
    return found


@pytest.mark.parametrize("kind", EVENTS)
def test_every_golden_event_is_read_and_written_as_it_is(kind: str) -> None:
    assert problems(REGISTRY, kind) == []


@pytest.mark.parametrize("kind", EVENTS)
def test_todays_code_writes_the_golden_events(kind: str) -> None:
    bodies = golden(kind)["written"]
    assert [spelt(json.loads(event_text(event))) for event in EVENTS[kind]] == [spelt(body) for body in bodies]
    assert [REGISTRY.decode(body) for body in bodies] == EVENTS[kind]


def test_every_event_has_a_golden_file() -> None:
    assert REGISTRY.events.keys() == EVENTS.keys() == {path.stem for path in WIRE.glob("*.json")} - {*MESSAGES}


def other(kind: str, *, without: str = "", **fields: Any) -> Registry:
    """A registry in which one event has another shape."""
    event = REGISTRY.events[kind]
    own = event.model_fields.keys() - Event.model_fields.keys() - {without}
    make: Any = create_model
    made = make(
        event.__name__,
        __base__=Event,
        type=(Literal[kind], kind),
        **{name: (event.model_fields[name].rebuild_annotation(), event.model_fields[name]) for name in sorted(own)},
        **fields,
    )
    registry = Registry()
    registry.events[kind] = made
    return registry


def test_the_mutants_differ_by_what_is_said() -> None:
    for kind in EVENTS:
        assert [problem for problem in problems(other(kind), kind) if "no golden" not in problem] == []


OWN_FIELDS = [
    (kind, name) for kind in EVENTS for name in REGISTRY.events[kind].model_fields.keys() - {*Event.model_fields}
]


@pytest.mark.parametrize(("kind", "field"), sorted(OWN_FIELDS))
def test_mutants_without_a_field_and_with_one_renamed_are_noticed(kind: str, field: str) -> None:
    assert problems(other(kind, without=field), kind)
    info = REGISTRY.events[kind].model_fields[field]
    renamed = {f"{field}_now": (info.rebuild_annotation(), info)}
    assert problems(other(kind, without=field, **renamed), kind)


@pytest.mark.parametrize("kind", EVENTS)
@pytest.mark.parametrize(
    "fields",
    [
        {"tenant": (Id, ...)},  # a new field that old messages do not have
        {"version": (Version, 0)},  # a default that is said
        {"source": (str, "shop")},  # one that nobody has written down
    ],
)
def test_mutants_with_other_fields_are_noticed(kind: str, fields: dict[str, Any]) -> None:
    assert problems(other(kind, **fields), kind)


# --- newer producers -------------------------------------------------------------------------------------------------

NEWER: dict[str, Any] = {"from_a_newer_producer": {"deep": [1, None, {"a": "b"}]}, "trace_id": "abc", "": 1}


@pytest.mark.parametrize("kind", EVENTS)
def test_fields_of_a_newer_producer_are_tolerated_by_the_worker_and_refused_at_the_door(kind: str) -> None:
    for event, body in zip(EVENTS[kind], golden(kind)["written"], strict=True):
        assert REGISTRY.decode({**body, **NEWER}) == event
        assert REGISTRY.commands(REGISTRY.decode({**body, **NEWER})) == REGISTRY.commands(event)
        with pytest.raises(InvalidEvent, match="trace_id: is not a field of this event"):
            type(event)(**body, trace_id="abc")


# --- the page --------------------------------------------------------------------------------------------------------


def test_the_page_shows_the_golden_files() -> None:
    shown = {block.argument: json.loads(block.text) for block in blocks(PAGE) if block.mark == "golden"}
    assert shown == {
        "user.updated": golden("user.updated")["written"][0],
        "least": golden("least"),
        "redis-least": golden("redis-least"),
    }


def test_the_page_says_what_the_code_does() -> None:
    page = " ".join(read(PAGE).split())
    arguments = work_queue("amqp://broker").queue_arguments
    assert arguments
    for name, value in arguments.items():
        said = re.search(rf"`{name}` (?:is )?(`[^`]*`|\d+|the empty name)", page)
        assert said is not None, name
        assert said[1].strip("`") == (str(value) or "the empty name"), name
    for number in (
        f"{EVENTS_PER_MESSAGE} events or {BYTES_PER_MESSAGE // 1024} KiB",
        f"more than {DEEPEST} levels",
        f"to {MAX_ID_BYTES} bytes",
    ):
        assert number in page
    for name in (TASK, OUTBOX_HEADER, LETTER_HEADER):
        assert f"`{name}`" in page
    assert f"LPUSH {QUEUE} " in page
    assert f"routing key `{QUEUE}`" in page


# --- messages --------------------------------------------------------------------------------------------------------


def message(body: object, headers: dict[str, Any], content_type: str = "application/json") -> Any:
    found = Message(json.dumps(body), content_type=content_type, content_encoding="utf-8")
    found.headers = headers
    return found


def message_problems(name: str, headers: dict[str, Any] | None = None, body: bytes | None = None) -> list[str]:
    """What of a golden message is not so (any more), or would not be with these headers or this body written."""
    file = golden(name)
    sent: list[list[dict[str, Any]]] = file["body"][0]
    found = []
    parcel = read_message(message(file["body"], file["headers"]))
    if parcel != EventMessage(file["headers"]["id"], sent[0]):
        found.append(f"it is read as {parcel}")
    if name == "message":
        headers = headers or task_headers(file["headers"]["id"], len(sent[0]))
        if spelt(headers) != spelt(file["headers"]):
            found.append(f"its headers are written as {headers}")
        body = body or task_body([json.dumps(event) for event in sent[0]])
        if spelt(json.loads(body)) != spelt(file["body"]):
            found.append(f"its body is written as {body!r}")
    return found


@pytest.mark.parametrize("name", ["message", "least"])
def test_the_golden_message_is_read_and_written_as_it_is(name: str) -> None:
    assert message_problems(name) == []


def test_what_is_least_is_part_of_what_is_written() -> None:
    whole, least = golden("message"), golden("least")
    assert least["headers"].items() <= whole["headers"].items()
    assert least["properties"].items() <= whole["properties"].items()
    assert least["body"][0] == whole["body"][0]


def test_what_lies_in_redis_is_the_same_message() -> None:
    for envelope, plain in ((golden("redis"), golden("message")), (golden("redis-least"), golden("least"))):
        in_base64 = envelope["properties"].get("body_encoding") == "base64"
        body = base64.b64decode(envelope["body"]) if in_base64 else envelope["body"]
        assert json.loads(body) == plain["body"]
        assert envelope["headers"] == plain["headers"]
        assert envelope["content-type"] == plain["properties"]["content_type"]


def test_headers_that_mark_a_message() -> None:
    plain = task_headers("m1", 1)
    assert OutgoingMessage(["{}"], stored=True, id="m1").headers == {**plain, "cachekeeper_outbox": True}
    assert OutgoingMessage(["{}"], failed=(3, 1_930_367_167_890), id="m1").headers == {
        **plain,
        "cachekeeper_letter": [3, 1930367167890],
    }
    assert {OUTBOX_HEADER, LETTER_HEADER} == {"cachekeeper_outbox", "cachekeeper_letter"}


@pytest.mark.parametrize("header", ["task", "id", "lang", "argsrepr"])
def test_mutants_of_the_headers_are_noticed(header: str) -> None:
    headers = golden("message")["headers"]
    assert message_problems("message", {name: value for name, value in headers.items() if name != header})
    assert message_problems("message", {**headers, header: "other"})


@pytest.mark.parametrize("body", [b"[[], {}, {}]", b"[[[]], {}, {}]", b'{"events": []}'])
def test_mutants_of_the_body_are_noticed(body: bytes) -> None:
    assert message_problems("message", body=body)


def test_headers_of_a_newer_producer_are_tolerated() -> None:
    file = golden("message")
    headers = {**file["headers"], "traceparent": "00-abc-def-01", "cachekeeper_new": {"a": [1]}}
    assert read_message(message(file["body"], headers)) == EventMessage(headers["id"], file["body"][0][0])
