"""The types of an event's fields that are checked as the engine needs them: ids, versions, moments and names."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from pydantic import BeforeValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from cachekeeper.errors import InputError, InvalidEvent
from cachekeeper.values.ids import MAX_ID_BYTES, check_id
from cachekeeper.values.times import check_time
from cachekeeper.values.versions import MAX_VERSION, check_version

READ_FROM_JSON: set[object] = set()
"""The validators of these types, each of which reads what `json.loads` gives by itself."""


def _door(check: Any) -> BeforeValidator:
    """A pydantic validator out of one of our checks, keeping its wording."""

    def validate(value: Any) -> Any:
        try:
            return check(value)
        except InputError as error:
            raise PydanticCustomError("cachekeeper", "{problem}", {"problem": error.problem}) from None

    READ_FROM_JSON.add(validate)
    return BeforeValidator(validate)


def _check_name(value: object) -> str:
    """A name as it stands in a document: any text that UTF-8 can carry, without NUL."""
    if not isinstance(value, str):
        raise InvalidEvent("name", f"must be text, got {type(value).__name__}")
    if "\0" in value:
        raise InvalidEvent("name", "must hold no NUL")
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise InvalidEvent("name", "must hold no lone surrogates") from None
    if size > MAX_NAME_BYTES:
        raise InvalidEvent("name", f"must be at most {MAX_NAME_BYTES} bytes in UTF-8, got {size}")
    return value


MAX_NAME_BYTES = 65536

# What the checks take, for those who read a schema. It knows characters and no bytes, and so lets some ids through that
# are too long.
_ID_TEXT = {
    "type": "string",
    "minLength": 1,
    "maxLength": MAX_ID_BYTES,
    "pattern": r"^[^{}\s\u0000-\u001f\u007f-\u009f]+$",
}
_INTEGER = {"type": "integer"}
_SECONDS = {"type": "number", "description": "Seconds since 1970; a fraction is rounded up."}
_MOMENT = {"anyOf": [{"type": "string", "format": "date-time"}, _SECONDS]}
_VERSION = {"anyOf": [{**_INTEGER, "minimum": 0, "maximum": MAX_VERSION}, {"type": "null"}]}
_NAME = {"type": "string", "maxLength": MAX_NAME_BYTES, "pattern": r"^[^\u0000]*$"}

Id = Annotated[str, _door(check_id), WithJsonSchema({"anyOf": [_ID_TEXT, _INTEGER]})]
"""An id: text or an integer, kept as text. To a type checker it is text, which is what whoever reads the field gets."""

Version = Annotated[int | None, _door(check_version), WithJsonSchema(_VERSION)]
"""A version from 0 to 2^53 - 1, or None for 'no version'. `5.0` is 5."""

Moment = Annotated[datetime, _door(check_time), WithJsonSchema(_MOMENT)]
"""A time: with a zone, or seconds since 1970, a fraction of which is rounded up; kept in UTC."""

Name = Annotated[str, _door(_check_name), WithJsonSchema(_NAME)]
"""A text of at most 65536 bytes, as it stands in a document."""
