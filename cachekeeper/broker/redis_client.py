"""The client by which kombu talks to a Redis broker, for publishers and workers alike."""

from __future__ import annotations

import contextlib
from typing import Any

import redis
from redis.client import Pipeline
from redis.utils import str_if_bytes

from cachekeeper.broker.names import KEY_TYPES
from cachekeeper.broker.refusals import SOME_WRONG_KEY, WrongKey, is_wrong_type


class Client(redis.Redis):
    """A client whose pipelines are no transactions unless that is asked for.

    At `maxmemory` Redis refuses every command between `MULTI` and `EXEC`, whatever it does. Nothing that kombu sends in
    a pipeline, beside what is a script here, has to be atomic.
    """

    def pipeline(self, transaction: bool = False, shard_hint: str | None = None) -> Any:  # noqa: FBT001, FBT002  # redis-py's
        """As redis-py's."""
        return _Pipeline(self.connection_pool, self.response_callbacks, transaction, shard_hint)

    def parse_response(self, connection: Any, command_name: Any, **options: Any) -> Any:
        """As redis-py's, but a key that holds another type is named, which Redis does not do.

        Raises:
            WrongKey: one does.
        """
        try:
            return super().parse_response(connection, command_name, **options)  # type: ignore[no-untyped-call]
        except redis.ResponseError as error:
            if not is_wrong_type(error):
                raise
            raise _wrong_key(self) from error


class _Pipeline(Pipeline):
    """Names a key of another type, as the client above does."""

    def execute(self, raise_on_error: bool = True) -> list[Any]:  # noqa: FBT001, FBT002  # redis-py's
        """As redis-py's."""
        try:
            return super().execute(raise_on_error)
        except redis.ResponseError as error:
            if not is_wrong_type(error):
                raise
            raise _wrong_key(redis.Redis(connection_pool=self.connection_pool)) from error


def _wrong_key(client: redis.Redis) -> WrongKey:
    with contextlib.suppress(redis.RedisError):  # a user without the right to ask
        for key, wanted in KEY_TYPES.items():
            found = str_if_bytes(client.type(key))
            if found not in {wanted, "none"}:
                return WrongKey(f"the key {key} is a {found}, not a {wanted}")
    return WrongKey(SOME_WRONG_KEY)
