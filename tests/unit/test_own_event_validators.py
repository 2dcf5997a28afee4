"""Own events with validators that see a value before its type does: refused where JSON is what they would see."""

from __future__ import annotations

import json
import uuid
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal

import pytest
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    WrapValidator,
    create_model,
    field_validator,
    model_validator,
)

from cachekeeper.errors import InvalidEvent, RegistrationError
from cachekeeper.model.event_field_types import Id, Moment
from cachekeeper.model.events import Event
from cachekeeper.publishing.publisher import event_text
from testkit.own_events import Card, Mixed, Size, back, event_with, registered, same


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
        InvalidEvent, match=rf"event: a validator of this event raised {error.__name__} \(.*, line \d+\)"
    ) as caught:
        registry.decode(wire)
    assert "2031" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
