"""Included in a worker that takes its RabbitMQ for one of 4.3, and says by which method it puts messages back."""

from typing import Any

import amqp
from amqp.spec import Basic

from cachekeeper.consuming import acks
from cachekeeper.metrics import logger

_NAMES = {Basic.Nack: "basic.nack", Basic.Reject: "basic.reject"}
_answers: Any = acks
_answers._UNCOUNTED_NACK = (3, 0)
_channel: Any = amqp.Channel
_send = _channel.send_method


def _send_and_say(channel: Any, method: tuple[int, int], *arguments: Any, **options: Any) -> object:
    if method in _NAMES:
        logger.warning("put back by %s", _NAMES[method])
    return _send(channel, method, *arguments, **options)


_channel.send_method = _send_and_say
