"""Acknowledges each message or puts it back. All in the event loop's thread.

kombu's channel of a Redis that has lost its connection raises what nobody expects, and that would end the worker. So
nothing is answered over such a channel: the message comes again, and is applied twice, which changes nothing. Where
Redis is there and refuses, that is raised as a lost connection: a new one takes everything in hand anew. A refusal that
went unnoticed would leave the message counted as in hand, for ever, and a worker with its hands full fetches nothing.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from amqp.spec import Basic
from kombu.transport import virtual

from cachekeeper.metrics import COUNTERS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from kombu import Message

_UNCOUNTED_NACK = (4, 3)  # the RabbitMQ since which a nack costs a message no delivery
_VERSION = re.compile(r"^([0-9]{1,4})\.([0-9]{1,4})(?![0-9])")
_MOST_TOGETHER = 8
_LATEST_SECONDS = 0.01


def heard(message: Message, answer: Callable[..., object]) -> Callable[..., object]:
    """Give a message's answer, if its connection is still there."""

    def give(*arguments: Any, **options: Any) -> object:
        if not _is_connected(message.channel):
            COUNTERS.add("answer_unheard")
            return None
        return answer(*arguments, **options)

    return give


def rejection(message: Message) -> Callable[..., object]:
    """What puts `message` back, or away; to be called with a logger, the broker's errors, and whether to requeue it."""
    if not _is_emulated(message.channel):
        return heard(message, message.reject_log_error)

    def reject(_logger: object, _errors: object, requeue: bool = False) -> None:  # noqa: FBT001, FBT002  # as kombu's
        _answer(message.channel, lambda: message.reject(requeue))

    return heard(message, reject)


def spare_deliveries(channel: Any) -> None:
    """Send `basic.nack` for every message that is put back over `channel`, where that saves the message a delivery.

    The delivery limit is there for messages that end their worker, not for outages. From RabbitMQ 4.3 on a quorum queue
    counts `basic.reject` and a lost channel towards the limit, and no `basic.nack`. Before 4.3 it counts all three.

    Untested against RabbitMQ 4.3: the tests have 3.10 and 4.0, and show there that a nack puts a message back.

    Args:
        channel: of a connection that is open. With another broker than RabbitMQ 4.3 or later, nothing happens.
    """
    if not _spares_nacks(getattr(channel.connection, "server_properties", {})):
        return
    reject: Callable[[int, bool], object] = channel.basic_reject

    # Both call it: kombu's messages, and py-amqp where a message arrives after its consumer was cancelled.
    def basic_reject(delivery_tag: int, requeue: bool) -> object:  # noqa: FBT001  # as py-amqp's
        if not requeue:
            return reject(delivery_tag, requeue)
        # py-amqp has no method for it. False: this message, and not all before it.
        return channel.send_method(Basic.Nack, "Lbb", (delivery_tag, False, True))

    channel.basic_reject = basic_reject


def _spares_nacks(server: Mapping[str, object]) -> bool:
    """Whether the broker with these properties counts no `basic.nack`. A version that cannot be read counts it."""
    version = server.get("version")
    found = _VERSION.search(version) if server.get("product") == "RabbitMQ" and isinstance(version, str) else None
    return found is not None and (int(found[1]), int(found[2])) >= _UNCOUNTED_NACK


class Acknowledgements:
    """Acknowledgements, where the broker is Redis several in one round trip.

    kombu has a round trip for each, and makes a client for it: a quarter of what a small message costs. A worker that
    is killed between the work and the acknowledgement gets the messages again, a few more of them than without this.

    Args:
        call_later: of the event loop.
    """

    def __init__(self, call_later: Callable[[float, Callable[[], None]], object]) -> None:
        self._call_later = call_later
        self._done: list[Any] = []

    def answer(self, message: Message) -> Callable[..., object]:
        """What acknowledges `message`, to be called with a logger and the broker's errors."""
        if not _is_emulated(message.channel):
            return heard(message, message.ack_log_error)

        def acknowledge(*_: object) -> None:
            self._done.append(message)
            if len(self._done) >= _together(message.channel):
                self.send()
            elif len(self._done) == 1:
                self._call_later(_LATEST_SECONDS, self.send)

        return acknowledge

    def send(self) -> None:
        """Send what has gathered.

        Raises:
            ConnectionError: the broker refused it. What else kombu raises is its connection errors.
        """
        done, self._done = self._done, []
        channels = {id(message.channel): message.channel for message in done}
        for name, channel in channels.items():
            messages = [message for message in done if id(message.channel) == name]
            if _is_connected(channel):
                _acknowledge(channel, messages)
            else:
                COUNTERS.add("answer_unheard", len(messages))


def _is_emulated(channel: Any) -> bool:
    """Whether it is kombu that keeps account of what is in hand, since the broker does not: Redis."""
    return isinstance(getattr(channel, "qos", None), virtual.QoS)


def _is_connected(channel: Any) -> bool:
    transport = channel.connection
    return getattr(transport, "client", transport) is not None


def _together(channel: Any) -> int:
    """Half of what the worker may have in hand: while these wait, it can fetch the other half."""
    in_hand = channel.qos.prefetch_count
    return max(1, min(_MOST_TOGETHER, in_hand // 2)) if in_hand else _MOST_TOGETHER


def _answer(channel: Any, give: Callable[[], object]) -> None:
    refusals: tuple[type[Exception], ...] = channel.connection.channel_errors
    try:
        give()
    except refusals as error:
        # Celery's timer raises lost connections on, and would only log this.
        raise ConnectionError(f"the broker refused an answer ({type(error).__name__})") from error


def _acknowledge(channel: Any, messages: list[Any]) -> None:
    """As kombu's `Message.ack`, for several."""
    _answer(channel, lambda: channel.qos.acknowledge([message.delivery_tag for message in messages]))
    for message in messages:
        message._state = "ACK"  # noqa: SLF001  # nobody else says so to whoever asks whether it is acknowledged
