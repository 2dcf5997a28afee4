"""A connection to the broker, for one publishing thread at a time."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any

from kombu import Producer
from kombu.exceptions import OperationalError

from cachekeeper.broker.names import PAUSE
from cachekeeper.broker.queues import is_amqp, tls_options, transport_options, work_queue
from cachekeeper.broker.redis_transport import Connection
from cachekeeper.broker.refusals import refusal
from cachekeeper.errors import BrokerUnavailable
from cachekeeper.values.urls.broker_url import without_tls_options

if TYPE_CHECKING:
    from cachekeeper.publishing.wire_format import OutgoingMessage


class BrokerConnection:
    """Sends messages and waits for the broker's confirmation. Connects at first use.

    Args:
        url: the broker's URL.
        seconds: the time limit for connecting, and for each answer except the confirmation, which has its own limit.
    """

    def __init__(self, url: str, seconds: float) -> None:
        self._amqp = is_amqp(url)
        options = transport_options(url, seconds)
        if self._amqp:
            # Without it py-amqp counts a message as sent when it is written to the socket, even if RabbitMQ never
            # reads it.
            options["confirm_publish"] = True
        self._queue = work_queue(url)
        self._connection = Connection(
            without_tls_options(url), ssl=tls_options(url), connect_timeout=seconds, transport_options=options
        )
        self._producer: Producer | None = None
        self._returned = False

    def send(self, message: OutgoingMessage, seconds: float) -> None:
        """Send one message.

        Args:
            message: what to send.
            seconds: the time limit for the whole call.

        Raises:
            BrokerUnavailable: the broker did not confirm the message. This connection cannot be used again.
        """
        deadline = time.monotonic() + seconds
        try:
            producer = self._ready_producer()
            producer.publish(
                message.body,
                content_type="application/json",
                content_encoding="utf-8",
                headers=message.headers,
                exchange="",  # the default exchange: it routes by the name of the queue
                routing_key=self._queue.name,
                delivery_mode=2,  # persistent
                # kombu's own retries reconnect without a time limit.
                retry=False,
                declare=[self._queue],
                mandatory=self._amqp,
                confirm_timeout=max(deadline - time.monotonic(), 0.001),
                correlation_id=message.id,
            )
        except self._errors() as error:
            raise BrokerUnavailable(_said("the broker did not confirm the event", error)) from error
        if self._returned:
            # RabbitMQ confirmed the message and returned it: the queue was deleted while this connection was open.
            raise BrokerUnavailable("the broker's queue was deleted: publish the event again, which makes a new queue")

    def probe(self) -> None:
        """Ask whether the broker would accept a message, and wait for the answer. Creates the queue if it is missing.

        Raises:
            BrokerUnavailable: the broker did not answer, or refused. This connection cannot be used again.
        """
        try:
            self._ready_producer()
            channel: Any = self._connection.default_channel
            self._queue(channel).declare()
            if not self._amqp:
                # The list does not exist, so this command changes nothing. A full broker refuses it like a message.
                with channel.conn_or_acquire() as client:
                    client.lpushx(PAUSE, "")
        except self._errors() as error:
            raise BrokerUnavailable(_said("the broker did not answer", error)) from error

    def close(self) -> None:
        """Close the connection in an orderly way."""
        with contextlib.suppress(*self._errors()):  # if the broker is down, nothing is left to close
            self._connection.release()

    def drop(self) -> None:
        """Drop a connection that failed. Sends nothing that a hung broker would have to answer."""
        with contextlib.suppress(*self._errors()):
            if self._amqp:
                self._connection.collect()
            else:
                self._connection.release()

    def _ready_producer(self) -> Producer:
        if self._producer is None:
            # Without this line `default_channel` would connect, with retries.
            self._connection.ensure_connection(max_retries=0, reraise_as_library_errors=False)
            on_return = self._on_return if self._amqp else None
            self._producer = Producer(self._connection.default_channel, auto_declare=False, on_return=on_return)
        return self._producer

    def _on_return(self, *_: object) -> None:
        self._returned = True

    def _errors(self) -> tuple[type[BaseException], ...]:
        at = self._connection
        return (
            OperationalError,
            *at.connection_errors,
            *at.channel_errors,
            *at.recoverable_connection_errors,
            *at.recoverable_channel_errors,
        )


def _said(what: str, error: BaseException) -> str:
    # The broker's own words are added only for a refusal. Other errors may contain the URL.
    return f"{what} ({type(error).__name__}); {why}" if (why := refusal(error)) else f"{what} ({type(error).__name__})"
