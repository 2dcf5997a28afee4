"""Versions: integers from 0 to 2^53 - 1, and nothing else.

Lua compares numbers as doubles: beyond 2^53 two different versions are 'equal' to it, and the protocol would
take a newer change for a duplicate. Booleans, text, dates and BSON timestamps are no versions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cachekeeper.errors import InvalidVersion
from cachekeeper.metrics import COUNTERS, log_once

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_VERSION = 2**53 - 1


def as_version(value: object) -> int | None:
    """The version that `value` is, or None where it is none.

    Integral doubles count, because JavaScript writes them: `5.0` is 5.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if isinstance(value, float) and not value.is_integer():  # False for infinities and NaN, too
        return None
    return int(value) if 0 <= value <= MAX_VERSION else None


def check_version(value: object, field: str = "version") -> int | None:
    """`value` as a version, None as 'no version'.

    Raises:
        InvalidVersion: for everything else.
    """
    if value is None:
        return None
    version = as_version(value)
    if version is None:
        problem = f"must be an integer from 0 to 2^53 - 1, got {type(value).__name__}"
        if isinstance(value, int | float) and not isinstance(value, bool):
            whole = isinstance(value, int) or value.is_integer()
            problem += " out of that range" if whole else " that is not whole"
        raise InvalidVersion(field, problem)
    return version


def version_of(document: Mapping[str, object], field: str | None) -> int | None:
    """The version a document carries in `field`; None where it carries none.

    A field that is there and is no version counts as none; that is counted, and logged once per field, because
    every event for such a document then costs a load.
    """
    if field is None or (value := document.get(field)) is None:
        return None
    version = as_version(value)
    if version is None:
        COUNTERS.add("document_version_ignored")
        log_once(
            f"version:{field}", "field %r holds a %s, which is no version: treated as none", field, type(value).__name__
        )
    return version
