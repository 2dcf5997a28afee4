"""An event of a user's own package, with a field of every type whose JSON form differs from its Python form."""

from __future__ import annotations

import json
import uuid
from collections import deque
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from typing import Annotated, Any, Literal, NamedTuple

from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, create_model, model_validator
from typing_extensions import TypedDict

from cachekeeper.model.event_field_types import Id, Moment, Name
from cachekeeper.model.events import Event
from cachekeeper.model.registry import Registry
from cachekeeper.publishing.publisher import event_text


class Size(StrEnum):
    SMALL = "s"
    LARGE = "l"


class Grade(IntEnum):
    ONE = 1
    TWO = 2


class Mixed(Enum):
    NUMBER = 1
    TEXT = "1"


class Money(BaseModel):
    model_config = ConfigDict(frozen=True)
    amount: Decimal
    currency: Literal["EUR", "USD"] = "EUR"


class Line(BaseModel):
    model_config = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")
    sku: uuid.UUID
    price: Money
    picture: bytes | None = None
    parts: list[Line] = []


class Card(BaseModel):
    kind: Literal["card"] = "card"
    until: date


class Transfer(BaseModel):
    kind: Literal["transfer"] = "transfer"
    at: datetime


class Point(NamedTuple):
    x: int
    y: float


class Labels(TypedDict):
    made: date
    by: str


@dataclass(frozen=True)
class Window:
    begins: time
    lasts: timedelta


class OrderPlaced(Event):
    """An event with fields of all these types."""

    type: Literal["order.placed"] = "order.placed"
    order_id: Id
    due: Moment | None = None
    note: Name = ""
    day: date
    at: datetime
    clock: time
    lasts: timedelta
    total: Decimal
    ref: uuid.UUID
    blob: bytes
    size: Size
    grade: Grade
    mixed: Mixed
    pair: tuple[int, str]
    many: tuple[date, ...]
    tags: set[str]
    refs: frozenset[uuid.UUID]
    queue: deque[int]
    by_number: dict[int, str]
    by_day: dict[date, Decimal]
    by_ref: dict[uuid.UUID, list[bytes]]
    by_size: dict[Size, int]
    lines: list[Line]
    paid: Annotated[Card | Transfer, Field(discriminator="kind")]
    point: Point
    labels: Labels
    window: Window
    ratio: float
    count: int
    flag_or_number: bool | int
    when: date | int | None = None
    list_or_text: list[date] | str | None = None

    @model_validator(mode="after")
    def _checked(self) -> OrderPlaced:
        return self


_ZONES = st.builds(timezone, st.integers(-23 * 60, 23 * 60).map(lambda minutes: timedelta(minutes=minutes)))
_DATETIMES = st.datetimes(timezones=st.none() | _ZONES)
_DECIMALS = st.decimals(allow_nan=False, allow_infinity=False)
_IDS = st.from_regex(r"[A-Za-z0-9:._-]{1,20}", fullmatch=True)
_TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=10)
_INTS = st.integers(-(10**30), 10**30)
_FLOATS = st.floats(allow_nan=False, allow_infinity=False)
_MONEY = st.builds(Money, amount=_DECIMALS, currency=st.sampled_from(["EUR", "USD"]))
_LEAF = st.builds(Line, sku=st.uuids(), price=_MONEY, picture=st.none() | st.binary(max_size=9), parts=st.just([]))
_LINES = st.recursive(
    _LEAF, lambda inner: st.builds(Line, sku=st.uuids(), price=_MONEY, parts=st.lists(inner, max_size=2))
)
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "id": _IDS,
    "time": st.datetimes(timezones=_ZONES, min_value=datetime(2, 1, 1), max_value=datetime(9998, 1, 1)),  # noqa: DTZ001
    "version": st.none() | st.integers(0, 2**53 - 1),
    "order_id": _IDS,
    "due": st.none() | st.datetimes(timezones=_ZONES, min_value=datetime(2, 1, 1), max_value=datetime(9998, 1, 1)),  # noqa: DTZ001
    "note": _TEXTS,
    "day": st.dates(),
    "at": _DATETIMES,
    "clock": st.times(),
    "lasts": st.timedeltas(),
    "total": _DECIMALS,
    "ref": st.uuids(),
    "blob": st.binary(max_size=20),
    "size": st.sampled_from(Size),
    "grade": st.sampled_from(Grade),
    "mixed": st.sampled_from(Mixed),
    "pair": st.tuples(_INTS, _TEXTS),
    "many": st.lists(st.dates(), max_size=3).map(tuple),
    "tags": st.sets(_TEXTS, max_size=3),
    "refs": st.frozensets(st.uuids(), max_size=3),
    "queue": st.lists(_INTS, max_size=3).map(deque),
    "by_number": st.dictionaries(_INTS, _TEXTS, max_size=3),
    "by_day": st.dictionaries(st.dates(), _DECIMALS, max_size=3),
    "by_ref": st.dictionaries(st.uuids(), st.lists(st.binary(max_size=5), max_size=2), max_size=2),
    "by_size": st.dictionaries(st.sampled_from(Size), _INTS),
    "lines": st.lists(_LINES, max_size=2),
    "paid": st.builds(Card, until=st.dates()) | st.builds(Transfer, at=_DATETIMES),
    "point": st.builds(Point, _INTS, _FLOATS),
    "labels": st.fixed_dictionaries({"made": st.dates(), "by": _TEXTS}),
    "window": st.builds(Window, st.times(), st.timedeltas()),
    "ratio": _FLOATS,
    "count": _INTS,
    "flag_or_number": st.booleans() | _INTS,
    "when": st.none() | st.dates() | _INTS,
    "list_or_text": st.none() | st.lists(st.dates(), max_size=3) | _TEXTS,
}
ORDERS = st.fixed_dictionaries(FIELDS).map(lambda fields: OrderPlaced(**fields))
"""A strategy for any `OrderPlaced`."""


OWN = Registry()
OWN.add_event(OrderPlaced)


def event_with(annotation: Any, default: Any = ..., **config: Any) -> type[Event]:
    """Return an event class with one field of its own."""
    make: Any = create_model
    made: type[Event] = make("Own", __base__=Event, type=(Literal["own"], "own"), field=(annotation, default), **config)
    return made


def registered(kind: type[Event]) -> Registry:
    registry = Registry()
    registry.add_event(kind)
    return registry


def back(registry: Registry, event: Event) -> Event:
    """Return the event after its way over the wire."""
    return registry.decode(json.loads(event_text(event)))


def same(found: Event, event: Event) -> None:
    """Assert equal values and equal types: `True == 1`, and a set equals a frozenset."""
    assert found == event
    for name in type(event).model_fields:
        assert type(getattr(found, name)) is type(getattr(event, name)), name
