"""Tools that the tests of tokens and of blocklists share."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import redis
from bson import Decimal128, Int64, ObjectId
from pymongo.database import Database

from cachekeeper import Keeper, Settings
from testkit.limits import PATIENT
from testkit.taps import MongoTap

TOKEN = "secret-token-1"
KEY = f"blocked:{TOKEN}"
READY = "cachekeeper:blocked-ready"
NONCE = "cachekeeper:blocked-warming"
RESTED = "cachekeeper:blocked-rested"
LEEWAY = 60.0
OBJECT_ID = "65a1b2c3d4e5f60718293a4b"
TOKEN_UUID = "6f1b2c3d-4e5f-4a1b-8c3d-0e5f60718293"

FOREIGN_IDS: list[tuple[object, str]] = [
    ("42", "42"),
    (42, "42"),
    (Int64(2**53 + 1), str(2**53 + 1)),
    (42.0, "42"),
    (1e15, "1000000000000000"),
    (Decimal128("42"), "42"),
    (Decimal128("4.2E+1"), "42"),
    (Decimal128("-0E+3"), "0"),
    (1.5, "1.5"),
    (Decimal128("1.50"), "1.5"),
    (0.1, "0.1"),
    (Decimal128("0.1"), "0.1"),
    (Decimal128("0.1000000000000000055511151231257827"), "0.1000000000000000055511151231257827"),  # not the double
    (Decimal128("1.000000000000000000000000000000001"), "1.000000000000000000000000000000001"),
    (2.0**63, "9223372036854776000"),
    (1e300, "1e+300"),
    (Decimal128("1E+6000"), "1E+6000"),
    (UUID(TOKEN_UUID), TOKEN_UUID),
    (TOKEN_UUID.upper(), TOKEN_UUID.upper()),
    (ObjectId(OBJECT_ID), OBJECT_ID),
    (OBJECT_ID, OBJECT_ID),
    (OBJECT_ID.upper(), OBJECT_ID.upper()),
]
"""An `_id` as other programs may have stored it, and the token that it blocks."""

# Addresses at which nothing listens.
NOWHERE_REDIS = "redis://127.0.0.1:1/0"
NOWHERE_MONGO = "mongodb://127.0.0.1:1/nowhere"

SHORT: dict[str, Any] = {
    "redis_timeout_seconds": 0.9,
    "load_timeout_seconds": 1.0,
    "lookup_timeout_seconds": 3.0,
    "lease_seconds": 5.0,
}
"""For a keeper whose MongoDB, or both servers, the test stops. Short, because the test waits for these limits."""

NO_REDIS: dict[str, Any] = {
    "redis_timeout_seconds": 0.9,
    "load_timeout_seconds": 5.0,
    "lookup_timeout_seconds": 7.0,
    "lease_seconds": 7.0,
}
"""For a keeper of which the test stops only Redis. MongoDB has longer limits."""


def settings_of(redis_url: str, mongo_url: str = NOWHERE_MONGO, **others: Any) -> Settings:
    """Return settings for these servers, with long limits unless changed: even a working server may be slow."""
    return Settings(redis_url=redis_url, mongodb_url=mongo_url, **{**PATIENT, **others})


@contextmanager
def keeping(redis_url: str, mongo: MongoTap | str, **others: Any) -> Iterator[Keeper]:
    """Yield a keeper on these servers, and close it."""
    if isinstance(mongo, MongoTap):
        keeper = Keeper(settings_of(redis_url, **others), database=mongo.database)
    else:
        keeper = Keeper(settings_of(redis_url, mongo, **others))
    try:
        yield keeper
    finally:
        keeper.close()


def soon(seconds: float = 3600.0) -> datetime:
    """Return a time in the future, in milliseconds, as MongoDB stores it."""
    moment = datetime.now(UTC) + timedelta(seconds=seconds)
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


def end_of(database: Database[Any], token: str = TOKEN) -> datetime | None:
    """Return the time at which a token expires, as stored in MongoDB; None: never."""
    document = database["blocked_tokens"].find_one({"_id": token})
    assert document is not None
    found = document["expires_at"]
    return None if found is None else found.replace(tzinfo=UTC)


def end_of_key(client: redis.Redis, key: str = KEY) -> int:
    """Return the time at which a key expires, in milliseconds since 1970."""
    try:
        return int(client.pexpiretime(key))
    except redis.ResponseError:  # Redis 6.2 does not know it
        while True:
            with client.pipeline() as pipe:
                pipe.time()
                pipe.pttl(key)
                pipe.time()
                before, left, after = pipe.execute()
            seen = {seconds * 1000 + micros // 1000 for seconds, micros in (before, after)}
            if len(seen) == 1:  # else it is unknown from which millisecond PTTL counted
                return int(seen.pop() + left)


def life_of(client: redis.Redis, key: str = KEY) -> float:
    """Return the seconds that a key still lives; negative: it lives forever, or does not exist."""
    left = client.pttl(key)
    assert isinstance(left, int)
    return left if left < 0 else left / 1000
