"""The `_id` of a document is read whatever else the document holds."""

from datetime import UTC, datetime
from typing import Any

import bson
import pytest
from bson import Code, DBRef, Decimal128, MaxKey, MinKey, ObjectId, Regex, Timestamp
from bson.raw_bson import RawBSONDocument

from cachekeeper import DamagedDocument
from cachekeeper.upkeep.paging import id_of, place_of
from testkit.garbled import GARBLED, garbled


@pytest.mark.parametrize(
    "before",
    [
        1.5, "text", {"a": [1]}, [1, {"b": 2}], b"bytes", None, True, ObjectId("0" * 24), Regex("a", "i"),
        datetime(2026, 1, 1, tzinfo=UTC),
        7, 2**40, Timestamp(1, 2), Decimal128("1"), MinKey(), MaxKey(), Code("x"), Code("x", {"y": 1}), DBRef("a", 1),
    ],
    ids=repr,
)  # fmt: skip
def test_an_id_is_found_behind_every_type(before: Any) -> None:
    raw = garbled({"before": before, "_id": "here", "behind": GARBLED})
    assert id_of(raw) == "here"
    assert place_of(raw) == bson.encode({"_id": "here"})


def test_what_has_no_id_is_damaged() -> None:
    for document in (RawBSONDocument(bson.encode({"a": 1})), garbled({"_id": GARBLED})):
        with pytest.raises(DamagedDocument):
            id_of(document)
