"""Ids: what is refused at the door, and that no two ids ever mean one `_id`."""

import enum
import pickle
import uuid
from collections.abc import Callable

import pytest
from bson import Decimal128, Int64, ObjectId
from hypothesis import example, given
from hypothesis import strategies as st

from cachekeeper.errors import InputError, InvalidId
from cachekeeper.values.ids import MAX_ID_BYTES, IdType, check_id

HEX24 = "65f0c0ffee65f0c0ffee65f0"
A_UUID = "0b8a6f5e-1d0b-4c8e-9a51-6a4a3c1c2d3e"


class Colour(enum.StrEnum):
    RED = "red"


class OldColour(str, enum.Enum):  # noqa: UP042  # the old way is the point: its str() is not its value
    RED = "red"


class Number(int, enum.Enum):
    SEVEN = 7


@pytest.mark.parametrize(
    ("given_id", "part"),
    [
        ("42", "42"),
        (42, "42"),
        (-1, "-1"),
        (0, "0"),
        (Int64(2**40), str(2**40)),
        ("tenant:42", "tenant:42"),
        (f"urn:uuid:{A_UUID}", f"urn:uuid:{A_UUID}"),
        ("a/b?c=d&e=%20*[x]^\\", "a/b?c=d&e=%20*[x]^\\"),
        ("Zoë-李-🛒", "Zoë-李-🛒"),
        ("x" * MAX_ID_BYTES, "x" * MAX_ID_BYTES),
        ("é" * (MAX_ID_BYTES // 2), "é" * (MAX_ID_BYTES // 2)),
        (Colour.RED, "red"),
        (OldColour.RED, "red"),
        (Number.SEVEN, "7"),
    ],
)
def test_good_ids(given_id: object, part: str) -> None:
    checked = check_id(given_id)
    assert checked == part
    assert type(checked) is str


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("", "empty"),
        ("x" * (MAX_ID_BYTES + 1), "at most 512 bytes"),
        ("é" * (MAX_ID_BYTES // 2 + 1), "at most 512 bytes"),
        ("a{b", "braces"),
        ("a}b", "braces"),
        ("a b", "white space"),
        ("a\u00a0b", "white space"),
        ("a\u2028b", "white space"),
        ("a\tb", "white space"),
        ("a\nb", "white space"),
        ("ab\n", "white space"),
        ("a\r\nDEL b", "white space"),
        ("a\0b", "control characters"),
        ("a\x7fb", "control characters"),
        ("a\x85b", "white space"),
        ("a\ud800b", "lone surrogates"),
        ("\udfff", "lone surrogates"),
        (None, "NoneType"),
        (True, "bool"),
        (5.0, "float"),
        (b"42", "bytes"),
        (ObjectId(HEX24), "ObjectId"),
        (["42"], "list"),
        pytest.param(10**5000, "at most 512 bytes", id="beyond what Python prints"),
        (-(10**600), "at most 512 bytes"),
    ],
)
def test_bad_ids_are_refused_and_name_their_field(value: object, problem: str) -> None:
    with pytest.raises(InvalidId) as caught:
        check_id(value, "user_id")
    assert caught.value.field == "user_id"
    assert problem in caught.value.problem
    assert str(caught.value).startswith("user_id: ")


def test_an_error_of_the_door_survives_a_process_boundary() -> None:
    error = pickle.loads(pickle.dumps(InvalidId("user_id", "must not be empty")))  # noqa: S301  # our own bytes
    assert isinstance(error, InvalidId)
    assert isinstance(error, InputError)
    assert isinstance(error, ValueError)
    assert (error.field, error.problem, str(error)) == ("user_id", "must not be empty", "user_id: must not be empty")


@pytest.mark.parametrize(
    ("kind", "text", "document_id"),
    [
        (IdType.AUTO, HEX24, ObjectId(HEX24)),
        (IdType.AUTO, "0" * 24, ObjectId("0" * 24)),
        (IdType.AUTO, "42", 42),
        (IdType.AUTO, "-42", -42),
        (IdType.AUTO, "0", 0),
        (IdType.AUTO, str(2**63 - 1), 2**63 - 1),
        (IdType.AUTO, str(-(2**63)), -(2**63)),
        (IdType.AUTO, str(2**63), str(2**63)),
        (IdType.AUTO, "007", "007"),
        (IdType.AUTO, "-0", "-0"),
        (IdType.AUTO, "+7", "+7"),
        (IdType.AUTO, "1e3", "1e3"),
        (IdType.AUTO, "٤٢", "٤٢"),
        (IdType.AUTO, A_UUID, A_UUID),
        (IdType.AUTO, "tenant:42", "tenant:42"),
        (IdType.OBJECTID, HEX24, ObjectId(HEX24)),
        (IdType.INT, "42", 42),
        (IdType.STR, "42", "42"),
        (IdType.STR, HEX24, HEX24),
        (IdType.STR, HEX24.upper(), HEX24.upper()),
        (IdType.UUID, A_UUID, uuid.UUID(A_UUID)),
    ],
)
def test_what_an_id_means(kind: IdType, text: str, document_id: object) -> None:
    parsed = kind.parse(text)
    assert parsed == document_id
    assert type(parsed) is type(document_id)
    assert kind.text(document_id) == text


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (IdType.AUTO, HEX24.upper()),
        (IdType.OBJECTID, HEX24.upper()),
        (IdType.OBJECTID, HEX24[:-1]),
        (IdType.OBJECTID, "42"),
        (IdType.INT, "007"),
        (IdType.INT, "-0"),
        (IdType.INT, str(2**63)),
        (IdType.INT, "9" * 400),
        (IdType.INT, "٤٢"),
        (IdType.INT, "42x"),
        (IdType.INT, HEX24),
        (IdType.UUID, A_UUID.upper()),
        (IdType.UUID, A_UUID.replace("-", "")),
        (IdType.UUID, f"urn:uuid:{A_UUID}"),
        (IdType.UUID, "42"),
    ],
)
def test_what_is_no_id_of_a_type(kind: IdType, text: str) -> None:
    with pytest.raises(InvalidId) as caught:
        kind.parse(text, "user_id")
    assert caught.value.field == "user_id"


@pytest.mark.parametrize(
    ("kind", "document_id", "text"),
    [
        (IdType.AUTO, 42.0, "42"),  # JavaScript's 42
        (IdType.AUTO, Int64(42), "42"),
        (IdType.AUTO, "42", None),  # the id 42 means the integer
        (IdType.AUTO, HEX24, None),
        (IdType.AUTO, uuid.UUID(A_UUID), None),
        (IdType.AUTO, 4.5, None),
        (IdType.AUTO, Decimal128("42"), "42"),
        (IdType.AUTO, Decimal128("4.20E+1"), "42"),
        (IdType.AUTO, Decimal128("-0"), "0"),
        (IdType.AUTO, Decimal128("4.5"), None),
        (IdType.AUTO, Decimal128("1E+6000"), None),
        (IdType.AUTO, Decimal128("NaN"), None),
        (IdType.STR, Decimal128("42"), None),
        (IdType.AUTO, float("inf"), None),
        (IdType.AUTO, 1e300, None),
        (IdType.AUTO, True, None),
        (IdType.AUTO, None, None),
        (IdType.AUTO, {"a": 1}, None),
        (IdType.AUTO, "a b", None),
        (IdType.AUTO, "", None),
        (IdType.STR, 42, None),
        (IdType.INT, "42", None),
        (IdType.INT, 42, "42"),
        (IdType.UUID, A_UUID, None),
        (IdType.OBJECTID, 42, None),
    ],
)
def test_which_documents_an_id_reaches(kind: IdType, document_id: object, text: str | None) -> None:
    assert kind.text(document_id) == text


def test_those_that_no_document_can_have_are_left_out() -> None:
    assert IdType.INT.parse_all(["7", "x", "007", "8"]) == {"7": 7, "8": 8}
    assert IdType.AUTO.parse_all(["7", HEX24.upper(), HEX24]) == {"7": 7, HEX24: ObjectId(HEX24)}


IDS = st.one_of(
    st.integers(-(2**65), 2**65).map(str),
    st.from_regex(r"[-+]?0*[0-9]{1,25}", fullmatch=True),
    st.from_regex(r"[0-9a-fA-F]{24}", fullmatch=True),
    st.uuids().map(str),
    st.uuids().map(lambda value: str(value).upper()),
    st.text(st.characters(exclude_categories=["Cs", "Cc", "Zs", "Zl", "Zp"], exclude_characters="{}"), min_size=1),
)


def goes_and_comes_back(text: str, parse: Callable[[str], object], back: Callable[[object], str | None]) -> None:
    """What proves the mapping one to one: an id that is accepted is the only one for its `_id`."""
    try:
        document_id = parse(text)
    except InvalidId:
        return
    assert back(document_id) == text


@pytest.mark.parametrize("kind", list(IdType))
@given(text=IDS)
@example("007")
@example("-0")
@example(HEX24.upper())
@example(A_UUID.upper())
def test_the_mapping_is_one_to_one(kind: IdType, text: str) -> None:
    goes_and_comes_back(text, kind.parse, kind.text)


def lenient(text: str) -> object:
    """A known-bad variant: any digits are an integer, any 24 hexadecimal digits an ObjectId."""
    if len(text) == 24:
        return ObjectId(text)
    return int(text) if text.lstrip("-").isdigit() else text


@pytest.mark.parametrize("text", ["007", "-0", HEX24.upper(), "٤٢"])
def test_a_lenient_reading_is_not_one_to_one(text: str) -> None:
    with pytest.raises(AssertionError):
        goes_and_comes_back(text, lenient, str)
