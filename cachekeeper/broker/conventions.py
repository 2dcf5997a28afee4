"""What publishers and workers agree on: names, the queue, and time limits of the connection."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from kombu import Exchange, Queue

from cachekeeper.values.urls import broker_tls

if TYPE_CHECKING:
    from collections.abc import Iterable

# Every name in the broker contains `cachekeeper`, so that it may be shared with another Celery application. kombu's
# and Celery's own names belong to all applications that do not change them: each worker puts back whatever has been in
# `unacked` for its own visibility timeout, and `celery control shutdown` ends all that listen to `celery.pidbox`.
# A `global_keyprefix` would do the same, and rename the list that publishers in other languages push to.

TASK = "cachekeeper.apply"
QUEUE = "cachekeeper"

UNACKED = "cachekeeper.unacked"
"""On Redis, a hash: the messages that workers have taken and not yet acknowledged, by delivery tag."""

UNACKED_INDEX = "cachekeeper.unacked_index"
"""On Redis, a sorted set: when each of them was taken, in seconds since 1970 by the server's clock."""

UNACKED_MUTEX = "cachekeeper.unacked_mutex"
"""On Redis, kombu's lock for putting back. Not used: putting back is one script, which needs no lock. It is set all the
same: should a later kombu take the lock elsewhere, that must not be `unacked_mutex`, which other applications share."""

BINDING_DEADLINES = "cachekeeper.binding_deadlines"
"""On Redis, a sorted set: until when the bindings of the control exchanges are kept, in milliseconds since 1970.

kombu's own name for it does not contain `cachekeeper`: a user with the right `~*cachekeeper*` could not write to it.
"""

PAUSE = "cachekeeper.pause"
"""On Redis, a list that never exists. To wait for it is to pause."""

CONTROL_EXCHANGE = "cachekeeper"
"""Celery's name for what `celery inspect` and `celery control` use. The exchange is called `cachekeeper.pidbox`."""

KEY_TYPES = {
    QUEUE: "list",
    UNACKED: "hash",
    UNACKED_INDEX: "zset",
    BINDING_DEADLINES: "zset",
    f"_kombu.binding.{QUEUE}": "set",
    f"_kombu.binding.{CONTROL_EXCHANGE}.pidbox": "set",
    f"_kombu.binding.reply.{CONTROL_EXCHANGE}.pidbox": "set",
}
"""On Redis, the keys of a fixed name, and of which type each is."""

EVENT_EXCHANGE = "cachekeeper.events"
"""Of Celery's task events. Workers send them only where somebody has turned them on."""

DEAD_QUEUE = "cachekeeper.dead"
"""Where RabbitMQ puts what was delivered too often: messages that end their worker. All else is a dead letter in
MongoDB."""

OUTBOX_HEADER = "cachekeeper_outbox"
"""True in a message whose events are records of the outbox: they leave it when the message has been dealt with. A
header, since a worker that does not know it applies the events all the same."""

LETTER_HEADER = "cachekeeper_letter"
"""In a message that publishes a dead letter again: how often it had failed, and when for the first time, in
milliseconds since 1970. Should it fail again, its letter goes on from there."""

UNREADABLE_HEADER = "cachekeeper_unreadable"
"""Set by the worker that receives a message which neither kombu nor py-amqp could read: why."""

# An outage of Redis or MongoDB costs a message one delivery for each worker that it meets as the outage begins (from
# RabbitMQ 4.3 on none, see `answers.spare_deliveries`), and a worker that is killed costs one to all that it held.
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


def task_headers(
    message_id: str, events: int, *, outbox: bool = False, letter: tuple[int, int] | None = None
) -> dict[str, Any]:
    """The headers of a Celery task message, protocol 2.

    Args:
        message_id: names the message; the same in every redelivery.
        events: how many it carries. `argsrepr` says so and no more: Celery writes it into logs.
        outbox: whether they are records of the outbox.
        letter: of a dead letter that is published again, what `LETTER_HEADER` says.
    """
    return {
        **({OUTBOX_HEADER: True} if outbox else {}),
        **({} if letter is None else {LETTER_HEADER: list(letter)}),
        "lang": "py",
        "task": TASK,
        "id": message_id,
        "root_id": message_id,
        "parent_id": None,
        "group": None,
        "retries": 0,
        "eta": None,
        "expires": None,
        "timelimit": [None, None],
        "ignore_result": True,
        "argsrepr": f"({events} events)",
        "kwargsrepr": "{}",
        "origin": "cachekeeper",
    }


def task_body(events: Iterable[str]) -> bytes:
    """The body of a Celery task message, protocol 2: arguments, keyword arguments, and what to call next: nothing.

    Args:
        events: JSON texts; they make up the one argument, a list.
    """
    nothing_next = '{"callbacks":null,"errbacks":null,"chain":null,"chord":null}'
    return f"[[[{','.join(events)}]],{{}},{nothing_next}]".encode()
