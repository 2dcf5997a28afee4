"""A whole collection in the order of `_id`, batch by batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import bson

from cachekeeper.database import database_errors
from cachekeeper.lean import LEAN_CODEC_OPTIONS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from cachekeeper.keeper import Keeper
    from cachekeeper.loaders import StoredDocument


def spell(document_id: object) -> bytes:
    """An `_id` as bytes, exactly: its BSON type stays, and NaN equals itself."""
    return bson.encode({"_id": document_id}, codec_options=LEAN_CODEC_OPTIONS)


def unspell(raw: bytes) -> Any:
    """The `_id` in what `spell` made."""
    return bson.decode(raw, LEAN_CODEC_OPTIONS)["_id"]


def in_order(
    keeper: Keeper, collection: str, fields: Sequence[str], *, size: int, after: bytes | None = None
) -> Iterator[list[StoredDocument]]:
    """All documents of a collection, each batch a query with a time limit of its own; so the caller may take its time.

    Documents made meanwhile behind the place reached are not seen.

    Args:
        keeper: on whose MongoDB.
        collection: its name.
        fields: those wanted beside `_id`.
        size: documents in a batch.
        after: begin behind this `_id`, as `spell` gives it; the document itself need not exist any more.

    Raises:
        DatabaseUnavailable: MongoDB did not answer in time, or refused.
    """
    projection = dict.fromkeys(("_id", *fields), 1)
    while True:
        with database_errors(f"reading {collection}", keeper.settings.load_timeout_seconds):
            # The index is named because `min` asks for it.
            cursor = keeper.database[collection].find({}, projection, sort=[("_id", 1)], hint=[("_id", 1)])
            if after is not None:
                # A bound of the index, not a filter: `$gt` looks at one BSON type only, and ids may be of several. The
                # bound is inclusive, hence one document more.
                cursor = cursor.min([("_id", unspell(after))])
            found: list[StoredDocument] = list(cursor.limit(size + (after is not None)))
        complete = len(found) < size
        if found and after is not None and spell(found[0]["_id"]) == after:
            del found[0]
        if found:
            after = spell(found[-1]["_id"])
            yield found
        if complete:
            return
