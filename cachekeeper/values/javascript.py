"""Numbers, dates and decimals as JavaScript writes them: Python's digits in another format."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta


def number_text(number: float) -> str:
    """Write a number as `JSON.stringify` does: `1.0` is `1`, `-0.0` is `0`, NaN and the infinities are `null`."""
    if number - number != 0:
        return "null"
    if number.is_integer() and abs(number) < 1e15:  # noqa: PLR2004 - below this, both write the same
        return str(int(number))
    text = repr(number)
    if "e" not in text:
        return text.removesuffix(".0")
    sign = "-" if number < 0 else ""
    mantissa, _, power = text.lstrip("-").partition("e")
    return sign + _dressed(mantissa.replace(".", ""), int(power) + 1)


def _dressed(digits: str, point: int) -> str:
    """Write the number 0.`digits` times 10 to the power of `point`, as ECMAScript's `Number::toString` does."""
    if len(digits) <= point <= 21:  # noqa: PLR2004 - the bounds are ECMAScript's
        return digits.ljust(point, "0")
    if -6 < point <= 0:  # noqa: PLR2004
        return f"0.{'0' * -point}{digits}"
    fraction = f".{digits[1:]}" if len(digits) > 1 else ""
    return f"{digits[0]}{fraction}e{point - 1:+d}"


# The Gregorian calendar repeats every 400 years. So a year outside Python's range is computed as one inside it.
_CYCLE_YEARS = 400
_CYCLE_MS = 146_097 * 86_400_000
_LAST_MS = 8_640_000_000_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def date_text(ms: int) -> str | None:
    """Write the time `ms` milliseconds after 1970 in UTC as `Date.prototype.toISOString` does.

    Returns None more than 100 million days before or after 1970, where JavaScript's dates end: `JSON.stringify` writes
    null for such a date.
    """
    if abs(ms) > _LAST_MS:
        return None
    cycles, ms = divmod(ms, _CYCLE_MS)
    moment = _EPOCH + timedelta(milliseconds=ms)
    number = moment.year + cycles * _CYCLE_YEARS
    year = f"{number:04}" if 0 <= number <= 9999 else f"{number:+07}"  # noqa: PLR2004 - the years with four digits
    return f"{year}{moment:-%m-%dT%H:%M:%S}.{ms % 1000:03}Z"


_COMBINATION = 0b11111
_LONG_COEFFICIENT = 0b11000
_DECIMAL_BIAS = 6176
_DECIMAL_DIGITS = 34


def decimal_text(bits: int) -> str:
    """Write the IEEE 754 decimal with these 128 bits as JavaScript's BSON library does in `Decimal128.toString`.

    Unlike Python, that library has only one NaN, and prints some coefficients that are too long to be valid.
    """
    sign = "-" if bits >> 127 else ""
    combination = bits >> 122 & _COMBINATION
    if combination == _COMBINATION:
        return "NaN"
    if combination == _COMBINATION - 1:
        return f"{sign}Infinity"
    if combination >= _LONG_COEFFICIENT:
        exponent, digits = bits >> 111 & 0x3FFF, str(1 << 113 | bits & (1 << 111) - 1)
    else:
        exponent, digits = bits >> 113 & 0x3FFF, str(bits & (1 << 113) - 1)
    exponent -= _DECIMAL_BIAS
    scientific = len(digits) - 1 + exponent
    if scientific >= _DECIMAL_DIGITS or scientific <= -7 or exponent > 0:  # noqa: PLR2004 - the standard's bound
        if len(digits) > _DECIMAL_DIGITS:
            return f"{sign}0E{exponent:+d}" if exponent else f"{sign}0"
        fraction = f".{digits[1:]}" if len(digits) > 1 else ""
        return f"{sign}{digits[0]}{fraction}E{scientific:+d}"
    if exponent == 0:
        return sign + digits
    digits = digits.rjust(1 - exponent, "0")
    return f"{sign}{digits[:exponent]}.{digits[exponent:]}"
