"""Versions: integers from 0 to 2^53 - 1.

Lua compares numbers as doubles. Beyond 2^53, two different versions can be equal to Lua, and the protocol would
take a newer change for a duplicate. Booleans, text, dates and BSON timestamps are not versions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cachekeeper.errors import InvalidVersion
from cachekeeper.metrics import COUNTERS, log_once

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_VERSION = 2**53 - 1


def as_version(value: object) -> int | None:
    """Return `value` as a version, or None if it is not a version.

    Doubles without a fraction are versions, because JavaScript writes them: `5.0` is 5.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if isinstance(value, float) and not value.is_integer():  # also False for infinities and NaN
        return None
    return int(value) if 0 <= value <= MAX_VERSION else None


def check_version(value: object, field: str = "version") -> int | None:
    """Return `value` as a version. None stays None: no version.

    Raises:
        InvalidVersion: `value` is anything else.
    """
    if value is None:
        return None
    version = as_version(value)
    if version is None:
        problem = f"must be an integer from 0 to 2^53 - 1, got {type(value).__name__}"
        if isinstance(value, int | float) and not isinstance(value, bool):
            whole = isinstance(value, int) or value.is_integer()
            problem += " outside this range" if whole else " that is not a whole number"
        raise InvalidVersion(field, problem)
    return version


def version_of(document: Mapping[str, object], field: str | None) -> int | None:
    """The version of a document, from its `field`; None if it has no version.

    A field with a value that is not a version counts as no version. That is counted, and logged once per field, because
    every event for such a document then costs a load.
    """
    if field is None or (value := document.get(field)) is None:
        return None
    version = as_version(value)
    if version is None:
        COUNTERS.add("document_version_ignored")
        log_once(
            f"version:{field}",
            "a document's version field %r holds a %s, not an integer from 0 to 2^53 - 1: ignored; correct the field",
            field,
            type(value).__name__,
        )
    return version
