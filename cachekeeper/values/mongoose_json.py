"""The JSON that a Node.js service gets from Mongoose's `.lean()` and `JSON.stringify`, byte for byte.

A search result that Python cached and one that Node.js loads from MongoDB must look the same to the caller. So the text
is written from the BSON itself, type by type, as JavaScript's BSON library (version 7) reads it and `JSON.stringify`
writes it. `tests/golden/lean.json`, made by Mongoose, has the expected texts. One bug of the JavaScript driver is not
copied: under a name that JavaScript objects inherit, such as `constructor`, the driver returns the documents of an
array as raw bytes.

Values that are not BSON yet are encoded to BSON first, so that the text shows what MongoDB would store, and so that
there is only one code path.
"""

from __future__ import annotations

import json
import re
import struct
from base64 import b64encode
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

import bson
from bson.binary import UuidRepresentation
from bson.codec_options import CodecOptions, DatetimeConversion
from bson.errors import BSONError
from bson.raw_bson import RawBSONDocument

from cachekeeper.errors import DamagedDocument
from cachekeeper.values.javascript import date_text, decimal_text, number_text

if TYPE_CHECKING:
    from collections.abc import Callable

    # Takes the bytes and the offset of a value; returns its JSON (None for 'undefined') and the offset of its end.
    Reader = Callable[[bytes, int], tuple[str | None, int]]

LEAN_CODEC_OPTIONS: Final[CodecOptions[RawBSONDocument]] = CodecOptions(
    document_class=RawBSONDocument,
    tz_aware=True,  # times come back as they were written: with the time zone UTC
    uuid_representation=UuidRepresentation.STANDARD,
    datetime_conversion=DatetimeConversion.DATETIME_AUTO,  # a year outside Python's range must not break a read
)
"""Options to read documents for `dumps`: a document stays the server's bytes, so nothing is lost or refused.

`dumps` also takes pymongo's dictionaries, but there 'undefined' is already None, and an object with `$ref` is a DBRef
or an error.
"""

DOCUMENT_CODEC_OPTIONS: Final[CodecOptions[dict[str, Any]]] = LEAN_CODEC_OPTIONS.with_options(document_class=dict)
"""Options to read all other documents: the same, but as dictionaries."""


def dumps(value: object) -> bytes:
    """Write `value` as `JSON.stringify` does after `.lean()`, in UTF-8.

    Args:
        value: a value that BSON can hold: a document (raw, or any mapping), a list of documents, or a single value.

    Raises:
        DamagedDocument: BSON cannot represent the value, or drivers cannot read its BSON.
    """
    try:
        text, _ = _document(bson.encode({"": value}, codec_options=DOCUMENT_CODEC_OPTIONS), 0)
    except (BSONError, LookupError, OverflowError, RecursionError, TypeError, ValueError, struct.error) as error:
        # `from None`, because the causes quote the value.
        raise DamagedDocument(f"cannot be written as BSON for JavaScript ({type(error).__name__})") from None
    return text.removeprefix('{"":').removesuffix("}").encode()


def to_lean(value: object) -> Any:
    """Return `value` as it comes back from the cache: `json.loads(dumps(value))` by definition.

    Raises:
        DamagedDocument: see `dumps`.
    """
    return json.loads(dumps(value))


_INT32 = struct.Struct("<i")
_INT64 = struct.Struct("<q")
_DOUBLE = struct.Struct("<d")

_quote = json.JSONEncoder(ensure_ascii=False).encode  # escapes exactly what JSON.stringify escapes
_quote_key = lru_cache(maxsize=4096)(_quote)

# --- documents and arrays -------------------------------------------------------------------------------------------

# ECMAScript's array index. An object's properties with such names come first, in ascending order.
_INDEX = re.compile(r"0|[1-9][0-9]{0,9}").fullmatch
_LAST_INDEX = 2**32 - 2


def _document(data: bytes, at: int, *, may_refer: bool = True) -> tuple[str, int]:
    end = at + _INT32.unpack_from(data, at)[0] - 1
    at += 4
    members: dict[str, str | None] = {}
    kinds: dict[str, int] = {}
    indexed = False
    while at < end:
        kind = data[at]
        stop = data.index(0, at + 1)
        name = data[at + 1 : stop].decode(errors="replace")  # JavaScript checks the UTF-8 of values, not of names
        members[name], at = _READERS[kind](data, stop + 1)  # a repeated name: first place, last value
        if name[:1] == "$":
            kinds[name] = kind
        elif "0" <= name[:1] <= "9":
            indexed = True
    if at != end or data[at] != 0:
        raise ValueError("the document's length is wrong")
    if may_refer and _is_reference(kinds):
        members = _reference(members)
    if indexed:
        members = dict(sorted(members.items(), key=_place))  # stable: the others keep their order
    return _object(members), end + 1


def _object(members: dict[str, str | None]) -> str:
    return f"{{{','.join([f'{_quote_key(name)}:{text}' for name, text in members.items() if text is not None])}}}"


def _place(member: tuple[str, object]) -> int:
    name = member[0]
    return min(int(name), _LAST_INDEX + 1) if _INDEX(name) else _LAST_INDEX + 1


def _embedded(data: bytes, at: int) -> tuple[str, int]:
    return _document(data, at)


def _array(data: bytes, at: int) -> tuple[str, int]:
    end = at + _INT32.unpack_from(data, at)[0] - 1
    at += 4
    texts: list[str] = []
    while at < end:
        text, at = _READERS[data[at]](data, data.index(0, at + 1) + 1)
        texts.append("null" if text is None else text)
    if at != end or data[at] != 0:
        raise ValueError("the array's length is wrong")
    return f"[{','.join(texts)}]", end + 1


# --- references -----------------------------------------------------------------------------------------------------


def _is_reference(kinds: dict[str, int]) -> bool:
    """Whether the BSON library turns a document with these `$` members, given with their types, into a DBRef."""
    return (
        {"$ref", "$id"} <= kinds.keys() <= {"$ref", "$id", "$db"}
        and kinds["$ref"] in _TEXTS
        and kinds["$id"] not in _NOTHING
        and kinds.get("$db", _STRING) in _TEXTS
    )


def _reference(members: dict[str, str | None]) -> dict[str, str | None]:
    """The members that `DBRef.toJSON` returns: its own first. A collection `a.b` means `b` in the database `a`."""
    collection, identity, database = (members.pop(name, None) for name in ("$ref", "$id", "$db"))
    parts = json.loads(collection or "").split(".")
    if len(parts) == 2:  # noqa: PLR2004 - exactly one dot; with more dots, the whole text is the collection
        database, collection = map(_quote, parts)
    members.pop("__proto__", None)  # Object.assign sets the prototype with it
    return {"$ref": collection, "$id": identity, **members, "$db": database}  # None is left out


def _pointer(data: bytes, at: int) -> tuple[str, int]:
    namespace, at = _string(data, at)
    identity, at = _object_id(data, at)
    return _object(_reference({"$ref": namespace, "$id": identity})), at


# --- single values --------------------------------------------------------------------------------------------------


def _double(data: bytes, at: int) -> tuple[str, int]:
    return number_text(_DOUBLE.unpack_from(data, at)[0]), at + 8


def _string(data: bytes, at: int) -> tuple[str, int]:
    start = at + 4
    end = start + _INT32.unpack_from(data, at)[0]
    return _quote(data[start : end - 1].decode()), end


def _binary(data: bytes, at: int) -> tuple[str, int]:
    start = at + 5
    end = start + _INT32.unpack_from(data, at)[0]
    subtype = data[at + 4]
    if subtype == bson.binary.OLD_BINARY_SUBTYPE:
        start += 4  # skips the second length
    content = data[start:end]
    if subtype == bson.binary.UUID_SUBTYPE and len(content) == 16:  # noqa: PLR2004 - a UUID's size
        return f'"{UUID(bytes=content)}"', end
    return f'"{b64encode(content).decode()}"', end


def _undefined(_data: bytes, at: int) -> tuple[None, int]:
    return None, at


def _null(_data: bytes, at: int) -> tuple[str, int]:
    return "null", at


def _object_id(data: bytes, at: int) -> tuple[str, int]:
    return f'"{data[at : at + 12].hex()}"', at + 12


def _boolean(data: bytes, at: int) -> tuple[str, int]:
    return "true" if data[at] else "false", at + 1


def _date(data: bytes, at: int) -> tuple[str, int]:
    text = date_text(_INT64.unpack_from(data, at)[0])
    return "null" if text is None else f'"{text}"', at + 8


def _regex(data: bytes, at: int) -> tuple[str, int]:
    return "{}", data.index(0, data.index(0, at) + 1) + 1  # pattern and options; a RegExp has no members of its own


def _code(data: bytes, at: int) -> tuple[str, int]:
    text, at = _string(data, at)
    return f'{{"code":{text}}}', at


def _code_with_scope(data: bytes, at: int) -> tuple[str, int]:
    text, at = _string(data, at + 4)
    scope, at = _document(data, at, may_refer=False)
    return f'{{"code":{text},"scope":{scope}}}', at


def _int32(data: bytes, at: int) -> tuple[str, int]:
    return str(_INT32.unpack_from(data, at)[0]), at + 4


def _timestamp(data: bytes, at: int) -> tuple[str, int]:
    return f'{{"$timestamp":"{int.from_bytes(data[at : at + 8], "little")}"}}', at + 8


def _int64(data: bytes, at: int) -> tuple[str, int]:
    number = _INT64.unpack_from(data, at)[0]
    if -(2**53) <= number <= 2**53:
        return str(number), at + 8
    low, high = struct.unpack_from("<ii", data, at)
    return f'{{"high":{high},"low":{low},"unsigned":false}}', at + 8


def _decimal128(data: bytes, at: int) -> tuple[str, int]:
    return f'{{"$numberDecimal":"{decimal_text(int.from_bytes(data[at : at + 16], "little"))}"}}', at + 16


def _key(_data: bytes, at: int) -> tuple[str, int]:
    return "{}", at


_STRING = 0x02
_TEXTS = (_STRING, 0x0E)
_NOTHING = (0x06, 0x0A)
_READERS: dict[int, Reader] = {
    0x01: _double,
    0x02: _string,
    0x03: _embedded,
    0x04: _array,
    0x05: _binary,
    0x06: _undefined,
    0x07: _object_id,
    0x08: _boolean,
    0x09: _date,
    0x0A: _null,
    0x0B: _regex,
    0x0C: _pointer,
    0x0D: _code,
    0x0E: _string,  # a symbol
    0x0F: _code_with_scope,
    0x10: _int32,
    0x11: _timestamp,
    0x12: _int64,
    0x13: _decimal128,
    0x7F: _key,  # MaxKey
    0xFF: _key,  # MinKey
}
