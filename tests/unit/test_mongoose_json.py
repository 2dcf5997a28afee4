"""Lean JSON against the golden file that Mongoose made, and against its own promises."""

import json
import math
import struct
import uuid
from base64 import b64decode
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import bson
import pytest
from bson import Decimal128, Int64, ObjectId
from bson.datetime_ms import DatetimeMS
from bson.raw_bson import RawBSONDocument
from hypothesis import assume, given
from hypothesis import strategies as st

from cachekeeper.errors import DamagedDocument
from cachekeeper.values import mongoose_json as lean
from cachekeeper.values.javascript import date_text, decimal_text, number_text
from cachekeeper.values.mongoose_json import DOCUMENT_CODEC_OPTIONS, LEAN_CODEC_OPTIONS, dumps, to_lean
from tests.golden.cases import cases

GOLDEN: dict[str, Any] = json.loads(Path(__file__).parents[1].joinpath("golden/lean.json").read_bytes())
CASES: list[tuple[str, bytes, str]] = [
    (case["name"], b64decode(case["bson"]), case["json"]) for case in GOLDEN["cases"]
]


def differing() -> list[str]:
    """The cases where we do not give what Mongoose gave."""
    return [name for name, raw, text in CASES if dumps(RawBSONDocument(raw, LEAN_CODEC_OPTIONS)) != text.encode()]


def test_every_golden_document_gives_mongooses_bytes() -> None:
    assert len(CASES) > 150
    assert differing() == []


def test_the_golden_file_is_that_of_the_cases() -> None:
    assert [(name, raw) for name, raw, _ in CASES] == list(cases())


@pytest.mark.parametrize("kind", lean._READERS, ids=hex)
def test_the_golden_file_would_notice_a_slip_in_any_type(kind: int, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = lean._READERS[kind]
    monkeypatch.setitem(lean._READERS, kind, lambda data, at: ('"slip"', reader(data, at)[1]))
    assert differing()


@pytest.mark.parametrize("function", ["_place", "_is_reference", "_quote_key"])
def test_the_golden_file_would_notice_a_slip_in_an_object(function: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lean, function, lambda _: 0)
    assert differing()


# --- Python's own values ----------------------------------------------------------------------------------------------

ONE_HOUR_EAST = timezone(timedelta(hours=1))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        ("text", '"text"'),
        ([], "[]"),
        ((1, 2.0), "[1,2]"),
        (-0.0, "0"),
        (math.nan, "null"),
        (1e21, "1e+21"),
        (2**60, '{"high":268435456,"low":0,"unsigned":false}'),
        (Int64(5), "5"),
        (Decimal128("12.50"), '{"$numberDecimal":"12.50"}'),
        (ObjectId("0123456789abcdef01234567"), '"0123456789abcdef01234567"'),
        (uuid.UUID(int=1), '"00000000-0000-0000-0000-000000000001"'),
        (b"abc", '"YWJj"'),
        (datetime(2024, 1, 2, 3, 4, 5, 678_900, tzinfo=ONE_HOUR_EAST), '"2024-01-02T02:04:05.678Z"'),
        (datetime(2024, 1, 2), '"2024-01-02T00:00:00.000Z"'),  # noqa: DTZ001  # BSON takes it for UTC
        (DatetimeMS(327403000000000), '"+012344-12-27T13:46:40.000Z"'),
        ({"b": {"10": 1, "9": 2}, "_id": 3}, '{"b":{"9":2,"10":1},"_id":3}'),
        ([{"a": 1}, RawBSONDocument(bson.encode({"b": 2.0}))], '[{"a":1},{"b":2}]'),
    ],
)
def test_a_value_is_written_as_mongodb_would_hand_it_out(value: object, text: str) -> None:
    assert dumps(value) == text.encode()
    assert to_lean(value) == json.loads(text)


def test_integral_numbers_come_back_as_integers() -> None:
    assert [type(number) for number in to_lean([1.0, 1e20, 1e21, 0.5, -0.0])] == [int, int, float, float, int]


def test_a_list_of_documents_is_the_list_of_their_texts() -> None:
    documents = [RawBSONDocument(raw, LEAN_CODEC_OPTIONS) for _, raw, _ in CASES]
    assert dumps(documents).decode() == f"[{','.join(text for _, _, text in CASES)}]"


LOSSLESS = ("a product", "dates", "int64", "doubles", "decimals", "indexes come first", "reference, plain")


@pytest.mark.parametrize("name", LOSSLESS)
def test_documents_read_as_dictionaries_give_the_same(name: str) -> None:
    raw, text = next((raw, text) for case, raw, text in CASES if case == name)
    assert dumps(bson.decode(raw, DOCUMENT_CODEC_OPTIONS)) == text.encode()


# Without `$`: a document with `$ref` and `$id` may be a reference, whose members JavaScript's library reorders.
names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0$"))
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(-(2**53), 2**53)  # beyond, JavaScript rounds the digits of an integral one: 2^69 ends in 700000
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(names, inner),
    max_leaves=10,
)


@given(json_values)
def test_what_json_holds_anyway_comes_back_unchanged(value: object) -> None:
    assert to_lean(value) == value


# --- what is refused --------------------------------------------------------------------------------------------------

SOUND = bson.encode({"a": "secret"})


@pytest.mark.parametrize(
    "value",
    [
        object(),
        {"a": {"secret"}},
        2**64,
        {1: "secret"},
        {"nul\0": 1},
        "\ud800",
        RawBSONDocument(SOUND.replace(b"secret", b"s\xffcret")),
        RawBSONDocument(SOUND.replace(b"\x02a", b"\x20a")),
        RawBSONDocument(SOUND.replace(b"\x02a\0\7", b"\x02a\0\6")),
    ],
)
def test_what_has_no_form_is_refused_and_not_quoted(value: object) -> None:
    with pytest.raises(DamagedDocument) as caught:
        dumps(value)
    assert "secret" not in str(caught.value)
    assert caught.value.__suppress_context__


def test_a_document_nested_too_deep_is_refused() -> None:
    value: list[object] = []
    for _ in range(100_000):
        value = [value]
    with pytest.raises(DamagedDocument):
        dumps(value)


def test_names_that_are_no_utf8_are_repaired_as_javascript_does() -> None:
    assert dumps([RawBSONDocument(SOUND.replace(b"\x02a", b"\x02\xff"))]).decode() == '[{"\ufffd":"secret"}]'


# --- how JavaScript writes numbers, dates and decimals ----------------------------------------------------------------


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_survives_its_text(number: float) -> None:
    assert float(number_text(number)) == number


@given(st.integers(0, 2**64 - 1))
def test_any_bits_make_json(bits: int) -> None:
    (number,) = struct.unpack("<d", bits.to_bytes(8, "little"))
    assert json.loads(number_text(number)) == (number if math.isfinite(number) else None)


@given(st.datetimes(timezones=st.just(UTC)))
def test_a_date_within_pythons_years_is_isoformat(moment: datetime) -> None:
    moment = moment.replace(microsecond=moment.microsecond // 1000 * 1000)
    ms = (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
    assert date_text(ms) == moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


@given(st.decimals(allow_nan=False))
def test_a_canonical_decimal_is_written_as_pymongo_writes_it(number: Any) -> None:
    digits = len(number.as_tuple().digits)
    assume(digits <= 34)
    decimal = Decimal128(number)
    assert decimal_text(int.from_bytes(decimal.bid, "little")) == str(decimal)
