"""How publishers and workers connect: the queues they declare, time limits, TLS."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from kombu import Exchange, Queue

from cachekeeper.broker.names import DEAD_QUEUE, QUEUE
from cachekeeper.values.urls.broker_url import broker_tls

# An outage of Redis or MongoDB costs a message one delivery for each worker that it meets as the outage begins (from
# RabbitMQ 4.3 on none, see `acks.spare_deliveries`), and a worker that is killed costs one to all that it held.
# RabbitMQ 4 allows 20 where nothing is said.
DELIVERY_LIMIT = 100


def is_amqp(url: str) -> bool:
    """Whether `url` is that of a RabbitMQ."""
    return urlsplit(url).scheme in {"amqp", "amqps"}


def work_queue(url: str) -> Queue:
    """The queue of events. Its arguments must be the same wherever it is declared."""
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
    """The queue of what RabbitMQ gave up."""
    return Queue(DEAD_QUEUE, queue_arguments={"x-queue-type": "quorum"})


def transport_options(url: str, seconds: float) -> dict[str, Any]:
    """Options of the connection, so that no call on it waits longer than about `seconds` for a broker that hangs.

    Args:
        url: of the broker.
        seconds: for connecting, and for each answer.
    """
    if is_amqp(url):
        return {"read_timeout": seconds, "write_timeout": seconds}
    return {
        # kombu's default is to wait for ever: publishing to a stopped Redis then takes more than a minute.
        "socket_timeout": seconds,
        "socket_connect_timeout": seconds,
        "socket_keepalive": True,
        # No priorities: kombu keeps a list for each, and would ask for four.
        "priority_steps": [0],
    }


def tls_options(url: str) -> dict[str, Any] | bool:
    """How kombu verifies the broker; False where there is no TLS.

    Without them kombu sends the password to a Redis whose certificate nobody has looked at, and py-amqp to any host
    that has a certificate.
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
        # py-amqp compares the certificate with the host where it is told the host's name.
        **({"server_hostname": urlsplit(url).hostname} if options["ssl_check_hostname"] else {}),
    }
