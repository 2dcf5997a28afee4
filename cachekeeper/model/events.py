"""Events, by which an upstream service says that something happened.

A new event may have only the fields of its class. An event from the broker may have more, from a newer producer; these
are dropped.
"""

from __future__ import annotations

import json
import traceback
import uuid
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PydanticUndefinedAnnotation,
    ValidationError,
)

from cachekeeper.errors import InputError, InvalidEvent
from cachekeeper.model.event_field_types import READ_FROM_JSON, Id, Moment, Name, Version
from cachekeeper.model.json_round_trip import Report, check_round_trip, told
from cachekeeper.values.nesting import DEEPEST_FIELD, TOO_DEEP, deeper_than

E = TypeVar("E", bound="Event")

_CONTAINERS = (dict, list)  # made once: `dict | list` would be made anew for each field of each event


class Event(BaseModel):
    """One thing that happened. Subclass it with a `type` and fields of your own.

    Attributes:
        id: identifies this event; the same in every redelivery.
        type: what happened, such as `user.updated`.
        time: when, in UTC.
        version: the document's version after the change; None where the document has no version, where this change
            did not raise it, and for a deletion.

    Raises:
        InvalidEvent: on construction; the message names every wrong field.
    """

    model_config = ConfigDict(
        strict=True,
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
        allow_inf_nan=False,
        ser_json_bytes="base64",
        val_json_bytes="base64",
        validate_default=True,
    )

    # These defaults are valid. Checking them for each event would cost time.
    id: Id = Field(default_factory=lambda: str(uuid.uuid4()), validate_default=False)
    type: str
    time: Moment = Field(default_factory=lambda: datetime.now(UTC), validate_default=False)
    version: Version = Field(default=None, validate_default=False)

    secret_fields: ClassVar[frozenset[str]] = frozenset()
    """Fields whose values are masked wherever an event is shown: in its repr, and in a dead letter."""

    def __init__(self, /, **fields: Any) -> None:
        if not _names(type(self))[0]:
            raise InvalidEvent("type", "has no default: subclass Event, and give 'type' one, such as 'order.changed'")
        try:
            super().__init__(**fields)
        except ValidationError as error:
            # `from None`: the cause holds the input, so a logged traceback would show tokens.
            raise _invalid(type(self), error) from None

    def __setattr__(self, name: str, value: Any) -> None:
        # pydantic's own error would quote the value.
        raise AttributeError(f"{name}: events are frozen; make a changed copy with model_copy(update=...)")

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        for name, value in super().__repr_args__():
            yield name, "***" if name in self.secret_fields and value is not None else value

    def __str__(self) -> str:
        return repr(self)

    @classmethod
    def type_name(cls) -> str:
        """The `type` of the events of this class."""
        return str(cls.model_fields["type"].default)

    @classmethod
    def from_wire(cls, body: Mapping[str, Any]) -> Self:
        """Make an event from the values that `to_wire` returned. Fields that a newer producer added are dropped.

        Raises:
            InvalidEvent: a field is missing or wrong.
        """
        _, known = _names(cls)
        return cls.from_json(body if body.keys() <= known else {name: body[name] for name in body.keys() & known})

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Self:
        """Make an event from JSON-ready values. A field that the class does not have is an error.

        Args:
            fields: as `json.loads` returns them: a date is text, bytes are base64.

        Raises:
            InvalidEvent: a field is missing, extra or wrong.
        """
        try:
            if not _needs_json_mode(cls):
                return cls(**fields)
            event = cls.__new__(cls)
            # Not `model_validate_json`: it calls `__init__`, which validates in strict Python mode.
            cls.__pydantic_validator__.validate_json(_json(fields), self_instance=event)
        except ValidationError as error:
            raise _invalid(cls, error) from None
        except InputError:
            raise
        except Exception as error:  # noqa: BLE001  # an application's validator may raise anything
            raise InvalidEvent("event", f"a validator of this event raised {_raised(error)}") from None
        return event

    def to_wire(self) -> dict[str, Any]:
        """The event as JSON-ready values. None is included only where it was given: null may differ from nothing.

        Raises:
            InvalidEvent: a field's value does not have the field's type, or JSON cannot represent it.
        """
        try:
            # Errors, not warnings: a warning quotes the value. Not `model_dump`: it would take a fifth longer.
            write = self.__pydantic_serializer__.to_python
            body: dict[str, Any] = write(self, mode="json", round_trip=True, warnings="error")
        except (ValueError, RecursionError) as error:  # pydantic's errors and UnicodeDecodeError are ValueErrors
            name = type(error).__name__
            raise InvalidEvent(
                _unwritable(self), f"its value does not have the field's type, or JSON cannot represent it ({name})"
            ) from None
        return {name: value for name, value in body.items() if value is not None or name in self.model_fields_set}

    def wire_text(self) -> str:
        """The event as it goes over the wire: `to_wire` as JSON text.

        Raises:
            InvalidEvent: JSON cannot represent a field's value, such as NaN inside a model of your own; a field is
                nested too deeply for a message; reading the text back would give another event; or no worker could
                register its class.
        """
        if problems := unfit_fields(type(self)):
            raise InvalidEvent("event", f"{type(self).__name__} cannot be published: {'; '.join(problems)}")
        body = self.to_wire()
        for name, value in body.items():
            if isinstance(value, _CONTAINERS) and deeper_than(DEEPEST_FIELD, value):
                raise InvalidEvent(name, TOO_DEEP)
        text = _json(body)
        if type(self.__pydantic_fields_set__) is _Unchecked or _needs_reading_back(type(self)):
            _check_back(self, text)
        return text

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Copy the event as pydantic does. The update is not checked here, but when the event is published."""
        copied = super().model_copy(update=update, deep=deep)
        return _unchecked(copied) if update else copied

    def copy(self, **options: Any) -> Self:
        """Copy the event by pydantic's deprecated method. Use `model_copy`. Publishing checks the copy."""
        return _unchecked(super().copy(**options))

    @classmethod  # type: ignore[no-redef]  # mypy's plugin makes one for each class
    def model_construct(  # type: ignore[override]
        cls, _fields_set: set[str] | None = None, **values: Any
    ) -> Self:
        """Make an event without checks, as pydantic does. Publishing checks it."""
        return _unchecked(super().model_construct(_fields_set, **values))


class _Unchecked(set[str]):
    """The fields given to an event that was not fully validated: its class is the mark. Copies of the event have it."""


def _unchecked(event: E) -> E:
    object.__setattr__(event, "__pydantic_fields_set__", _Unchecked(event.__pydantic_fields_set__))
    return event


def _check_back(event: Event, text: str) -> None:
    """Raise InvalidEvent where reading `text` gives another event than this."""
    found = type(event).from_json(json.loads(text))
    for name in event.__dict__.keys() | found.__dict__.keys():
        value, read = event.__dict__.get(name), found.__dict__.get(name)
        if read != value or not isinstance(value, type(read)) or isinstance(value, bool) > isinstance(read, bool):
            raise InvalidEvent(
                name, "would be read back as another value: give it a valid value that JSON can represent exactly"
            )


@cache
def _names(kind: type[Event]) -> tuple[bool, frozenset[str]]:
    """Whether a class has a type of its own, and its field names. Cached: pydantic makes the list at each call."""
    fields = kind.model_fields
    return isinstance(fields["type"].default, str), frozenset(fields)


@cache
def _report(kind: type[Event]) -> Report:
    """The report on the fields of a class."""
    kind.model_rebuild()  # resolves annotations that named a class before it was defined
    return check_round_trip(kind.__pydantic_core_schema__, frozenset(READ_FROM_JSON))


@cache
def _needs_json_mode(kind: type[Event]) -> bool:
    """Whether the class must be read from the wire in JSON mode: strict Python mode costs less, but cannot read it."""
    return _names(kind)[0] and _report(kind).needs_json_mode


@cache
def _needs_reading_back(kind: type[Event]) -> bool:
    """Whether publishing reads each event back as a check, which costs more than writing it. No shipped event does."""
    return _names(kind)[0] and _report(kind).needs_reading_back


@cache
def unfit_fields(kind: type[Event]) -> tuple[str, ...]:
    """The problems of an event class on the wire: a text, with its cure, for each field that JSON would change."""
    try:
        report = _report(kind)
    except PydanticUndefinedAnnotation as error:
        return (f"{error.name} is not defined: define it before the event is registered",)
    changed = sorted(name for name, value in Event.model_config.items() if kind.model_config.get(name) != value)
    found = [f"model_config: {name} must keep the value that it has in Event; do not set it" for name in changed]
    return *found, *told(report.problems)


def _raised(error: Exception) -> str:
    """The error's class, and where it was raised. Its text is left out: it may quote a token."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} ({Path(last.filename).name}, line {last.lineno})"


def _json(body: Mapping[str, Any]) -> str:
    try:
        return json.dumps(body, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError):
        raise InvalidEvent(
            _at_fault(body), "JSON cannot represent its value: it is NaN or an infinity, or nested too deeply"
        ) from None


def _unwritable(event: Event) -> str:
    """The first field that pydantic cannot write."""
    for name in type(event).model_fields:
        try:
            event.model_dump(mode="json", round_trip=True, include={name}, warnings="error")
        except (ValueError, RecursionError):
            return name
    return "event"


def _at_fault(body: Mapping[str, Any]) -> str:
    for name, value in body.items():
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError, RecursionError):
            return name
    return "event"


class CollectionChanged(Event):
    """Anything in a collection may have changed: every view of the collection is dropped, in every package.

    The only event of the engine itself. Publish it when the single changes are not known, such as after a restored
    backup or a bulk change. It looks at every key of these views, and the next read of each key costs a load.

    Attributes:
        collection: its name.
    """

    type: Literal["collection.changed"] = "collection.changed"
    collection: Name
    version: None = None


def _invalid(kind: type[Event], error: ValidationError) -> InvalidEvent:
    problems: dict[str, str] = {}
    for problem in error.errors(include_input=False, include_url=False, include_context=False):
        name = ".".join(str(part) for part in problem["loc"]) or "event"
        said = {"missing": "is missing", "extra_forbidden": "is not a field of this event"}
        message = said.get(problem["type"], problem["msg"].removeprefix("Value error, "))
        problems.setdefault(name, message)
    (first, text), *rest = problems.items()
    more = "".join(f"; {name}: {message}" for name, message in rest)
    declared = kind.model_fields["type"].default
    return InvalidEvent(first, f"{text}{more} (event {declared})" if isinstance(declared, str) else f"{text}{more}")
