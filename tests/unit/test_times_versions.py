"""Times and versions at the door."""

import json
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from fractions import Fraction

import pytest
from bson import Decimal128, Int64, Timestamp
from hypothesis import given
from hypothesis import strategies as st

from cachekeeper import metrics
from cachekeeper.errors import InvalidTime, InvalidVersion
from cachekeeper.values.times import check_time, to_ms, up_to_ms
from cachekeeper.values.versions import MAX_VERSION, as_version, check_version, version_of
from producers import UserLoggedOut

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    "value",
    [
        NOON,
        NOON.astimezone(timezone(timedelta(hours=5, minutes=30))),
        "2026-03-01T12:00:00Z",
        "2026-03-01T12:00:00+00:00",
        "2026-03-01T14:00:00+02:00",
        "20260301T120000Z",
        "2026-03-01 12:00Z",
        int(NOON.timestamp()),
        NOON.timestamp(),
        Int64(int(NOON.timestamp())),
        Decimal(int(NOON.timestamp())),
        Decimal("1772366399.1"),
        Fraction(int(NOON.timestamp()) * 3 - 1, 3),
        "2026-03-01T12:00:00z",
        "2026-03-01t12:00:00z",
    ],
)
def test_times(value: object) -> None:
    moment = check_time(value)
    assert moment == NOON
    assert moment.tzinfo is UTC


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("2026-03-01T12:00:00", "zone"),
        ("2026-03-01", "zone"),
        (datetime(2026, 3, 1, 12), "zone"),  # noqa: DTZ001  # that is the point
        ("tomorrow", "ISO 8601"),
        ("", "ISO 8601"),
        ("\ud800", "ISO 8601"),
        ("1772366400", "ISO 8601"),
        ("1772366400000", "ISO 8601"),
        (NOON.timestamp() * 1000, "milliseconds"),
        (int(NOON.timestamp()) * 1000, "milliseconds"),
        (10**400, "milliseconds"),
        (-(10**12), "milliseconds"),
        (float("nan"), "finite"),
        (float("inf"), "finite"),
        (float("-inf"), "finite"),
        (Decimal("NaN"), "finite"),
        (Decimal("sNaN"), "finite"),
        (Decimal("-Infinity"), "finite"),
        (Decimal("1e99999999999"), "milliseconds"),
        (Decimal(10**11), "milliseconds"),
        (Fraction(10**400, 3), "milliseconds"),
        ("z", "ISO 8601"),
        (1j, "got complex"),
        (1e308, "milliseconds"),
        (1e11, "milliseconds"),
        (1.7e12 + 0.5, "milliseconds"),
        (-(10**11) + 1, "years 1 to 9999"),
        ("0001-01-01T00:00:00+14:00", "years 1 to 9999"),
        ("9999-12-31T23:59:59-14:00", "years 1 to 9999"),
        (True, "bool"),
        (None, "NoneType"),
        (b"2026-03-01T12:00:00Z", "bytes"),
        (timedelta(seconds=5), "timedelta"),
    ],
)
def test_what_is_no_time(value: object, problem: str) -> None:
    with pytest.raises(InvalidTime) as caught:
        check_time(value, "token_expires_at")
    assert caught.value.field == "token_expires_at"
    assert problem in caught.value.problem


@pytest.mark.parametrize("fraction", [0.5, 0.000_001, 0.999_999, 0.1])
def test_a_fraction_of_a_second_is_rounded_up(fraction: float) -> None:
    assert check_time(NOON.timestamp() + fraction) == NOON + timedelta(seconds=1)


def test_the_smallest_decimal_is_rounded_up_at_once() -> None:
    for digits in (9, 99_999_999):
        assert check_time(Decimal(f"1e-{digits}")) == datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)


def test_a_logout_whose_token_was_read_with_decimals() -> None:
    claims = json.loads('{"exp": 1772366399.25}', parse_float=Decimal)
    assert UserLoggedOut(token_id="t", token_expires_at=claims["exp"]).token_expires_at == NOON


@given(st.floats(-6e10, 1e11, exclude_max=True))
def test_numbers_are_never_rounded_down(seconds: float) -> None:
    moment = check_time(seconds)
    assert moment.microsecond == 0
    assert moment.timestamp() - 1 < seconds <= moment.timestamp()


@pytest.mark.parametrize(
    ("text", "microseconds"),
    [
        ("2026-03-01T12:00:00.000000001Z", 1),
        ("2026-03-01T14:00:00.1234560+02:00", 123_456),
        ("2026-03-01T12:00:00,1234561Z", 123_457),
        ("2026-03-01T12:00:00.9999999999Z", 1_000_000),
        ("2026-03-01T12:00:00.5Z", 500_000),
    ],
)
def test_digits_beyond_microseconds_are_rounded_up(text: str, microseconds: int) -> None:
    assert check_time(text) == NOON + timedelta(microseconds=microseconds)


def test_the_last_moment_there_is_cannot_be_rounded_up() -> None:
    with pytest.raises(InvalidTime, match="years 1 to 9999"):
        check_time("9999-12-31T23:59:59.9999999Z")


@given(st.datetimes(timezones=st.just(UTC), max_value=datetime(9999, 12, 31)))  # noqa: DTZ001  # the zone is given
def test_a_moment_is_rounded_up_to_whole_milliseconds(moment: datetime) -> None:
    later = up_to_ms(moment)
    assert later.microsecond % 1000 == 0
    assert timedelta(0) <= later - moment < timedelta(milliseconds=1)
    assert up_to_ms(later) == later


def test_the_last_millisecond_there_is_stays() -> None:
    last = datetime.max.replace(tzinfo=UTC)
    assert up_to_ms(last) == last


@given(st.datetimes(timezones=st.just(UTC)))
def test_milliseconds_are_exact_and_rounded_down(moment: datetime) -> None:
    ms = to_ms(moment)
    start = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=ms)
    assert start <= moment
    assert moment - start < timedelta(milliseconds=1)


@pytest.mark.parametrize(
    ("value", "version"),
    [(0, 0), (5, 5), (5.0, 5), (-0.0, 0), (Int64(7), 7), (MAX_VERSION, MAX_VERSION), (float(MAX_VERSION), MAX_VERSION)],
)
def test_versions(value: object, version: int) -> None:
    assert as_version(value) == version
    assert check_version(value) == version
    assert type(as_version(value)) is int


NOT_VERSIONS = [
    -1,
    -1.0,
    MAX_VERSION + 1,
    float(MAX_VERSION + 1),
    10**400,
    -(10**400),
    0.5,
    float("nan"),
    float("inf"),
    True,
    False,
    "5",
    b"5",
    NOON,
    Timestamp(5, 1),
    Decimal128("5"),
    [5],
    {},
]


@pytest.mark.parametrize("value", NOT_VERSIONS, ids=lambda value: str(value)[:20])
def test_what_is_no_version_is_refused_at_the_door(value: object) -> None:
    with pytest.raises(InvalidVersion) as caught:
        check_version(value, "version")
    assert caught.value.field == "version"
    assert "must be an integer from 0 to 2^53 - 1" in caught.value.problem


def test_none_is_no_version() -> None:
    assert check_version(None) is None


@pytest.mark.parametrize("value", NOT_VERSIONS, ids=lambda value: str(value)[:20])
def test_a_document_with_such_a_version_has_none(
    value: object, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(metrics, "_said", set())
    before = metrics.COUNTERS["document_version_ignored"]
    assert version_of({"version": value}, "version") is None
    assert version_of({"version": value}, "version") is None
    assert metrics.COUNTERS["document_version_ignored"] == before + 2
    assert [record.message for record in caplog.records] == [
        (
            f"a document's version field 'version' holds a {type(value).__name__}, "
            "not an integer from 0 to 2^53 - 1: ignored; correct the field"
        )
    ]


def test_a_document_without_the_field_has_none_and_that_is_normal(caplog: pytest.LogCaptureFixture) -> None:
    before = metrics.COUNTERS["document_version_ignored"]
    assert version_of({}, "version") is None
    assert version_of({"version": None}, "version") is None
    assert version_of({"version": "five"}, None) is None
    assert version_of({"v": 5}, "v") == 5
    assert metrics.COUNTERS["document_version_ignored"] == before
    assert not caplog.records
