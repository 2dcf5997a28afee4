"""Ids: which texts may be part of a key, and which `_id` each one means. The mapping is one to one."""

from __future__ import annotations

import re
import uuid
from contextlib import suppress
from enum import StrEnum
from typing import TYPE_CHECKING

from bson import Decimal128, ObjectId

from cachekeeper.errors import InvalidId

if TYPE_CHECKING:
    from collections.abc import Iterable
    from decimal import Decimal

MAX_ID_BYTES = 512
_INT64 = range(-(2**63), 2**63)
_MOST_BITS = 4 * MAX_ID_BYTES  # 617 digits: longer than an id may be, and short enough for Python to print
_INT64_CHARS = 20  # longer texts are not converted, because int() would be slow

# Nearly every id matches this pattern in one C call. The others take the longer path below.
_PLAIN = re.compile(r"[A-Za-z0-9_.:-]{1,128}").fullmatch
# Braces would change the hash tag that keeps a key and its metadata in one Cluster slot.
_REFUSED = re.compile(r"[{}\s\x00-\x1f\x7f-\x9f]").search
_OBJECT_ID = re.compile(r"[0-9a-f]{24}").fullmatch
_OBJECT_ID_ANY_CASE = re.compile(r"[0-9a-fA-F]{24}").fullmatch
_INTEGER = re.compile(r"0|-?[1-9][0-9]*").fullmatch


def check_id(value: object, field: str = "id") -> str:
    """The text that stands for `value` in a key.

    Args:
        value: text, or an integer, which stands for its decimal digits.
        field: the caller's name for the id, used in the error.

    Raises:
        InvalidId: `value` is neither text nor an integer, is empty, is longer than 512 bytes in UTF-8, or contains
            braces, white space, control characters or lone surrogates.
    """
    if type(value) is str and _PLAIN(value):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        if value.bit_length() > _MOST_BITS:
            raise InvalidId(field, f"must be at most {MAX_ID_BYTES} bytes in UTF-8")
        value = int.__repr__(value)  # not `str`, which gives the name of an enumeration's member
    if not isinstance(value, str):
        raise InvalidId(field, f"must be text or an integer, got {type(value).__name__}")
    if not value:
        raise InvalidId(field, "must not be empty")
    if _REFUSED(value):
        raise InvalidId(field, "must not contain braces, white space or control characters")
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise InvalidId(field, "must be valid Unicode, without lone surrogates") from None
    if size > MAX_ID_BYTES:
        raise InvalidId(field, f"must be at most {MAX_ID_BYTES} bytes in UTF-8, got {size}")
    return str.__str__(value)


class IdType(StrEnum):
    """How the id in a key maps to `_id`.

    `AUTO` reads 24 hexadecimal digits as an ObjectId, decimal digits as an integer, and everything else as text. Only
    the canonical spelling is read that way, so that two ids never mean the same `_id`: `007` and digits beyond 64 bits
    are text. An ObjectId in capitals is refused, because it can only be a mistake.
    """

    AUTO = "auto"
    OBJECTID = "objectid"
    INT = "int"
    STR = "str"
    UUID = "uuid"

    def parse(self, text: str, field: str = "id") -> object:
        """The `_id` that the id `text` means.

        Raises:
            InvalidId: `text` is not the canonical spelling of an id of this type.
        """
        if self is IdType.STR:
            return text
        if self in (IdType.AUTO, IdType.OBJECTID) and _OBJECT_ID_ANY_CASE(text):
            if _OBJECT_ID(text):
                return ObjectId(text)
            raise InvalidId(
                field,
                "24 hexadecimal digits are an ObjectId: use lower case, or set the view's id type to str "
                "(CACHEKEEPER_ID_TYPES)",
            )
        if self in (IdType.AUTO, IdType.INT) and _INTEGER(text) and len(text) <= _INT64_CHARS and int(text) in _INT64:
            return int(text)
        if self is IdType.AUTO:
            return text
        if self is IdType.UUID:
            try:
                parsed = uuid.UUID(text)
            except ValueError:
                parsed = None
            if parsed is not None and str(parsed) == text:
                return parsed
        expected = {
            IdType.OBJECTID: "24 hexadecimal digits in lower case",
            IdType.INT: "a 64-bit integer without leading zeros",
            IdType.UUID: "a UUID in lower case with dashes",
        }
        raise InvalidId(field, f"must be {expected[self]}")

    def parse_all(self, texts: Iterable[str]) -> dict[str, object]:
        """The `_id` that each text means. Texts that are not an id of this type are left out."""
        parsed: dict[str, object] = {}
        for text in texts:
            with suppress(InvalidId):
                parsed[text] = self.parse(text)
        return parsed

    def text(self, document_id: object) -> str | None:
        """The id in the key of the document with this `_id`; None if no id of this type means this `_id`."""
        # JavaScript stores 42 as a double in BSON. To MongoDB, the integer 42, the double and the decimal are equal.
        if isinstance(document_id, Decimal128):
            document_id = _whole(document_id.to_decimal())
        elif isinstance(document_id, float) and document_id.is_integer():
            document_id = int(document_id)
        if isinstance(document_id, bool) or not isinstance(document_id, str | int | ObjectId | uuid.UUID):
            return None
        try:
            text = check_id(str(document_id))
            parsed = self.parse(text)
        except InvalidId:
            return None
        return (
            text
            if type(parsed) is type(document_id) or (isinstance(parsed, int) and isinstance(document_id, int))
            else None
        )


def _whole(number: Decimal) -> int | None:
    if not number.is_finite() or number.adjusted() > _INT64_CHARS or number != int(number):
        return None
    return int(number)
