"""Between a value and the plain bytes at its key, which any Redis client in any language reads."""

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
_FIRST_EXPONENT = 1e21  # the least number that JavaScript prints with one
_TOO_LARGE = "an integer beyond 2^53 - 1 is changed by JavaScript: store it as text"
# BSON itself ends at 100 levels; the document around the value takes some.
MAX_DEPTH = 90


class Codec(Protocol[T_co]):
    """How the values of a view are written."""

    def encode(self, value: object) -> bytes:
        """The bytes for `value`.

        Raises:
            DamagedDocument: a value from the database that this view cannot hold.
        """

    def decode(self, raw: bytes) -> T_co:
        """The value in `raw`.

        Raises:
            DamagedValue: `raw` is not of this codec.
        """


class Text:
    """UTF-8 text, as it is."""

    def encode(self, value: object) -> bytes:
        """Raises DamagedDocument for what is not text."""
        if not isinstance(value, str):
            raise DamagedDocument(f"expected text, the document holds {type(value).__name__}")
        try:
            return value.encode()
        except UnicodeEncodeError:
            raise DamagedDocument("the text holds lone surrogates") from None

    def decode(self, raw: bytes) -> str:
        """Raises DamagedValue for what is not UTF-8."""
        try:
            return raw.decode()
        except UnicodeDecodeError:
            raise DamagedValue("not UTF-8") from None


@dataclass(frozen=True, slots=True)
class Json(Generic[T]):
    """JSON as a Node.js service writes it from Mongoose's `.lean()`.

    Attributes:
        kind: what must stand outermost: `dict` or `list`.
    """

    kind: type[T]

    def encode(self, value: object) -> bytes:
        """Raises DamagedDocument for a value of another kind."""
        # MongoDB's own documents are mappings without being dicts.
        if not isinstance(value, Mapping if self.kind is dict else self.kind):
            raise DamagedDocument(f"expected {self.kind.__name__}, the document holds {type(value).__name__}")
        return lean.dumps(value)

    def decode(self, raw: bytes) -> T:
        """Raises DamagedValue for what is not JSON, or of another kind."""
        try:
            # Decoded here: of bytes, json.loads would also take UTF-16, a byte order mark, and surrogates.
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
        raise ValueError("a number beyond all doubles")
    return number


def check_json(value: object, path: str) -> None:
    """Refuse what JSON or JavaScript would change on the way.

    Args:
        value: to be stored.
        path: how the caller names it; the error's field is the path to what is wrong inside it.

    Raises:
        InvalidValue: NaN and infinities, integers beyond 2^53 (floats that print as one, too), keys that are not text
            (or hold NUL), lone surrogates, objects with `$ref` and `$id`, tuples, dates, bytes and everything else that
            JSON has no form for, or more than 90 levels.
    """
    _check_json(value, path, MAX_DEPTH)


def _check_json(value: Any, path: str, depth: int) -> None:
    if value is None or isinstance(value, bool):
        return
    if isinstance(value, str) and not isinstance(value, Code):  # which is text, but not to BSON
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
        raise InvalidValue(path, f"JSON has no form for {type(value).__name__}")


def _check_float(value: float, path: str) -> None:
    if not math.isfinite(value):
        raise InvalidValue(path, "JSON has no NaN and no infinity")
    # Up to 10^21 it is written without an exponent, with zeros for its last digits: read back, another number.
    if MAX_SAFE_INTEGER < abs(value) < _FIRST_EXPONENT:
        raise InvalidValue(path, _TOO_LARGE)


def _check_object(value: Mapping[Any, Any], path: str, depth: int) -> None:
    if "$ref" in value and "$id" in value:
        raise InvalidValue(
            path, "MongoDB's drivers take an object with $ref and $id for a reference: name them otherwise"
        )
    for key, item in value.items():
        if not isinstance(key, str):
            raise InvalidValue(path, f"keys must be text, one is {type(key).__name__}")
        _check_utf8(key, f"{path} (a key)")
        if "\0" in key:
            raise InvalidValue(path, "keys must hold no NUL")
        _check_json(item, f"{path}.{key}", depth - 1)


def _check_utf8(text: str, path: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidValue(path, "holds lone surrogates") from None
