"""Times from callers: ISO 8601 with a time zone, or seconds since 1970. Milliseconds are refused."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction

from cachekeeper.errors import InvalidTime

# 10^11 seconds is the year 5138; 10^11 milliseconds was in 1973. No real expiry time lies before 1973 or after 5138, so
# a larger number is in milliseconds.
_MOST_SECONDS = 10**11

# Python's datetimes end at microseconds, and `fromisoformat` cuts off the digits after them.
_BEYOND_MICROSECONDS = re.compile(r"[.,][0-9]{6}0*[1-9]").search
_MICROSECOND = timedelta(microseconds=1)


def check_time(value: object, field: str = "time") -> datetime:
    """Convert `value` to a time in UTC.

    Args:
        value: a datetime with a time zone, ISO 8601 text with a time zone, or seconds since 1970 (an integer, float,
            `Decimal` or `Fraction`). A number with a fraction of a second (RFC 7519 allows it in `exp`) is rounded up
            to the next second, and a text to the next microsecond, so that an expiry is never too early.
        field: the caller's name for the time, used in the error.

    Raises:
        InvalidTime: `value` is anything else. If it can only be milliseconds, the message says so.
    """
    if isinstance(value, str):
        value = _from_text(value, field)
    if isinstance(value, datetime):
        if value.utcoffset() is None:
            raise InvalidTime(field, "must have a time zone, such as Z or +02:00")
        try:
            return value.astimezone(UTC)
        except OverflowError:
            raise InvalidTime(field, "lies outside the years 1 to 9999") from None
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal | Fraction):
        raise InvalidTime(
            field, f"must be ISO 8601 with a time zone, or seconds since 1970, got {type(value).__name__}"
        )
    if (isinstance(value, float) and not math.isfinite(value)) or (
        isinstance(value, Decimal) and not value.is_finite()
    ):
        raise InvalidTime(field, "must be a finite number of seconds")
    if not -_MOST_SECONDS < value < _MOST_SECONDS:  # not `abs(value)`, which raises for a very large Decimal
        raise InvalidTime(
            field, "must be seconds since 1970, got a number outside the years 1 to 9999: divide milliseconds by 1000"
        )
    try:
        return datetime.fromtimestamp(math.ceil(value), UTC)
    except (OverflowError, OSError, ValueError):
        raise InvalidTime(field, "lies outside the years 1 to 9999") from None


def _from_text(text: str, field: str) -> datetime:
    if text.endswith("z"):  # RFC 3339 allows it in lower case
        text = f"{text[:-1]}Z"
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidTime(field, "must be ISO 8601 with a time zone, or seconds since 1970") from None
    if not _BEYOND_MICROSECONDS(text):
        return moment
    try:
        return moment + _MICROSECOND
    except OverflowError:
        raise InvalidTime(field, "lies outside the years 1 to 9999") from None


def up_to_ms(moment: datetime) -> datetime:
    """Round a time up to a whole millisecond, the smallest unit that MongoDB and Redis store."""
    over = moment.microsecond % 1000
    try:
        return moment + timedelta(microseconds=1000 - over) if over else moment
    except OverflowError:  # the last millisecond of the year 9999
        return moment


def to_ms(moment: datetime) -> int:
    """Convert a time with a time zone to milliseconds since 1970, rounded down."""
    delta = moment - _EPOCH
    return (delta.days * 86_400 + delta.seconds) * 1000 + delta.microseconds // 1000


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
