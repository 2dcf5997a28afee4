"""Times at the door: ISO 8601 with a zone, or integer seconds since 1970. Never milliseconds by mistake."""

from __future__ import annotations

from datetime import UTC, datetime

from cachekeeper.errors import InvalidTime

# 10^11 seconds is the year 5138; 10^11 milliseconds was 1973. Between them nothing that expires lives.
_MOST_SECONDS = 10**11


def check_time(value: object, field: str = "time") -> datetime:
    """`value` as a time in UTC.

    Args:
        value: a datetime with a zone, ISO 8601 text with a zone, or whole seconds since 1970.
        field: how the caller names it, for the error.

    Raises:
        InvalidTime: for everything else; numbers that can only be milliseconds are named as such.
    """
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            raise InvalidTime(field, "must be ISO 8601 with a zone, or integer seconds") from None
    if isinstance(value, datetime):
        if value.utcoffset() is None:
            raise InvalidTime(field, "must carry a zone, such as Z or +02:00")
        try:
            return value.astimezone(UTC)
        except OverflowError:
            raise InvalidTime(field, "lies outside the years 1 to 9999") from None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidTime(field, f"must be ISO 8601 with a zone, or integer seconds, got {type(value).__name__}")
    if isinstance(value, float) and not value.is_integer():
        raise InvalidTime(field, "must be whole seconds, got a fraction")
    if abs(value) >= _MOST_SECONDS:
        raise InvalidTime(field, "must be seconds since 1970, got what can only be milliseconds or more")
    try:
        return datetime.fromtimestamp(int(value), UTC)
    except (OverflowError, OSError, ValueError):
        raise InvalidTime(field, "lies outside the years 1 to 9999") from None


def to_ms(moment: datetime) -> int:
    """Milliseconds since 1970, rounded down, of a time with a zone."""
    delta = moment - _EPOCH
    return (delta.days * 86_400 + delta.seconds) * 1000 + delta.microseconds // 1000


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
