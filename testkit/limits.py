"""Time limits of tests: long ones, and short ones for tests of the limits themselves."""

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
"""Limits so long that a slow machine does not exceed them by accident."""

QUICK: dict[str, Any] = {
    "redis_timeout_seconds": 0.2,
    "load_timeout_seconds": 0.5,
    "lookup_timeout_seconds": 1.5,
    "lease_seconds": 1,
}
"""For tests of the time limits themselves."""

SLACK = 5.0
"""How many seconds a busy machine may be late."""

NOWHERE = "redis://127.0.0.1:1/0"

NO_REDIS = {**QUICK, "load_timeout_seconds": 5, "lookup_timeout_seconds": 6, "lease_seconds": 6}
"""For tests in which only Redis fails. MongoDB has long limits, because the test machine may be busy."""

NO_MONGO = {**QUICK, "redis_timeout_seconds": 2, "lookup_timeout_seconds": 6, "lease_seconds": 6}
"""For tests in which only MongoDB fails. Redis has long limits."""

ONE_SECOND: dict[str, Any] = {
    "redis_timeout_seconds": 1,
    "load_timeout_seconds": 5,
    "lookup_timeout_seconds": 8,
    "lease_seconds": 8,
}
"""A lookup waits one second (for another's load, a slot, or until MongoDB has caught up); then one load may take long.

For tests of that wait while both servers work.
"""


def settings(**changes: Any) -> Settings:
    """Return settings whose URLs lead nowhere, with the given changes."""
    return Settings(**{"redis_url": "redis://127.0.0.1:1/0", "mongodb_url": "mongodb://127.0.0.1:1/none", **changes})
