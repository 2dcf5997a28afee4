"""Codecs: what may be stored comes back as it was; what may not is refused by its path; damage is told apart."""

import enum
import json
import math
from collections import OrderedDict
from datetime import UTC, datetime
from typing import Any

import pytest
from bson import Code, ObjectId
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from cachekeeper.errors import DamagedDocument, DamagedValue, InvalidValue
from cachekeeper.values.codecs import MAX_DEPTH, MAX_SAFE_INTEGER, Json, Text, check_json

OBJECT = Json(dict)
ARRAY = Json(list)


def nested(levels: int, kind: str) -> dict[str, Any]:
    """An object with so many levels of containers, itself included."""
    value: Any = {"leaf": 1} if kind == "object" else [1]
    for _ in range(levels - 2):
        value = {"a": value} if kind == "object" else [value]
    return {"data": value}


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ({"a": math.nan}, "data.a"),
        ({"a": [1, {"b": math.inf}]}, "data.a[1].b"),
        ({"a": -math.inf}, "data.a"),
        ({"a": MAX_SAFE_INTEGER + 1}, "data.a"),
        ({"a": [-MAX_SAFE_INTEGER - 1]}, "data.a[0]"),
        ({"a": 10**400}, "data.a"),
        ({"a": float(2**60)}, "data.a"),  # JavaScript prints 1152921504606847000
        ({"a": -1e20}, "data.a"),
        ({1: "a"}, "data"),
        ({"a": {None: 1}}, "data.a"),
        ({"a": {True: 1}}, "data.a"),
        ({"a": {b"b": 1}}, "data.a"),
        ({"a\0b": 1}, "data"),
        ({"a\ud800": 1}, "data (a key)"),
        ({"a": "x\udfff"}, "data.a"),
        ({"a": (1, 2)}, "data.a"),
        ({"a": {1, 2}}, "data.a"),
        ({"a": b"b"}, "data.a"),
        ({"a": datetime(2026, 1, 1, tzinfo=UTC)}, "data.a"),
        ({"a": ObjectId()}, "data.a"),
        ({"a": object()}, "data.a"),
        ({"a": Code("x")}, "data.a"),
        ({"a": 1j}, "data.a"),
        (nested(MAX_DEPTH + 1, "object"), "data.data" + ".a" * (MAX_DEPTH - 1)),
        (nested(MAX_DEPTH + 1, "array"), "data.data" + "[0]" * (MAX_DEPTH - 1)),
        # The BSON library of JavaScript would make a reference of it, and its JSON differs.
        ({"a": {"$ref": "b.c", "$id": 1}}, "data.a"),
        ({"a": [{"$id": 1, "$ref": "b", "$db": "c"}]}, "data.a[0]"),
        ({"$ref": "b", "$id": 1}, "data"),
    ],
    ids=lambda value: type(value).__name__,  # the same in every process, as pytest-xdist needs them
)
def test_what_json_or_javascript_would_change_is_refused_by_its_path(value: object, path: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        check_json(value, "data")
    assert caught.value.field == path


def test_a_value_that_holds_itself_is_refused() -> None:
    value: dict[str, Any] = {}
    value["a"] = [value]
    with pytest.raises(InvalidValue, match="nested deeper"):
        check_json(value, "data")


class Plan(enum.StrEnum):
    FREE = "free"


class Level(enum.IntEnum):
    TWO = 2


GOOD: list[dict[str, Any]] = [
    {},
    {"": ""},
    {"a.b": 1, "$set": 2, "$inc": {"$literal": {"a.": 1}}, "a$": [{"$gt": 1}]},
    {"$ref": "b"},
    {"$id": 1},
    {"__proto__": {"x": 1}, "constructor": 1, "toString": "x", "length": 2},
    {"10": 1, "9": 2, "a": 3},
    {"a": MAX_SAFE_INTEGER, "b": -MAX_SAFE_INTEGER, "c": 2**31, "d": -(2**31) - 1},
    {"a": 1e21, "b": 1e22, "c": 5e-324, "d": 1.7976931348623157e308, "e": 0.1, "f": -0.0, "g": float(2**53 - 1)},
    {"a": True, "b": False, "c": None},
    {"a": '\0 \x1f \u2028 \ufeff é 李 🛒 "quoted\\ \n'},
    {"a": [], "b": {}, "c": [[], [{}]]},
    {"a": Plan.FREE, "b": Level.TWO},
    OrderedDict(a=1),
    nested(MAX_DEPTH, "object"),
    nested(MAX_DEPTH, "array"),
]


@pytest.mark.parametrize("value", GOOD, ids=lambda value: str(value)[:40])
def test_what_is_accepted_comes_back_as_it_was(value: dict[str, Any]) -> None:
    check_json(value, "data")
    assert OBJECT.decode(OBJECT.encode(value)) == value


KEYS = st.one_of(
    st.sampled_from(["$ref", "$id", "$db", "__proto__", "0", "12", "a.b", "$set", ""]),
    st.text(st.characters(exclude_characters="\0"), max_size=8),
)
LEAVES = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.sampled_from([2**53]))
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=12
)


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.dictionaries(KEYS, VALUES, max_size=5))
@example({"a": {"$ref": "b.c", "$id": 5}})
@example({"a": {"$ref": "b", "$id": 5, "z": 1}})
@example({"a": {"$ref": "b", "$id": None}})
def test_whatever_is_accepted_comes_back_as_it_was(value: dict[str, Any]) -> None:
    try:
        check_json(value, "data")
    except InvalidValue:
        return
    raw = OBJECT.encode(value)
    assert OBJECT.decode(raw) == value
    assert json.loads(raw.decode()) == value  # and to any other reader


@pytest.mark.parametrize("value", ["", "a", "é 李 🛒", "\0", "{}", " "])
def test_text_and_back(value: str) -> None:
    assert Text().decode(Text().encode(value)) == value


@pytest.mark.parametrize("value", [None, 5, b"a", ["a"], {"a": 1}, "\ud800"], ids=ascii)
def test_what_is_no_text_in_a_document(value: object) -> None:
    with pytest.raises(DamagedDocument):
        Text().encode(value)


@pytest.mark.parametrize("raw", [b"\xff", b"a\x80", b"\xed\xa0\x80", b"\xc0\x80"])
def test_bytes_that_are_no_text(raw: bytes) -> None:
    with pytest.raises(DamagedValue):
        Text().decode(raw)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"{}"',
        b"5",
        b"{'a': 1}",
        b'{"a": NaN}',
        b'{"a": -Infinity}',
        b'{"a": 1}x',
        b'{"a": "\xff"}',
        b'{"a": "\xed\xa0\x80"}',  # a surrogate in UTF-8 is none
        b'{"a": ' + b"[" * 100_000,
        b'{"a": ' + b"9" * 5000 + b"}",
        '{"a": 1}'.encode("utf-16"),
        '{"a": 1}'.encode("utf-32"),
        b'\xef\xbb\xbf{"a": 1}',  # JSON.parse refuses a byte order mark, too
    ],
    ids=lambda raw: ascii(raw)[:30],
)
def test_bytes_that_are_no_json_object(raw: bytes) -> None:
    with pytest.raises(DamagedValue):
        OBJECT.decode(raw)


def test_an_array_is_no_object_and_the_other_way_round() -> None:
    assert ARRAY.decode(b"[1]") == [1]
    with pytest.raises(DamagedValue, match="not a JSON array"):
        ARRAY.decode(b"{}")
    with pytest.raises(DamagedValue, match="not a JSON object"):
        OBJECT.decode(b"[]")
    with pytest.raises(DamagedDocument, match="expected dict"):
        OBJECT.encode([])
    with pytest.raises(DamagedDocument, match="expected list"):
        ARRAY.encode({})


def test_messages_hold_no_value() -> None:
    with pytest.raises(DamagedValue) as caught:
        OBJECT.decode(b'{"token": "s3cret"')
    assert "s3cret" not in str(caught.value)
    assert caught.value.__suppress_context__
