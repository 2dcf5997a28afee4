"""Acknowledges each message or puts it back. All of this runs in the event loop's thread.

An *answer* is either of the two. When a channel to Redis has lost its connection, an answer over it makes kombu raise
errors that Celery does not expect, and they would end the worker. So no answer is sent over such a channel: the message
is delivered again and applied twice, which changes nothing. If Redis is up and refuses an answer, that is raised as a
lost connection: the new connection takes every message in flight again. An unnoticed refusal would leave the message
counted as in flight forever, and a worker whose prefetch limit is reached fetches nothing.
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

_UNCOUNTED_NACK = (4, 3)  # from this version of RabbitMQ on, a nack does not count as a delivery
_VERSION = re.compile(r"^([0-9]{1,4})\.([0-9]{1,4})(?![0-9])")
_MOST_TOGETHER = 8
_LATEST_SECONDS = 0.01


def heard(message: Message, answer: Callable[..., object]) -> Callable[..., object]:
    """Wrap `answer`, so that the message is answered only if its connection is still open."""

    def give(*arguments: Any, **options: Any) -> object:
        if not _is_connected(message.channel):
            COUNTERS.add("answer_unheard")
            return None
        return answer(*arguments, **options)

    return give


def rejection(message: Message) -> Callable[..., object]:
    """Return a function that rejects `message`: it puts the message back, or discards it.

    The function takes a logger, the broker's errors, and whether to requeue the message.
    """
    if not _is_emulated(message.channel):
        return heard(message, message.reject_log_error)

    def reject(_logger: object, _errors: object, requeue: bool = False) -> None:  # noqa: FBT001, FBT002  # as kombu's
        _answer(message.channel, lambda: message.reject(requeue))

    return heard(message, reject)


def spare_deliveries(channel: Any) -> None:
    """Send `basic.nack` for every message that is put back over `channel`, if that saves the message a delivery.

    The delivery limit exists for messages that end their worker, not for outages. From RabbitMQ 4.3 on, a quorum queue
    counts `basic.reject` and a lost channel towards the limit, but not `basic.nack`. Before 4.3 it counts all three.

    This is not tested against RabbitMQ 4.3. The tests use 3.10 and 4.0, and show there that a nack puts a message back.

    Args:
        channel: a channel of an open connection. Nothing is changed unless the broker is RabbitMQ 4.3 or later.
    """
    if not _spares_nacks(getattr(channel.connection, "server_properties", {})):
        return
    reject: Callable[[int, bool], object] = channel.basic_reject

    # Two callers: kombu's messages, and py-amqp when a message arrives after its consumer was cancelled.
    def basic_reject(delivery_tag: int, requeue: bool) -> object:  # noqa: FBT001  # as py-amqp's
        if not requeue:
            return reject(delivery_tag, requeue)
        # py-amqp has no method for a nack. False: reject this message only, not all earlier ones as well.
        return channel.send_method(Basic.Nack, "Lbb", (delivery_tag, False, True))

    channel.basic_reject = basic_reject


def _spares_nacks(server: Mapping[str, object]) -> bool:
    """Whether a broker with these properties does not count `basic.nack`. False if its version cannot be read."""
    version = server.get("version")
    found = _VERSION.search(version) if server.get("product") == "RabbitMQ" and isinstance(version, str) else None
    return found is not None and (int(found[1]), int(found[2])) >= _UNCOUNTED_NACK


class Acknowledgements:
    """Sends acknowledgements. With Redis as the broker, several share one round trip.

    kombu makes a client and a round trip for each acknowledgement, which is a quarter of the cost of a small message.
    If a worker is killed between the work and the acknowledgement, its messages are delivered again. Because several
    acknowledgements wait together, these are a few messages more.

    Args:
        call_later: the event loop's method that calls a function after some seconds.
    """

    def __init__(self, call_later: Callable[[float, Callable[[], None]], object]) -> None:
        self._call_later = call_later
        self._done: list[Any] = []

    def answer(self, message: Message) -> Callable[..., object]:
        """Return a function that acknowledges `message`. It takes a logger and the broker's errors."""
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
        """Send the acknowledgements that are waiting.

        Raises:
            ConnectionError: the broker refused them. kombu's other exceptions here are its connection errors.
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
    """Whether kombu, not the broker, keeps track of the messages in flight. So it is with Redis."""
    return isinstance(getattr(channel, "qos", None), virtual.QoS)


def _is_connected(channel: Any) -> bool:
    transport = channel.connection
    return getattr(transport, "client", transport) is not None


def _together(channel: Any) -> int:
    """How many acknowledgements to send together: half of the prefetch limit, at most `_MOST_TOGETHER`.

    While they wait, the worker can fetch the other half.
    """
    in_hand = channel.qos.prefetch_count
    return max(1, min(_MOST_TOGETHER, in_hand // 2)) if in_hand else _MOST_TOGETHER


def _answer(channel: Any, give: Callable[[], object]) -> None:
    refusals: tuple[type[Exception], ...] = channel.connection.channel_errors
    try:
        give()
    except refusals as error:
        # Celery's timer re-raises lost connections, but would only log this error.
        raise ConnectionError(f"the broker refused to acknowledge or requeue ({type(error).__name__})") from error


def _acknowledge(channel: Any, messages: list[Any]) -> None:
    """Acknowledge several messages, as kombu's `Message.ack` does for one."""
    _answer(channel, lambda: channel.qos.acknowledge([message.delivery_tag for message in messages]))
    for message in messages:
        message._state = "ACK"  # noqa: SLF001  # else `message.acknowledged` stays false
