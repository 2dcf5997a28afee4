"""Queues, time limits and TLS options with which publishers and workers connect to the broker."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from kombu import Exchange, Queue

from cachekeeper.broker.names import DEAD_QUEUE, QUEUE
from cachekeeper.values.urls.broker_url import broker_tls

# When an outage of Redis or MongoDB begins, a message loses one delivery for each worker that receives it. (From
# RabbitMQ 4.3 on it loses none, see `acks.spare_deliveries`.) When a worker is killed, each of its messages in flight
# loses one. RabbitMQ 4 has a default limit of 20.
DELIVERY_LIMIT = 100


def is_amqp(url: str) -> bool:
    """Return whether `url` is the URL of a RabbitMQ server."""
    return urlsplit(url).scheme in {"amqp", "amqps"}


def work_queue(url: str) -> Queue:
    """The queue of events. Everything that declares it must use the same arguments."""
    arguments = None
    if is_amqp(url):
        arguments = {
            "x-queue-type": "quorum",  # replicated, and it counts deliveries
            "x-delivery-limit": DELIVERY_LIMIT,
            "x-dead-letter-exchange": "",
            "x-dead-letter-routing-key": DEAD_QUEUE,
        }
    return Queue(QUEUE, Exchange(QUEUE, type="direct"), routing_key=QUEUE, queue_arguments=arguments)


def dead_queue() -> Queue:
    """The queue of messages that RabbitMQ has given up."""
    return Queue(DEAD_QUEUE, queue_arguments={"x-queue-type": "quorum"})


def transport_options(url: str, seconds: float) -> dict[str, Any]:
    """Connection options that limit every call on the connection to about `seconds` if the broker hangs.

    Args:
        url: of the broker.
        seconds: for connecting, and for each answer.
    """
    if is_amqp(url):
        return {"read_timeout": seconds, "write_timeout": seconds}
    return {
        # kombu has no time limit by default: publishing to a stopped Redis then takes more than a minute.
        "socket_timeout": seconds,
        "socket_connect_timeout": seconds,
        "socket_keepalive": True,
        # No priorities: kombu keeps one list per priority, and would ask Redis for four lists.
        "priority_steps": [0],
    }


def tls_options(url: str) -> dict[str, Any] | bool:
    """TLS options by which kombu verifies the broker; False if the URL has no TLS.

    Without them kombu sends the password to a Redis without verifying its certificate, and py-amqp sends it to any host
    that has a valid certificate.
    """
    options = broker_tls(url)
    if options is None:
        return False
    if not is_amqp(url):
        return dict(options)
    names = {"ssl_ca_certs": "ca_certs", "ssl_certfile": "certfile", "ssl_keyfile": "keyfile"}
    return {
        **{name: options[option] for option, name in names.items() if option in options},
        "cert_reqs": options["ssl_cert_reqs"],
        # py-amqp compares the certificate with the host only if it gets the host's name.
        **({"server_hostname": urlsplit(url).hostname} if options["ssl_check_hostname"] else {}),
    }
