"""What a worker answers the broker: each message is acknowledged or put back. All in the event loop's thread."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kombu.transport import virtual

from cachekeeper.metrics import COUNTERS

if TYPE_CHECKING:
    from collections.abc import Callable

    from kombu import Message

# So many acknowledgements share a round trip to Redis: half of the messages that a worker has in hand.
_TOGETHER = 8
_LATEST_SECONDS = 0.01


def heard(message: Message, answer: Callable[..., object]) -> Callable[..., object]:
    """Give a message's answer, if its connection is still there.

    kombu's channel of a Redis that has lost its connection raises what nobody expects, and that would end the worker.
    The message comes again; it is applied twice, which changes nothing.
    """

    def give(*arguments: Any, **options: Any) -> object:
        if not _is_connected(message.channel):
            COUNTERS.add("answer_unheard")
            return None
        return answer(*arguments, **options)

    return give


class Acknowledgements:
    """Acknowledgements, where the broker is Redis several in one round trip.

    kombu has a round trip for each, and makes a client for it: a quarter of what a small message costs. A worker that
    is killed between the work and the acknowledgement gets the messages again, a few more of them than without this.

    Args:
        call_later: of the event loop.
    """

    def __init__(self, call_later: Callable[[float, Callable[[], None]], object]) -> None:
        self._call_later = call_later
        self._done: list[Message] = []

    def answer(self, message: Message) -> Callable[..., object]:
        """What acknowledges `message`, to be called with a logger and the broker's errors, as kombu's own."""
        if not isinstance(getattr(message.channel, "qos", None), virtual.QoS):
            return heard(message, message.ack_log_error)

        def acknowledge(*_: object) -> None:
            self._done.append(message)
            if len(self._done) >= _TOGETHER:
                self.send()
            elif len(self._done) == 1:
                self._call_later(_LATEST_SECONDS, self.send)

        return acknowledge

    def send(self) -> None:
        """Send what has gathered. Raises what kombu raises: an error of the connection, which is then made anew."""
        done, self._done = self._done, []
        channels = {id(message.channel): message.channel for message in done}
        for name, channel in channels.items():
            tags = [message.delivery_tag for message in done if id(message.channel) == name]
            if _is_connected(channel):
                _acknowledge(channel, tags)
            else:
                COUNTERS.add("answer_unheard", len(tags))


def _is_connected(channel: Any) -> bool:
    transport = channel.connection
    return getattr(transport, "client", transport) is not None


def _acknowledge(channel: Any, tags: list[Any]) -> None:
    """As kombu's `QoS.ack`, for several."""
    with channel.conn_or_acquire() as client:
        pipe = client.pipeline()
        for tag in tags:
            channel.qos._remove_from_indices(tag, pipe)  # noqa: SLF001  # its keys are known there alone
        pipe.execute()
    for tag in tags:
        virtual.QoS.ack(channel.qos, tag)
