"""Events of one's own: what JSON would change is refused when an event is registered."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from enum import Enum
from ipaddress import IPv4Address
from typing import Annotated, Any, Literal

import pytest
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
from cachekeeper.model.event_field_types import Id
from cachekeeper.model.events import Event
from testkit.own_events import (
    Card,
    Mixed,
    Transfer,
    event_with,
    registered,
)


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
    (Card | Transfer, "add a discriminator"),
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
    (Dated, "a value of type date"),
    (Paired, "a value of type tuple"),
    (Literal[Mixed.TEXT], "Literal of enum members"),
    (HoldsBytes, "field.raw: holds bytes"),
    (list[HoldsBytes], "field (items).raw: holds bytes"),
    (TakesAll, "field: takes fields of any name"),
    (Aliased, "field.name: has an alias"),
    (WithInit, "field: is of a class with its own __init__"),
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


def test_what_no_worker_could_register_is_not_published() -> None:
    """A publisher registers nothing: published and confirmed, the event would always be a dead letter."""
    make: Any = create_model
    own = make("Own", __base__=Event, type=(Literal["own"], "own"), one=(uuid.UUID | str, ...))
    with pytest.raises(InvalidEvent, match=r"^event: Own cannot be published: field one: is a union"):
        own(one="text").wire_text()


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

    with pytest.raises(RegistrationError, match=f"model_config: {next(iter(config))} must keep"):
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
