"""Tools that the tests of warming share: users in MongoDB, and their cached names."""

from typing import Any

import redis

from cachekeeper.values.keys import meta_key
from lookups import USER_NAME
from testkit.taps import MongoTap


def users(mongo: MongoTap, number: int, version: int | None = 1) -> None:
    """Insert users 0, 1, 2, …"""
    mongo.database["users"].insert_many(
        [{"_id": at, "name": f"user {at}", **({} if version is None else {"version": version})} for at in range(number)]
    )
    mongo.commands.clear()


def key_of(part: object) -> str:
    return USER_NAME.template.key(str(part))


def meta_of(client: redis.Redis, key: str) -> dict[bytes, bytes]:
    found: Any = client.hgetall(meta_key(key))
    return dict(found)


def names(client: redis.Redis) -> dict[str, str]:
    """Return every cached name, by user."""
    keys: Any = client.keys("user:*:name")
    values: list[Any] = [client.get(key) for key in keys]
    return {key.decode().split(":")[1]: value.decode() for key, value in zip(keys, values, strict=True)}
