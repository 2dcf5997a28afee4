"""What a broker says of itself: messages that wait, messages in flight, connections, and the prefetch it grants."""

from __future__ import annotations

import re
import subprocess
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kombu import Connection

from cachekeeper.broker.names import QUEUE, UNACKED_INDEX
from cachekeeper.devservers import RedisServer

if TYPE_CHECKING:
    import threading

    from testkit.servers import RabbitServer
    from verification.soak.sampling import Soaked

_ASK = (
    "{lists:sum([N || [{_, N}] <- rabbit_channel:info_all([messages_unacknowledged])]), "
    "length(rabbit_networking:connections()), "
    '[proplists:get_value(prefetch_count, C) || C <- rabbit_amqqueue:consumers_all(<<"/">>), '
    'element(4, proplists:get_value(queue_name, C)) =:= <<"%s">>]}.'
)
_CTL_SECONDS = 300.0


@dataclass(frozen=True)
class Overview:
    """One look at a broker.

    Attributes:
        unacked: messages that it has delivered and that were not acknowledged.
        connections: those it has, this look's own included.
        prefetch: what it grants a consumer, the most; None where the broker leaves that to its client (Redis).
        keys: in the database of the broker; None for RabbitMQ.
    """

    unacked: int
    connections: int
    prefetch: int | None = None
    keys: int | None = None


class Broker(ABC):
    """One broker.

    Attributes:
        look_seconds: how long to wait between two looks; a look at RabbitMQ starts an Erlang machine.
    """

    look_seconds: float

    @abstractmethod
    def overview(self) -> Overview:
        """Look."""

    @abstractmethod
    def waiting(self) -> int:
        """How many messages wait in the queue of events."""


class RedisBroker(Broker):
    """The transport keeps what is in flight in a sorted set."""

    look_seconds = 1.0

    def __init__(self, server: RedisServer) -> None:
        self._client = server.client()

    def overview(self) -> Overview:
        """Look."""
        pipe = self._client.pipeline(transaction=False)
        pipe.zcard(UNACKED_INDEX)
        pipe.info("clients")
        pipe.dbsize()
        unacked, clients, keys = pipe.execute()
        return Overview(unacked, clients["connected_clients"], keys=keys)

    def waiting(self) -> int:
        """How many messages wait."""
        found: Any = self._client.llen(QUEUE)
        return int(found)


class RabbitBroker(Broker):
    """`rabbitmqctl eval` tells what AMQP does not."""

    look_seconds = 20.0

    def __init__(self, server: RabbitServer) -> None:
        self._server = server

    def overview(self) -> Overview:
        """Look."""
        server = self._server
        done = subprocess.run(
            [server.found.path.parent / "rabbitmqctl", "--node", server.node, "eval", _ASK % QUEUE],
            cwd=server.directory,  # where an Erlang that is killed leaves its dump
            env=server._environment(),  # noqa: SLF001  # its home has the cookie
            capture_output=True,
            text=True,
            timeout=_CTL_SECONDS,
            check=False,
        )
        numbers = [int(number) for number in re.findall(r"\d+", done.stdout)]
        assert done.returncode == 0, done.stdout + done.stderr
        unacked, connections, *prefetch = numbers
        return Overview(unacked, connections, max(prefetch, default=None))

    def waiting(self) -> int:
        """How many messages wait."""
        with Connection(self._server.url) as connection:
            channel: Any = connection.default_channel
            return int(channel.queue_declare(QUEUE, passive=True).message_count)


def broker_of(server: RedisServer | RabbitServer) -> Broker:
    """The one that looks at this server."""
    return RedisBroker(server) if isinstance(server, RedisServer) else RabbitBroker(server)


def look_until(ending: threading.Event, broker: Broker, soaked: Soaked) -> None:
    """Look regularly. A look that fails is counted, and the next one is made: how many may fail is judged in the end.

    Args:
        ending: ends it.
        broker: at which.
        soaked: gets what is seen.
    """
    while not ending.wait(broker.look_seconds):
        try:
            seen, waiting = broker.overview(), broker.waiting()
        except Exception as error:  # noqa: BLE001  # kept, whatever it is: this thread has nobody to raise it to
            soaked.failed_looks.append(f"{type(error).__name__}: {error}")
            continue
        soaked.queued.append(waiting)
        soaked.unacked.append(seen.unacked)
        soaked.connected.append(seen.connections)
        if seen.prefetch is not None:
            soaked.granted.append(seen.prefetch)
