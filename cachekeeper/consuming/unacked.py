"""The record of the messages of a Redis broker that workers have in flight, and the ways by which one leaves it.

A message is in the record from the moment it is taken (take.lua) until it is acknowledged or put back. Redis refuses
none of these commands at `maxmemory`: there is no transaction here, and every script removes before it adds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kombu.transport import redis as kombu_redis
from kombu.transport import virtual

from cachekeeper.broker.redis_transport import lua_source

if TYPE_CHECKING:
    from collections.abc import Sequence

_AT_ONCE = 100
_NEXT, _LAST = "RPUSH", "LPUSH"  # the commands that put a message back at either end of a list


_RESTORE = lua_source("cachekeeper.consuming", "restore")


class QoS(kombu_redis.QoS):
    """The messages that this channel has in flight. Each is in Redis's record before it is counted here."""

    channel: Any
    _delivered: Any
    _vrestore_count: int

    def append(self, message: Any, delivery_tag: str) -> None:
        """Count a message as in flight. It is already in the record, since take.lua."""
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
            # The order matters: if only HDEL arrives, a later restore finds no message for the tag and removes the tag.
            pipe = client.pipeline()
            pipe.hdel(self.channel.unacked_key, *delivery_tags)
            pipe.zrem(self.channel.unacked_index_key, *delivery_tags)
            pipe.execute()
        for delivery_tag in delivery_tags:
            virtual.QoS.ack(self, delivery_tag)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:  # noqa: FBT001, FBT002  # kombu's
        """Put a message back behind all others, or discard it."""
        if not requeue:
            self.acknowledge([delivery_tag])
            return
        self._restore(_LAST, "", delivery_tag)
        virtual.QoS.ack(self, delivery_tag)

    def restore_unacked(self, client: Any = None) -> None:  # noqa: ARG002  # kombu's
        """Put back all messages in flight on this channel. Called when the channel closes."""
        tags = [*self._delivered]
        for at in range(0, len(tags), _AT_ONCE):
            self._restore(_NEXT, "", *tags[at : at + _AT_ONCE])
        self._delivered.clear()

    def restore_visible(self, start: int = 0, num: int | None = None, interval: int = 1) -> None:  # noqa: ARG002  # kombu's
        """Put back the messages that any worker took longer ago than the visibility timeout. Called periodically.

        The script does it in one step by the server's clock. So it needs no lock, and workers' clocks do not matter.
        """
        self._vrestore_count += 1
        if (self._vrestore_count - 1) % (interval or 1):
            return
        while self._restore(_NEXT, self.channel.visibility_timeout, num or _AT_ONCE) == (num or _AT_ONCE):
            pass

    def _restore(self, end: str, *which: str | float) -> int:
        """Run restore.lua, and return how many tags it has looked at."""
        keys = self.channel.unacked_key, self.channel.unacked_index_key
        with self.channel.conn_or_acquire() as client:
            return int(client.eval(_RESTORE, len(keys), *keys, end, *which))
