"""Time limits of tests: patient ones, and short ones for tests of the limits themselves."""

from typing import Any

from cachekeeper.settings import Settings

LONG = 20.0
"""Seconds after which a test that waits for another thread has failed."""

PATIENT: dict[str, Any] = {
    "redis_timeout_seconds": 4,
    "load_timeout_seconds": 10,
    "lookup_timeout_seconds": 30,
    "lease_seconds": 25,
}
"""No time limit is met by accident."""

QUICK: dict[str, Any] = {
    "redis_timeout_seconds": 0.2,
    "load_timeout_seconds": 0.5,
    "lookup_timeout_seconds": 1.5,
    "lease_seconds": 1,
}
"""For tests of the time limits themselves."""

SLACK = 5.0
"""Seconds by which a busy machine may be late."""

NOWHERE = "redis://127.0.0.1:1/0"

NO_REDIS = {**QUICK, "load_timeout_seconds": 5, "lookup_timeout_seconds": 6, "lease_seconds": 6}
"""Where only Redis is in trouble, MongoDB may take its time: the test machine may be busy."""

NO_MONGO = {**QUICK, "redis_timeout_seconds": 2, "lookup_timeout_seconds": 6, "lease_seconds": 6}
"""The same for Redis, where only MongoDB is in trouble."""

ONE_SECOND: dict[str, Any] = {
    "redis_timeout_seconds": 1,
    "load_timeout_seconds": 5,
    "lookup_timeout_seconds": 8,
    "lease_seconds": 8,
}
"""A lookup waits for one second, after which one load may still take its time: for tests of that wait on servers that
are well."""


def settings(**changes: Any) -> Settings:
    """Settings whose URLs lead nowhere, changed as given."""
    return Settings(**{"redis_url": "redis://127.0.0.1:1/0", "mongodb_url": "mongodb://127.0.0.1:1/none", **changes})
