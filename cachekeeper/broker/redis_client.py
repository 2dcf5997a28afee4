"""The Redis client that kombu uses for a Redis broker, in publishers and in workers."""

from __future__ import annotations

import contextlib
from typing import Any

import redis
from redis.client import Pipeline
from redis.utils import str_if_bytes

from cachekeeper.broker.names import KEY_TYPES
from cachekeeper.broker.refusals import SOME_WRONG_KEY, WrongKey, is_wrong_type


class Client(redis.Redis):
    """A client whose pipelines are transactions only on request.

    At `maxmemory` Redis refuses every command between `MULTI` and `EXEC`, even one that frees memory. kombu's pipelines
    need not be atomic: where atomicity is needed, a script of ours does the work.
    """

    def pipeline(self, transaction: bool = False, shard_hint: str | None = None) -> Any:  # noqa: FBT001, FBT002  # redis-py's
        """Make a pipeline. Unlike redis-py's, it is not a transaction by default."""
        return _Pipeline(self.connection_pool, self.response_callbacks, transaction, shard_hint)

    def parse_response(self, connection: Any, command_name: Any, **options: Any) -> Any:
        """Parse a response, as redis-py does, and name the key if a key holds another type. Redis does not name it.

        Raises:
            WrongKey: a key holds another type.
        """
        try:
            return super().parse_response(connection, command_name, **options)  # type: ignore[no-untyped-call]
        except redis.ResponseError as error:
            if not is_wrong_type(error):
                raise
            raise _wrong_key(self) from error


class _Pipeline(Pipeline):
    """A pipeline that names the key of another type, as the client above does."""

    def execute(self, raise_on_error: bool = True) -> list[Any]:  # noqa: FBT001, FBT002  # redis-py's
        """Send the commands, as redis-py does, and name the key if a key holds another type."""
        try:
            return super().execute(raise_on_error)
        except redis.ResponseError as error:
            if not is_wrong_type(error):
                raise
            raise _wrong_key(redis.Redis(connection_pool=self.connection_pool)) from error


def _wrong_key(client: redis.Redis) -> WrongKey:
    with contextlib.suppress(redis.RedisError):  # the user may lack the right to run TYPE
        for key, wanted in KEY_TYPES.items():
            found = str_if_bytes(client.type(key))
            if found not in {wanted, "none"}:
                return WrongKey(f"the key {key} is a {found}, not a {wanted}")
    return WrongKey(SOME_WRONG_KEY)
