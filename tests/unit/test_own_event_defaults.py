"""Own events with defaults that would not be read: refused at registration."""

from __future__ import annotations

import json
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal, get_type_hints

import pytest
from pydantic import (
    BaseModel,
    Field,
    ValidationInfo,
    field_validator,
)

from cachekeeper.errors import InvalidEvent, RegistrationError
from cachekeeper.model.event_field_types import Id, Version
from cachekeeper.model.events import Event
from testkit.own_events import FIELDS, Mixed, OrderPlaced, back, event_with, registered, same
from tests.golden.own_event import EVENT


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
