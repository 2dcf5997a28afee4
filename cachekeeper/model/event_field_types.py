"""Types for an event's fields, with the checks that the engine needs: ids, versions, moments and names."""

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
"""The validators of these types. Each reads the values that `json.loads` returns, also in strict Python mode."""


def _door(check: Any) -> BeforeValidator:
    """Make a pydantic validator from one of this library's checks, and keep the wording of its errors."""

    def validate(value: Any) -> Any:
        try:
            return check(value)
        except InputError as error:
            raise PydanticCustomError("cachekeeper", "{problem}", {"problem": error.problem}) from None

    READ_FROM_JSON.add(validate)
    return BeforeValidator(validate)


def _check_name(value: object) -> str:
    """Check a name of a document: any text that UTF-8 can encode, without NUL."""
    if not isinstance(value, str):
        raise InvalidEvent("name", f"must be text, got {type(value).__name__}")
    if "\0" in value:
        raise InvalidEvent("name", "must not contain a NUL character")
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise InvalidEvent("name", "must be valid Unicode: it contains a lone surrogate") from None
    if size > MAX_NAME_BYTES:
        raise InvalidEvent("name", f"must be at most {MAX_NAME_BYTES} bytes in UTF-8, got {size}")
    return value


MAX_NAME_BYTES = 65536

# The same checks as JSON Schema. A schema counts characters, not bytes, so it accepts some ids that are too long.
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
"""An id: text or an integer, kept as text. A type checker sees `str`, the type of the field's value."""

Version = Annotated[int | None, _door(check_version), WithJsonSchema(_VERSION)]
"""A version from 0 to 2^53 - 1, or None for 'no version'. `5.0` is read as 5."""

Moment = Annotated[datetime, _door(check_time), WithJsonSchema(_MOMENT)]
"""A time with a zone, or a number of seconds since 1970, which is rounded up to a whole second. Kept in UTC."""

Name = Annotated[str, _door(_check_name), WithJsonSchema(_NAME)]
"""A text of at most 65536 bytes, as it stands in a document."""
