"""Events of one's own: what JSON carries comes back equal, and what it does not is refused before it is published."""

from __future__ import annotations

import copy
import json
import pickle
import traceback
import uuid
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from ipaddress import IPv4Address
from typing import Annotated, Any, ClassVar, Literal, get_type_hints
from zoneinfo import ZoneInfo

import pytest
from cloudevents.core.bindings.http import HTTPMessage, to_binary, to_structured
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from hypothesis import HealthCheck, Phase, given, settings
from kombu import Message
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    RootModel,
    SecretStr,
    ValidationInfo,
    WrapValidator,
    create_model,
    field_serializer,
    field_validator,
    model_validator,
)

from cachekeeper import events
from cachekeeper.delivery.broker import task_body, task_headers
from cachekeeper.delivery.messages import DeepEvent, Parcel
from cachekeeper.delivery.messages import read_message as read_delivered
from cachekeeper.delivery.outbox import _record
from cachekeeper.delivery.publisher import event_text
from cachekeeper.delivery.relay import _text
from cachekeeper.door.decoding import read_events
from cachekeeper.door.messages import BATCHED, BINARY, media_type, read_message
from cachekeeper.errors import InvalidEvent, RegistrationError
from cachekeeper.events import Event, Id, Moment, Version, _report
from cachekeeper.nesting import DEEPEST
from cachekeeper.registry import Registry, load_registry
from producers import UserLoggedOut, UserUpdated
from tests.golden.own_event import EVENT
from tests.golden.wire_events import OWN as OWN_FILE
from tests.own_events import FIELDS, ORDERS, Card, Mixed, OrderPlaced, Size, Transfer

OWN = Registry()
OWN.add_event(OrderPlaced)
SHIPPED = load_registry(["producers"])
SLOW = settings(
    max_examples=15,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.explicit, Phase.generate),  # one event has 30 fields: to shrink it takes minutes
)
NAN, INFINITY = float("nan"), float("inf")


def event_with(annotation: Any, default: Any = ..., **config: Any) -> type[Event]:
    """A class with one field of its own."""
    make: Any = create_model
    made: type[Event] = make("Own", __base__=Event, type=(Literal["own"], "own"), field=(annotation, default), **config)
    return made


def registered(kind: type[Event]) -> Registry:
    registry = Registry()
    registry.add_event(kind)
    return registry


def back(registry: Registry, event: Event) -> Event:
    """Over the wire."""
    return registry.decode(json.loads(event_text(event)))


# --- what JSON carries ------------------------------------------------------------------------------------------------


def same(found: Event, event: Event) -> None:
    """Equal, and of the same types: `True == 1`, and a set equals a frozenset."""
    assert found == event
    for name in type(event).model_fields:
        assert type(getattr(found, name)) is type(getattr(event, name)), name


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


# --- nested deeply ----------------------------------------------------------------------------------------------------


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
    assert isinstance(found, Parcel), found
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


# --- validators before the type ---------------------------------------------------------------------------------------


def untouched(value: Any) -> Any:
    return value


def handled(value: Any, handler: Any) -> Any:
    return handler(value)


BEFORE = [BeforeValidator(untouched), WrapValidator(handled)]
NEEDS_JSON_MODE: list[Any] = [
    date,
    datetime,
    timedelta,
    Decimal,
    uuid.UUID,
    bytes,
    Mixed,
    Card,
    set[int],
    tuple[int, ...],
    dict[int, str],
    dict[str, date],
    list[date],
    list[Card | None],
    date | None,
    int | date,
]


@pytest.mark.parametrize("validator", BEFORE, ids=["before", "wrap"])
@pytest.mark.parametrize("annotation", NEEDS_JSON_MODE, ids=str)
def test_a_validator_before_what_needs_json_mode_is_refused(annotation: Any, validator: Any) -> None:
    """Below it pydantic no longer knows that it reads JSON, where a date is text."""
    for whole in (
        Annotated[annotation, validator],
        Annotated[annotation, validator] | None,
        list[Annotated[annotation, validator]],
        dict[str, Annotated[annotation, validator]],
    ):
        with pytest.raises(RegistrationError, match=r"field field.*: has a validator .*mode='after'"):
            registered(event_with(whole))


@pytest.mark.parametrize("validator", BEFORE, ids=["before", "wrap"])
def test_and_before_keys_that_are_no_text(validator: Any) -> None:
    key: Any
    for key in (int, date, Decimal, Size):
        with pytest.raises(RegistrationError, match=r"field field \(keys\): has a validator .*mode='after'"):
            registered(event_with(dict[Annotated[key, validator], str]))
    registered(event_with(dict[Annotated[str, validator], str]))


@pytest.mark.parametrize("validator", BEFORE, ids=["before", "wrap"])
@pytest.mark.parametrize("annotation", [str, int | None, Id, Moment | None, list[str], dict[str, int], Literal["a"]])
def test_it_may_stand_before_what_is_read_as_it_lies_in_json(annotation: Any, validator: Any) -> None:
    for others in ({}, {"day": (date, date(2031, 1, 1))}):
        make: Any = create_model
        own = make("Own", __base__=Event, type=(Literal["own"], "own"), field=(Annotated[annotation, validator], ...))
        own = make("Own", __base__=own, **others)
        values = {str: "a", Id: "a", list[str]: ["a"], dict[str, int]: {"a": 1}, Literal["a"]: "a"}
        event = own(field=values.get(annotation))
        same(back(registered(own), event), event)


class CheckedBefore(Event):
    type: Literal["own"] = "own"
    day: date

    @model_validator(mode="before")
    @classmethod
    def _check(cls, fields: Any) -> Any:
        return fields


class CheckedAround(Event):
    type: Literal["own"] = "own"
    day: date

    @model_validator(mode="wrap")
    @classmethod
    def _check(cls, fields: Any, handler: Any) -> Any:
        return handler(fields)


class FieldCheckedBefore(Event):
    type: Literal["own"] = "own"
    day: date

    @field_validator("day", mode="before")
    @classmethod
    def _check(cls, day: Any) -> Any:
        return day


class CardCheckedBefore(BaseModel):
    until: date

    @model_validator(mode="before")
    @classmethod
    def _check(cls, fields: Any) -> Any:
        return fields


class HoldsCard(Event):
    type: Literal["own"] = "own"
    card: CardCheckedBefore


class Branch(BaseModel):
    twigs: Annotated[list[Branch], BeforeValidator(untouched)] = []


class HoldsBranch(Event):
    type: Literal["own"] = "own"
    branch: Branch


@pytest.mark.parametrize(
    ("kind", "field"),
    [
        (CheckedBefore, "field the event"),
        (CheckedAround, "field the event"),
        (FieldCheckedBefore, "field day"),
        (HoldsCard, "field card"),
        (HoldsBranch, "field branch.twigs"),
    ],
)
def test_nor_may_one_of_a_class(kind: type[Event], field: str) -> None:
    with pytest.raises(RegistrationError, match=rf"{field}: has a validator .*mode='after'"):
        registered(kind)


class CheckedPlain(Event):
    type: Literal["own"] = "own"
    text: str

    @model_validator(mode="before")
    @classmethod
    def _check(cls, fields: Any) -> Any:
        return fields


def test_an_event_that_needs_no_json_mode_may_be_checked_before() -> None:
    event = CheckedPlain(text="a")
    same(back(registered(CheckedPlain), event), event)


@pytest.mark.parametrize("error", [TypeError, KeyError, AttributeError, RecursionError])
@pytest.mark.parametrize("annotation", [str, date])
def test_whatever_a_validator_raises_is_an_invalid_event(annotation: Any, error: type[Exception]) -> None:
    ready: list[bool] = []

    def check(value: Any) -> Any:
        if ready:
            raise error(value)
        return value

    own = event_with(Annotated[annotation, AfterValidator(check)])
    registry = registered(own)
    event = own(field="2031-01-01" if annotation is str else date(2031, 1, 1))
    wire = json.loads(event_text(event))
    ready.append(True)
    with pytest.raises(
        InvalidEvent, match=rf"event: a validator of it raised {error.__name__} \(.*, line \d+\)"
    ) as caught:
        registry.decode(wire)
    assert "2031" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


# --- values that no validator has seen --------------------------------------------------------------------------------


SECRET = "correct-horse"
OUT = UserLoggedOut(token_id="t1", session_id="s1")


@pytest.mark.parametrize("write", [event_text, _record, UserLoggedOut.to_wire], ids=["publisher", "outbox", "to_wire"])
@pytest.mark.parametrize(
    "update", [{"session_id": [SECRET]}, {"session_id": SECRET.encode()}, {"session_id": {SECRET}}]
)
def test_a_copy_with_a_wrong_type_is_refused_and_its_value_is_told_to_nobody(
    write: Callable[[Event], object], update: dict[str, Any]
) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with pytest.raises(InvalidEvent) as error:
            write(OUT.model_copy(update=update))
    assert error.value.field == "session_id"
    assert not caught
    assert SECRET not in "".join(traceback.format_exception(error.value))


@pytest.mark.parametrize("write", [event_text, _record], ids=["publisher", "outbox"])
@pytest.mark.parametrize(
    ("update", "field"),
    [
        ({"token_id": ""}, "token_id"),
        ({"token_id": "a b"}, "token_id"),
        ({"token_id": 987654321, "session_id": [SECRET]}, "session_id"),
        ({"token_id": 987654321}, "token_id"),
        ({"id": ""}, "id"),
        ({"version": -1}, "version"),
        ({"version": True}, "version"),
        ({"type": "user.deleted"}, "type"),
        ({"time": datetime(2031, 1, 1)}, "time"),  # noqa: DTZ001  # without a zone
        ({"token_id": None, "session_id": None}, "event"),
    ],
)
def test_a_copy_that_would_not_be_read_is_refused(
    write: Callable[[Event], object], update: dict[str, Any], field: str
) -> None:
    changed = OUT.model_copy(update=update)
    made = UserLoggedOut.model_construct(**{**OUT.__dict__, **update})
    for event in (changed, made, changed.model_copy(), copy.deepcopy(made), pickle.loads(pickle.dumps(changed))):  # noqa: S301  # our own
        with pytest.raises(InvalidEvent) as error:
            write(event)
        assert error.value.field == field


def test_nor_is_a_copy_of_the_older_kind() -> None:
    with pytest.deprecated_call():
        changed = OUT.copy(update={"token_id": ""})
    with pytest.raises(InvalidEvent, match="token_id: must not be empty"):
        event_text(changed)


def test_a_copy_with_a_field_that_is_none_is_refused() -> None:
    with pytest.raises(InvalidEvent, match="other: "):
        event_text(OUT.model_copy(update={"other": 1}))


def test_a_copy_that_is_read_is_published() -> None:
    event = OUT.model_copy(update={"token_id": "t2"})
    assert SHIPPED.decode(json.loads(event_text(event))) == event
    with pytest.raises(InvalidEvent, match="event: give a session_id"):
        event_text(UserLoggedOut.model_construct())


def test_events_that_were_checked_are_not_read_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would cost each event as much again."""

    def never(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(events, "_check_back", never)
    inexact = event_with(dict[str, int])
    for event in (OUT, OUT.model_copy(), SHIPPED.decode(OUT.to_wire()), UserUpdated(user_id="1", name="Ada")):
        event_text(event)
    annotation: Any
    for annotation, value in (
        (date, date(2031, 1, 1)),
        (list[Decimal], [Decimal(1)]),
        (Moment, 0),
        (Mixed, Mixed.TEXT),
        (tuple[bytes, ...], (b"",)),
        (set[uuid.UUID], set()),
    ):
        event_text(event_with(annotation)(field=value))
    with pytest.raises(AssertionError):
        event_text(inexact(field={}))


class Base(BaseModel):
    name: str


class Derived(Base):
    secret: str


class HoldsBase(Event):
    type: Literal["own"] = "own"
    base: Base
    more: tuple[Base, ...] = ()


class HoldsTexts(Event):
    type: Literal["own"] = "own"
    texts: dict[str, str]


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: HoldsBase(base=Derived(name="a", secret="b")), "base"),
        (lambda: HoldsBase(base=Base(name="a"), more=(Derived(name="a", secret="b"),)), "more"),
        (lambda: HoldsTexts(texts=dict.fromkeys(("\ud800", "\ud801"), "a")), "texts"),
        (lambda: HoldsTexts(texts={"\ud800": "a"}), "texts"),
        (lambda: event_with(datetime)(field=datetime(1890, 1, 1, tzinfo=ZoneInfo("Europe/Berlin"))), "field"),
        (lambda: event_with(list[datetime])(field=[datetime(1890, 1, 1, tzinfo=ZoneInfo("Europe/Berlin"))]), "field"),
        (lambda: event_with(Loose)(field=Loose.model_construct(number="a")), "field"),  # type: ignore[arg-type]  # on purpose
    ],
)
def test_a_value_that_json_would_change_is_refused(make: Callable[[], Event], field: str) -> None:
    event = make()
    registered(type(event))
    for write in (event_text, _record):
        with pytest.raises(InvalidEvent) as error:
            write(event)
        assert error.value.field.partition(".")[0] == field


class Moments(BaseModel):
    model_config = ConfigDict(ser_json_temporal="seconds")
    at: datetime


class Milliseconds(BaseModel):
    model_config = ConfigDict(ser_json_temporal="milliseconds")
    day: date


class Lasting(BaseModel):
    model_config = ConfigDict(ser_json_timedelta="float")
    lasts: timedelta


class Nothing(Enum):
    NOTHING = None
    ONE = 1


@pytest.mark.parametrize(
    ("annotation", "said"),
    [
        (Moments, "field.at: is written as a number"),
        (list[Moments], r"field \(items\).at: is written as a number"),
        (Milliseconds, "field.day: is written as a number"),
        (Lasting, "field.lasts: is written as a number"),
        (Nothing | None, "field: is optional, and has a value that is None"),
        (list[Nothing | None], r"field \(items\): is optional, and has a value that is None"),
        (RootModel[bytes], "field: holds bytes"),
        (RootModel[Any], "field: is of any type"),
        (RootModel[int] | float, "field: is a union"),
    ],
    ids=str,
)
def test_what_the_type_says_is_refused_at_registration(annotation: Any, said: str) -> None:
    with pytest.raises(RegistrationError, match=said):
        registered(event_with(annotation))


class Listed(RootModel[list[date]]):
    root: list[date] = []


ROOTS: list[tuple[Any, Any]] = [
    (RootModel[list[str]], ["a"]),
    (RootModel[int] | str, "a"),
    (RootModel[int] | str, RootModel[int](5)),
    (RootModel[dict[int, date]], {5: date(2031, 1, 1)}),
    (Listed, [date(2031, 1, 1)]),
    (list[RootModel[date]], [RootModel[date](date(2031, 1, 1))]),
    (Nothing, Nothing.NOTHING),
]


@pytest.mark.parametrize(("annotation", "value"), ROOTS, ids=str)
def test_root_models_come_back(annotation: Any, value: Any) -> None:
    own = event_with(annotation)
    if isinstance(annotation, type) and issubclass(annotation, RootModel):
        value = annotation(value)
    event = own(field=value)
    same(back(registered(own), event), event)


def test_what_was_not_foreseen_is_refused_by_field(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cachekeeper.json_fields._Walk._array", lambda *_: dict[str, Any]()["schema"])
    with pytest.raises(RegistrationError, match=r"event Own: field field: cannot be looked into \(KeyError\): make it"):
        registered(event_with(list[str]))


def test_a_name_that_is_not_defined_is_a_registration_error() -> None:
    make: Any = create_model
    own = make("Own", __base__=Event, type=(Literal["own"], "own"), field=("NowhereDefined", ...))
    with pytest.raises(RegistrationError, match=r"event Own: NowhereDefined is not defined"):
        registered(own)


# --- defaults ---------------------------------------------------------------------------------------------------------


class Waits(BaseModel):
    wait: Annotated[int, Field(gt=0)] = 0


class Flagged(BaseModel):
    flag: bool = 0  # type: ignore[assignment]  # on purpose


WRONG_DEFAULTS: list[tuple[Any, Any]] = [
    (Id, ""),
    (Id, "a b"),
    (Annotated[int, Field(gt=0)], 0),
    (bool, 0),
    (int, None),
    (timedelta, 5),
    (date, ""),
    (datetime, 0),
    (tuple[int, int], ()),
    (set[int], []),
    (Decimal, 0),
    (Mixed, 1),
    (bytes, ""),
    (dict[int, str], {"a": "b"}),
    (Version, -1),
]


@pytest.mark.parametrize(("annotation", "default"), WRONG_DEFAULTS, ids=range(len(WRONG_DEFAULTS)))
def test_a_default_that_is_not_valid_is_refused(annotation: Any, default: Any) -> None:
    own = event_with(annotation, default)
    with pytest.raises(InvalidEvent, match="field"):
        own()
    with pytest.raises(RegistrationError, match="field field: has a default that"):
        registered(own)


@pytest.mark.parametrize(("annotation", "field"), [(Waits, "wait"), (Flagged, "flag"), (list[Flagged | None], "flag")])
def test_and_one_of_a_model_of_ones_own(annotation: Any, field: str) -> None:
    with pytest.raises(RegistrationError, match=rf"field field.*\.{field}: has a default that"):
        registered(event_with(annotation))


def test_what_a_factory_gives_is_checked_when_it_is_used() -> None:
    own = event_with(date, Field(default_factory=str))
    registered(own)
    with pytest.raises(InvalidEvent, match="field: "):
        own()


LEAST = '{"type": "own", "id": "x", "time": 0}'


def test_right_defaults_come_back() -> None:
    annotations = get_type_hints(OrderPlaced, include_extras=True)
    for name in FIELDS.keys() - Event.model_fields.keys():
        own = event_with(annotations[name], getattr(EVENT, name))
        event = own(id="x", time=0)
        same(registered(own).decode(json.loads(LEAST)), event)
        same(back(registered(own), event), event)


def test_a_default_that_depends_on_another_field_is_left_to_its_validator() -> None:
    class Own(Event):
        type: Literal["own"] = "own"
        first: int
        last: int = 9

        @field_validator("last")
        @classmethod
        def _after_first(cls, last: int, info: ValidationInfo) -> int:
            if last < info.data["first"]:
                raise ValueError("must not be less than first")
            return last

    registered(Own)
    Own(first=1)
    with pytest.raises(InvalidEvent, match="last: must not be less"):
        Own(first=10)
