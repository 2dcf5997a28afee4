"""What workers hold of a Redis broker's messages: the record of it, and how a message leaves the record.

A message is in the record from the moment it is taken (take.lua) until it is acknowledged or put back. Nothing here is
refused at `maxmemory`: no transaction, and no script that adds before it removes.
"""

from __future__ import annotations

import contextlib
from importlib import resources
from typing import TYPE_CHECKING, Any

import redis
from kombu.transport import redis as kombu_redis
from kombu.transport import virtual
from redis.client import Pipeline
from redis.utils import str_if_bytes

from cachekeeper.delivery.broker import KEY_TYPES
from cachekeeper.delivery.refusals import SOME_WRONG_KEY, WrongKey, is_wrong_type

if TYPE_CHECKING:
    from collections.abc import Sequence

_AT_ONCE = 100
_NEXT, _LAST = "RPUSH", "LPUSH"  # which end of a list a message is put back to


def script(name: str) -> str:
    """The source of a script of this package's."""
    return resources.files("cachekeeper.delivery").joinpath("lua", f"{name}.lua").read_text("utf-8")


_RESTORE = script("restore")


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


class QoS(kombu_redis.QoS):
    """What this channel has in flight. A message is in Redis's record of it before it is here."""

    channel: Any
    _delivered: Any
    _vrestore_count: int

    def append(self, message: Any, delivery_tag: str) -> None:
        """Count a message as in flight. Recording it was part of taking it."""
        virtual.QoS.append(self, message, delivery_tag)

    def ack(self, delivery_tag: str) -> None:
        """Acknowledge one message."""
        self.acknowledge([delivery_tag])

    def acknowledge(self, delivery_tags: Sequence[str]) -> None:
        """Acknowledge messages in one round trip.

        Raises:
            redis.ResponseError: Redis refused it; nothing is acknowledged.
        """
        with self.channel.conn_or_acquire() as client:
            # In this order: where only the first arrives, restoring finds no message for the tag, and removes the tag.
            pipe = client.pipeline()
            pipe.hdel(self.channel.unacked_key, *delivery_tags)
            pipe.zrem(self.channel.unacked_index_key, *delivery_tags)
            pipe.execute()
        for delivery_tag in delivery_tags:
            virtual.QoS.ack(self, delivery_tag)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:  # noqa: FBT001, FBT002  # kombu's
        """Put a message back behind all others, or away."""
        if not requeue:
            self.acknowledge([delivery_tag])
            return
        self._restore(_LAST, "", delivery_tag)
        virtual.QoS.ack(self, delivery_tag)

    def restore_unacked(self, client: Any = None) -> None:  # noqa: ARG002  # kombu's
        """Put back all that is in flight here. Called when the channel closes."""
        tags = [*self._delivered]
        for at in range(0, len(tags), _AT_ONCE):
            self._restore(_NEXT, "", *tags[at : at + _AT_ONCE])
        self._delivered.clear()

    def restore_visible(self, start: int = 0, num: int | None = None, interval: int = 1) -> None:  # noqa: ARG002  # kombu's
        """Put back what any worker took longer ago than the visibility timeout. Called again and again.

        The script does it in one step, by the server's clock; so no lock is needed, and no clock of a worker counts.
        """
        self._vrestore_count += 1
        if (self._vrestore_count - 1) % (interval or 1):
            return
        while self._restore(_NEXT, self.channel.visibility_timeout, num or _AT_ONCE) == (num or _AT_ONCE):
            pass

    def _restore(self, end: str, *which: str | float) -> int:
        """Run restore.lua. Returns how many tags it has looked at."""
        keys = self.channel.unacked_key, self.channel.unacked_index_key
        with self.channel.conn_or_acquire() as client:
            return int(client.eval(_RESTORE, len(keys), *keys, end, *which))
