"""Own events with values that no validator has seen, or that JSON changes: refused before they are published."""

from __future__ import annotations

import copy
import json
import pickle
import traceback
import uuid
import warnings
from collections.abc import Callable
from datetime import date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any, Literal
from zoneinfo import ZoneInfo

import pytest
from pydantic import (
    BaseModel,
    ConfigDict,
    RootModel,
    create_model,
)

from cachekeeper.errors import InvalidEvent, RegistrationError
from cachekeeper.model import events
from cachekeeper.model.event_field_types import Moment
from cachekeeper.model.events import Event
from cachekeeper.model.registry import load_registry
from cachekeeper.publishing.publisher import event_text
from cachekeeper.relays.outbox import _record
from producers import UserLoggedOut, UserUpdated
from testkit.own_events import Mixed, back, event_with, registered, same

SHIPPED = load_registry(["producers"])


SECRET = "correct-horse"
OUT = UserLoggedOut(token_id="t1", session_id="s1")


class Loose(BaseModel):
    number: float


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
        (Nothing | None, "field: is optional, and has the value None"),
        (list[Nothing | None], r"field \(items\): is optional, and has the value None"),
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
    monkeypatch.setattr("cachekeeper.model.json_round_trip._Walk._array", lambda *_: dict[str, Any]()["schema"])
    with pytest.raises(RegistrationError, match=r"event Own: field field: cannot be checked \(KeyError\): use a type"):
        registered(event_with(list[str]))


def test_a_name_that_is_not_defined_is_a_registration_error() -> None:
    make: Any = create_model
    own = make("Own", __base__=Event, type=(Literal["own"], "own"), field=("NowhereDefined", ...))
    with pytest.raises(RegistrationError, match=r"event Own: NowhereDefined is not defined"):
        registered(own)
