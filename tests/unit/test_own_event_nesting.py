"""Own events that are nested too deeply: refused before they are published, and judged alone where they arrive."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, Literal

import pytest
from kombu import Message
from pydantic import (
    BaseModel,
)

from cachekeeper.consuming.messages import DeepEvent, EventMessage
from cachekeeper.consuming.messages import read_message as read_delivered
from cachekeeper.errors import InvalidEvent
from cachekeeper.model.events import Event
from cachekeeper.publishing.publisher import event_text
from cachekeeper.publishing.wire_format import task_body, task_headers
from cachekeeper.relays.outbox import _record
from cachekeeper.relays.outbox_relay import _text
from cachekeeper.values.nesting import DEEPEST
from testkit.own_events import registered


class Part(BaseModel):
    kids: list[Part] = []


class Tree(Event):
    type: Literal["tree"] = "tree"
    note: str = ""
    part: Part


def tree(levels: int) -> Tree:
    part = Part()
    for _ in range(levels - 1):
        part = Part(kids=[part])
    return Tree(id="deep", part=part)


FITS = (DEEPEST - 2) // 2  # the list of events and the event are two levels, and each part is two: itself, and its list


@pytest.mark.parametrize("write", [event_text, _record], ids=["publisher", "outbox"])
def test_what_is_nested_too_deeply_is_refused_before_it_is_published(write: Callable[[Event], object]) -> None:
    write(tree(FITS))
    for levels in (FITS + 1, 100, 300):
        with pytest.raises(InvalidEvent) as caught:
            write(tree(levels))
        assert caught.value.field == "part"


def test_the_deepest_event_that_is_published_is_read() -> None:
    event = tree(FITS)
    (found,) = parcel(event_text(event))
    assert registered(Tree).decode(found) == event


def parcel(*texts: str) -> Sequence[object]:
    message: Any = Message(task_body(list(texts)), content_type="application/json", content_encoding="utf-8")  # type: ignore[arg-type]  # bytes will do
    message.headers = task_headers("m1", len(texts))
    found = read_delivered(message)
    assert isinstance(found, EventMessage), found
    return found.events


@pytest.mark.parametrize("levels", [DEEPEST, 100, 700])
def test_in_a_message_each_event_is_judged_by_itself(levels: int) -> None:
    deep = '{"id": "deep", "type": "tree", "part": ' + "[" * levels + "]" * levels + "}"
    good = event_text(tree(1))
    first, found, last = parcel(good, deep, good)
    assert first == last == json.loads(good)
    assert isinstance(found, DeepEvent)
    assert found.id == "deep"
    assert json.loads(found.text) == json.loads(deep)


def test_the_relay_leaves_it_to_the_worker_to_say_so() -> None:
    body = '{"id": "deep", "type": "tree", "part": ' + "[" * 100 + "]" * 100 + "}"
    (found,) = parcel(_text({"_id": "deep", "body": body, "attempts": 0}))
    assert found == DeepEvent("deep", json.dumps(json.loads(body)))
    hopeless = '{"id": "deep", "part": ' + "[" * 700 + "]" * 700 + "}"
    (found,) = parcel(_text({"_id": "deep", "body": hopeless, "attempts": 0}))
    assert isinstance(found, dict)
    assert found["id"] == "deep"
