"""Events of one's own: what JSON carries comes back equal, and what it does not is refused before it is published."""

from __future__ import annotations

import json
import uuid
from datetime import date, timedelta
from decimal import Decimal
from typing import Any, ClassVar, Literal

import pytest
from cloudevents.core.bindings.http import HTTPMessage, to_binary, to_structured
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from hypothesis import HealthCheck, Phase, given, settings
from pydantic import BaseModel

from cachekeeper.errors import InvalidEvent
from cachekeeper.http_api.decoding import read_events
from cachekeeper.http_api.messages import BATCHED, BINARY, media_type, read_message
from cachekeeper.model.event_field_types import Id
from cachekeeper.model.events import Event, _report
from cachekeeper.model.registry import load_registry
from cachekeeper.publishing.publisher import event_text
from cachekeeper.relays.outbox import _record
from cachekeeper.relays.outbox_relay import _text
from testkit.own_events import (
    FIELDS,
    ORDERS,
    OWN,
    Card,
    Mixed,
    OrderPlaced,
    back,
    event_with,
    registered,
    same,
)
from tests.golden.own_event import EVENT
from tests.golden.wire_events import OWN as OWN_FILE

SHIPPED = load_registry(["producers"])
SLOW = settings(
    max_examples=15,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.explicit, Phase.generate),  # one event has 30 fields: to shrink it takes minutes
)
NAN, INFINITY = float("nan"), float("inf")


# --- what JSON carries ------------------------------------------------------------------------------------------------


@SLOW
@given(ORDERS)
def test_an_event_comes_back_from_the_wire_as_it_was(event: OrderPlaced) -> None:
    same(back(OWN, event), event)


@SLOW
@given(ORDERS)
def test_and_from_the_outbox_and_from_a_dead_letter(event: OrderPlaced) -> None:
    record = _record(event)
    stored = json.loads(_text({"_id": record["_id"], "body": record["body"], "attempts": 0}))
    same(OWN.decode(stored), event)
    same(OWN.decode(json.loads(json.dumps(stored))), event)


@SLOW
@given(ORDERS)
def test_and_from_the_http_door_in_every_mode(event: OrderPlaced) -> None:
    wire = event.to_wire()
    attributes = {"id": event.id, "type": event.type, "time": event.time, "source": "/shop", "datacontenttype": BINARY}
    data = {name: value for name, value in wire.items() if name not in {"id", "type", "time"}}
    messages = [write(CloudEvent(dict(attributes), data), JSONFormat()) for write in (to_binary, to_structured)]
    for message in (*messages, HTTPMessage({"content-type": BATCHED}, b"[" + messages[1].body + b"]")):
        headers = [(name.lower().encode(), value.encode()) for name, value in message.headers.items()]
        found = read_message(media_type(headers), headers, message.body, 10)
        (read,) = read_events(OWN, found, batched=False)
        same(read, event)


def test_every_field_is_tried() -> None:
    assert FIELDS.keys() == OrderPlaced.model_fields.keys() - {"type"}


def test_base64_is_read_in_both_alphabets_with_or_without_padding() -> None:
    own = event_with(bytes)
    registry = registered(own)
    wanted = own(id="x", time=0, field=b"\xff\xfe")
    for text in ("//4=", "__4=", "//4", "__4"):
        assert registry.decode({"type": "own", "id": "x", "time": 0, "field": text}) == wanted


@pytest.mark.parametrize("body", ["not base64!", 5, None, ["//4="]])
def test_what_is_no_base64_is_refused(body: object) -> None:
    with pytest.raises(InvalidEvent) as caught:
        registered(event_with(bytes)).decode({"type": "own", "field": body})
    assert caught.value.field == "field"


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (date, "2031-02-30"),
        (date, 5),
        (uuid.UUID, "x"),
        (Decimal, "one"),
        (Mixed, 2),
        (tuple[int, str], [1]),
        (tuple[int, str], [1, 2]),
        (set[int], ["1"]),
        (dict[int, str], {"one": "a"}),
        (int, "5"),
        (Card | None, {"kind": "card"}),
    ],
)
def test_the_wire_is_read_as_strictly_as_before(annotation: Any, value: object) -> None:
    with pytest.raises(InvalidEvent, match="field") as caught:
        registered(event_with(annotation)).decode({"type": "own", "field": value})
    assert caught.value.field.startswith("field")


def test_what_a_newer_producer_added_is_dropped_and_the_door_refuses_it() -> None:
    own = event_with(date)
    body = {"type": "own", "field": "2031-01-01", "added": 1}
    assert registered(own).decode(body).to_wire()["field"] == "2031-01-01"
    with pytest.raises(InvalidEvent, match="added: is not a field"):
        own.from_json(body)


def test_no_error_shows_a_value() -> None:
    own = event_with(date)
    own.secret_fields = frozenset({"field"})
    with pytest.raises(InvalidEvent) as caught:
        registered(own).decode({"type": "own", "field": "correct-horse"})
    assert "correct-horse" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_the_golden_file_of_field_types() -> None:
    """It changes only by additions, as those of the shipped events do."""
    file = json.loads(OWN_FILE.read_text("utf-8"))
    assert [json.loads(event_text(EVENT))] == file["written"]
    for body in (*file["written"], *(each["body"] for each in file["read"])):
        same(OWN.decode(body), EVENT)


# --- NaN and infinities -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [NAN, INFINITY, -INFINITY])
@pytest.mark.parametrize("annotation", [float, float | None, list[float], dict[str, float], tuple[float, ...]])
def test_nan_and_infinities_are_refused_at_construction_and_on_the_wire(annotation: Any, number: float) -> None:
    own = event_with(annotation)
    value: Any = number
    if annotation == list[float]:
        value = [number]
    elif annotation == dict[str, float]:
        value = {"a": number}
    elif annotation == tuple[float, ...]:
        value = (number,)
    with pytest.raises(InvalidEvent):
        own(field=value)
    wire = json.loads(json.dumps({"type": "own", "field": value}))
    with pytest.raises(InvalidEvent):
        registered(own).decode(wire)


class Loose(BaseModel):
    number: float


def test_nor_does_a_model_of_ones_own_bring_one_along() -> None:
    event = event_with(Loose)(field=Loose(number=NAN))
    for write in (event_text, _record):
        with pytest.raises(InvalidEvent, match="field: JSON cannot represent its value"):
            write(event)


def test_decimals_are_finite() -> None:
    for number in (Decimal("NaN"), Decimal("Infinity"), Decimal("sNaN")):
        with pytest.raises(InvalidEvent):
            event_with(Decimal)(field=number)


# --- what is refused at registration ----------------------------------------------------------------------------------
# --- what it costs ----------------------------------------------------------------------------------------------------


def test_classes_that_strict_python_mode_reads_keep_the_cheaper_path() -> None:
    shipped = load_registry(["producers"]).events.values()
    assert [kind.__name__ for kind in shipped if _report(kind).needs_json_mode] == []
    annotation: Any
    for annotation in (str, int | None, list[float], dict[str, str], Literal["a"], bool | int, Id | None):
        assert not _report(event_with(annotation)).needs_json_mode, annotation
    for annotation in (date, tuple[int, ...], dict[int, str], list[uuid.UUID], Card, Mixed, bytes, timedelta):
        assert _report(event_with(annotation)).needs_json_mode, annotation


def test_the_cheaper_path_alone_would_refuse_them() -> None:
    """The known-bad variant: strict Python mode for every class."""
    wire = json.loads(event_text(event_with(date)(field=date(2031, 1, 1))))
    with pytest.raises(InvalidEvent):
        event_with(date)(**wire)


def test_an_event_within_its_class_variables_is_as_before() -> None:
    class Own(Event):
        type: Literal["own"] = "own"
        day: date
        secret_fields: ClassVar[frozenset[str]] = frozenset({"day"})

    event = Own(day=date(2031, 1, 1))
    assert "2031" not in repr(event)
    assert back(registered(Own), event) == event
