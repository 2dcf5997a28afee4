"""Codecs: values to the plain bytes in Redis and back. Any Redis client in any language can read these bytes."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, NoReturn, Protocol, TypeVar

from bson import Code

from cachekeeper.errors import DamagedDocument, DamagedValue, InvalidValue
from cachekeeper.values import mongoose_json as lean

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

MAX_SAFE_INTEGER = 2**53 - 1
_FIRST_EXPONENT = 1e21  # JavaScript prints numbers from here on with an exponent
_TOO_LARGE = "is an integer beyond 2^53 - 1, which JavaScript would change: store it as text"
# BSON allows 100 levels. The document around the value needs some of them.
MAX_DEPTH = 90


class Codec(Protocol[T_co]):
    """Converts the values of a view to bytes and back."""

    def encode(self, value: object) -> bytes:
        """The bytes for `value`.

        Raises:
            DamagedDocument: the view cannot hold this value from the database.
        """

    def decode(self, raw: bytes) -> T_co:
        """The value in `raw`.

        Raises:
            DamagedValue: `raw` is not in the format of this codec.
        """


class Text:
    """UTF-8 text, stored unchanged."""

    def encode(self, value: object) -> bytes:
        """Encode a text. Raises DamagedDocument: `value` is not text, or not valid Unicode."""
        if not isinstance(value, str):
            raise DamagedDocument(f"expected text, but the document holds {type(value).__name__}: correct the document")
        try:
            return value.encode()
        except UnicodeEncodeError:
            raise DamagedDocument("the text is not valid Unicode (lone surrogates): correct the document") from None

    def decode(self, raw: bytes) -> str:
        """Decode a text. Raises DamagedValue: `raw` is not UTF-8."""
        try:
            return raw.decode()
        except UnicodeDecodeError:
            raise DamagedValue("not UTF-8") from None


@dataclass(frozen=True, slots=True)
class Json(Generic[T]):
    """JSON as a Node.js service writes it from Mongoose's `.lean()`.

    Attributes:
        kind: the type of the outermost value: `dict` or `list`.
    """

    kind: type[T]

    def encode(self, value: object) -> bytes:
        """Encode a value. Raises DamagedDocument: it is of another kind, or BSON cannot represent it."""
        # Raw documents from MongoDB are mappings but not dicts.
        if not isinstance(value, Mapping if self.kind is dict else self.kind):
            raise DamagedDocument(
                f"expected {self.kind.__name__}, but the document holds {type(value).__name__}: correct the document"
            )
        return lean.dumps(value)

    def decode(self, raw: bytes) -> T:
        """Decode JSON. Raises DamagedValue: `raw` is not JSON, or of another kind."""
        try:
            # `json.loads` gets text: in bytes it would also accept UTF-16, a byte order mark, and surrogates.
            value = json.loads(raw.decode(), parse_constant=_refuse_constant, parse_float=_finite)
        except (ValueError, RecursionError):
            raise DamagedValue("not JSON") from None
        if not isinstance(value, self.kind):
            raise DamagedValue(f"not a JSON {'object' if self.kind is dict else 'array'}")
        return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise ValueError("the number is too large for a double")
    return number


def check_json(value: object, path: str) -> None:
    """Check that JSON and JavaScript would not change a value.

    Args:
        value: the value to store.
        path: the caller's name for the value. The error's field is this path, extended to the part that is wrong.

    Raises:
        InvalidValue: `value` contains NaN or an infinity; an integer beyond 2^53 - 1, or a float that prints as one; a
            key that is not text or contains NUL; lone surrogates; an object with `$ref` and `$id`; a tuple, a date,
            bytes or another type that JSON cannot represent; or more than 90 levels.
    """
    _check_json(value, path, MAX_DEPTH)


def _check_json(value: Any, path: str, depth: int) -> None:
    if value is None or isinstance(value, bool):
        return
    if isinstance(value, str) and not isinstance(value, Code):  # Code is a str, but BSON does not store it as text
        _check_utf8(value, path)
    elif isinstance(value, int):
        if abs(value) > MAX_SAFE_INTEGER:
            raise InvalidValue(path, _TOO_LARGE)
    elif isinstance(value, float):
        _check_float(value, path)
    elif depth == 0:
        raise InvalidValue(path, f"is nested deeper than {MAX_DEPTH} levels")
    elif isinstance(value, list):
        for at, item in enumerate(value):
            _check_json(item, f"{path}[{at}]", depth - 1)
    elif isinstance(value, dict):
        _check_object(value, path, depth)
    else:
        raise InvalidValue(path, f"has the type {type(value).__name__}, which JSON cannot represent: convert it")


def _check_float(value: float, path: str) -> None:
    if not math.isfinite(value):
        raise InvalidValue(path, "is NaN or infinite, which JSON cannot represent: use None or text")
    # Below 10^21 it is written without an exponent, and its last digits as zeros. Read back, it is another number.
    if MAX_SAFE_INTEGER < abs(value) < _FIRST_EXPONENT:
        raise InvalidValue(path, _TOO_LARGE)


def _check_object(value: Mapping[Any, Any], path: str, depth: int) -> None:
    if "$ref" in value and "$id" in value:
        raise InvalidValue(
            path, "has both $ref and $id, which MongoDB's drivers read as a DBRef: rename one of these keys"
        )
    for key, item in value.items():
        if not isinstance(key, str):
            raise InvalidValue(path, f"must have only text as keys, but one key has the type {type(key).__name__}")
        _check_utf8(key, f"{path} (a key)")
        if "\0" in key:
            raise InvalidValue(path, "has a key with a NUL character: remove it from the key")
        _check_json(item, f"{path}.{key}", depth - 1)


def _check_utf8(text: str, path: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidValue(path, "must be valid Unicode, without lone surrogates") from None
