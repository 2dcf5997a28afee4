"""Events of one's own: what JSON carries comes back equal, and what it does not is refused before it is published."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from ipaddress import IPv4Address
from typing import Annotated, Any, ClassVar, Literal

import pytest
from cloudevents.core.bindings.http import HTTPMessage, to_binary, to_structured
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from hypothesis import HealthCheck, Phase, given, settings
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    SecretStr,
    create_model,
    field_serializer,
)

from cachekeeper.errors import InvalidEvent, RegistrationError
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
    Transfer,
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
        with pytest.raises(InvalidEvent, match="field: JSON cannot carry it"):
            write(event)


def test_decimals_are_finite() -> None:
    for number in (Decimal("NaN"), Decimal("Infinity"), Decimal("sNaN")):
        with pytest.raises(InvalidEvent):
            event_with(Decimal)(field=number)


# --- what is refused at registration ----------------------------------------------------------------------------------


class HoldsBytes(BaseModel):
    raw: bytes


class TakesAll(BaseModel):
    model_config = ConfigDict(extra="allow")


class Aliased(BaseModel):
    name: str = Field(alias="theName")


class WithInit(BaseModel):
    day: date

    def __init__(self, **fields: Any) -> None:
        super().__init__(**fields)


class Serialized(BaseModel):
    day: date

    @field_serializer("day")
    def _day(self, day: date) -> str:
        return day.strftime("%d.%m.%y")


class Inner(BaseModel):
    value: Any


@dataclass(eq=False)
class WithoutEq:
    number: int


class Dated(Enum):
    DAY = date(2031, 1, 1)


class Paired(Enum):
    PAIR = (1, 2)


class NumberKeyed(Enum):
    ONE = 1


REFUSED: list[tuple[Any, str]] = [
    (Any, "field: is of any type"),
    (object, "field: "),
    (list, "field (items): is of any type"),
    (list[Any], "field (items): is of any type"),
    (dict[str, Any], "field (values): is of any type"),
    (dict, "field (keys): are of any type"),
    (tuple, "field (items): is of any type"),
    (set, "field (items): is of any type"),
    (Any | None, "field: is of any type"),
    (Inner, "field.value: is of any type"),
    (list[Inner | None], "field (items).value: is of any type"),
    (uuid.UUID | str, "a union of uuid and str"),
    (str | uuid.UUID, "a union of"),
    (datetime | str, "a union of datetime and str"),
    (date | datetime, "a union of date and datetime"),
    (Decimal | str, "a union of decimal and str"),
    (bytes | str, "a union of bytes and str"),
    (int | float, "a union of int and float"),
    (Decimal | bytes | None, "a union of"),
    (Mixed | int, "a union of"),
    (Mixed | str, "a union of"),
    (Literal["a"] | date, "a union of"),
    (Id | date, "a union of"),
    (list[int] | set[int], "a union of list and set"),
    (list[int] | list[str], "a union of list and list"),
    (tuple[int, ...] | list[int], "a union of tuple and list"),
    (Card | Transfer, "give them a discriminator"),
    (Card | dict[str, int], "a union of model and dict"),
    (list[uuid.UUID | str], "field (items): is a union"),
    (dict[str, uuid.UUID | str], "field (values): is a union"),
    (dict[str, list[int | float]], "field (values) (items): is a union"),
    (tuple[int, datetime | str], "field (items): is a union"),
    ((uuid.UUID | str) | None, "a union of"),
    (list[int | str] | float | int | None, "a union of"),
    (dict[tuple[int, int], str], "field (keys)"),
    (dict[int | str, str], "field (keys): are a union"),
    (dict[int | None, str], "field (keys): are optional"),
    (dict[frozenset[int], str], "field (keys)"),
    (dict[Card, str], "field (keys)"),
    (dict[NumberKeyed, str], "field (keys): are not all text"),
    (dict[Mixed, str], "field (keys): are not all text"),
    (dict[Literal["a", 1], str], "field (keys): are not all text"),
    (Dated, "a value that is a date"),
    (Paired, "a value that is a tuple"),
    (Literal[Mixed.TEXT], "Literal of members"),
    (HoldsBytes, "field.raw: holds bytes"),
    (list[HoldsBytes], "field (items).raw: holds bytes"),
    (TakesAll, "field: takes fields of any name"),
    (Aliased, "field.name: has an alias"),
    (WithInit, "field: is of a class with an __init__"),
    (WithoutEq, "field: is of a class without an __eq__"),
    (list[WithoutEq], "field (items): is of a class without an __eq__"),
    (Serialized, "field.day: has a serializer of its own"),
    (SecretStr, "field: "),
    (IPv4Address, "field: "),
    (Sequence[int], "has a serializer of its own"),
    (Iterable[int], "field: "),
    (Callable[[], int], "field: "),
    (complex, "field: "),
    (type, "field: "),
]


@pytest.mark.parametrize(("annotation", "said"), REFUSED, ids=lambda part: str(part)[:60])
def test_what_json_would_change_is_refused_at_registration(annotation: Any, said: str) -> None:
    with pytest.raises(RegistrationError, match="event Own: ") as caught:
        registered(event_with(annotation))
    assert said in str(caught.value)
    assert ": " in str(caught.value).partition("field")[2], "and the cure"


def test_every_field_at_fault_is_named_at_once() -> None:
    make: Any = create_model
    own = make("Own", __base__=Event, type=(Literal["own"], "own"), one=(Any, ...), two=(uuid.UUID | str, ...))
    with pytest.raises(RegistrationError, match=r"field one: .*field two: "):
        registered(own)


@pytest.mark.parametrize(
    "config", [{"extra": "allow"}, {"strict": False}, {"ser_json_bytes": "hex"}, {"allow_inf_nan": True}]
)
def test_the_configuration_stays_that_of_event(config: dict[str, Any]) -> None:
    class Own(Event):
        model_config = ConfigDict(**config)  # type: ignore[typeddict-item]  # whichever it is
        type: Literal["own"] = "own"

    with pytest.raises(RegistrationError, match=f"model_config: {next(iter(config))} must stay"):
        registered(Own)


@pytest.mark.parametrize("options", [{"alias": "theField"}, {"validation_alias": "x"}, {"exclude": True}])
def test_fields_that_the_wire_does_not_know_by_name(options: dict[str, Any]) -> None:
    with pytest.raises(RegistrationError, match="field field: "):
        registered(event_with(date, Field(**options)))


def test_a_validator_alone_says_nothing_of_the_type() -> None:
    with pytest.raises(RegistrationError, match="field field: "):
        registered(event_with(Annotated[object, PlainValidator(lambda value: value)]))


@pytest.mark.parametrize(
    "annotation",
    [
        Literal["a", "b"] | None,
        str | None,
        bool | int,
        bool | str | None,
        int | str,
        list[int] | str,
        date | int | None,
        Card | list[date] | None,
        dict[str, list[dict[str, int | str]]],
    ],
    ids=str,
)
def test_unions_whose_members_differ_in_json_are_taken(annotation: Any) -> None:
    registered(event_with(annotation))


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
