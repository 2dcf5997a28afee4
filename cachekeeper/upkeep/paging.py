"""Read a whole collection in the order of `_id`, batch by batch, even where the driver cannot decode a document."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import bson
from bson.errors import BSONError
from bson.raw_bson import RawBSONDocument

from cachekeeper.connections.mongodb_errors import database_errors
from cachekeeper.errors import DamagedDocument
from cachekeeper.values.mongoose_json import LEAN_CODEC_OPTIONS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from cachekeeper.model.sources import StoredDocument
    from cachekeeper.reading.keeper import Keeper


def id_of(document: StoredDocument) -> Any:
    """The `_id` of a document from MongoDB, even where the driver cannot decode the rest of the document.

    The driver decodes a raw document as a whole when a field is first read, so one text that is not UTF-8 makes every
    field unreadable.

    Raises:
        DamagedDocument: the driver cannot decode the `_id` itself.
    """
    try:
        return bson.decode(place_of(document), LEAN_CODEC_OPTIONS)["_id"]
    except BSONError:
        raise DamagedDocument("the driver cannot read the document's _id; correct it") from None


def place_of(document: StoredDocument) -> bytes:
    """The place of a document from MongoDB in the order of `_id`: BSON with the `_id` alone, its bytes unchanged.

    Raises:
        DamagedDocument: this is not a document with an `_id`.
    """
    raw = bytes(document.raw) if isinstance(document, RawBSONDocument) else bson.encode(document)
    at = 4
    try:
        while raw[at]:
            value = raw.index(0, at + 1) + 1
            end = value + _size(raw, value, raw[at])
            if raw[at + 1 : value] == b"_id\0":
                return struct.pack("<i", end - at + 5) + raw[at:end] + b"\0"
            at = end
    except (LookupError, ValueError, struct.error):
        pass  # the bytes end in the middle of a value
    raise DamagedDocument("a document has no readable _id; correct it")


def in_order(
    keeper: Keeper, collection: str, fields: Sequence[str], *, size: int, after: bytes | None = None
) -> Iterator[list[StoredDocument]]:
    """All documents of a collection. Each batch is a query with its own time limit, so the caller may be slow.

    A document that is inserted meanwhile at a place already passed is not seen.

    Args:
        keeper: gives access to MongoDB.
        collection: its name.
        fields: the fields to read beside `_id`.
        size: documents in a batch.
        after: begin after this place, which `place_of` returned. Its document may be gone by now.

    Raises:
        DatabaseUnavailable: MongoDB did not answer in time, or refused.
    """
    database = keeper.database
    page: dict[str, Any] = {
        "find": collection,
        "projection": dict.fromkeys(("_id", *fields), 1),
        "sort": {"_id": 1},
        "hint": {"_id": 1},  # `min` requires a hint
        "readConcern": database.read_concern.document,
    }
    while True:
        bound: dict[str, Any] = {}
        if after is not None:
            # A bound of the index, not a filter: `$gt` compares within one BSON type, and ids may have several types.
            # The bound is inclusive, so one more document is read. It is raw bytes, since the driver may not be able
            # to encode the `_id`; this needs a command, since `Cursor.min` takes only values.
            bound = {"min": RawBSONDocument(after)}
        limit = size + (after is not None)
        with database_errors(f"reading {collection}", keeper.settings.load_timeout_seconds, collection):
            found: list[StoredDocument] = list(
                database.cursor_command(page | bound | {"limit": limit}, codec_options=LEAN_CODEC_OPTIONS)
            )
        complete = len(found) < limit
        if found and after is not None and place_of(found[0]) == after:
            del found[0]
        if found:
            after = place_of(found[-1])
            yield found
        if complete:
            return


# Sizes of values in bytes, by BSON type: `_FIXED` as they are, `_COUNTED` plus the number in the first four bytes.
_FIXED = {0x01: 8, 0x06: 0, 0x07: 12, 0x08: 1, 0x09: 8, 0x0A: 0, 0x10: 4, 0x11: 8, 0x12: 8, 0x13: 16, 0x7F: 0, 0xFF: 0}
_COUNTED = {0x02: 4, 0x03: 0, 0x04: 0, 0x05: 5, 0x0C: 16, 0x0D: 4, 0x0E: 4, 0x0F: 0}
_REGEX = 0x0B  # two texts, each with a zero byte at its end


def _size(raw: bytes, at: int, kind: int) -> int:
    if kind in _FIXED:
        return _FIXED[kind]
    if kind == _REGEX:
        return raw.index(0, raw.index(0, at) + 1) + 1 - at
    return int(struct.unpack_from("<i", raw, at)[0]) + _COUNTED[kind]
