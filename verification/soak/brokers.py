"""Measurements of a broker: waiting messages, messages in flight, connections, and the prefetch that it grants."""

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
        unacked: how many messages it has delivered that are not acknowledged yet.
        connections: how many connections it has, including the one of this look.
        prefetch: the largest prefetch that it grants a consumer; None without a consumer, and on Redis, where the
            client decides it.
        keys: how many keys its database has; None for RabbitMQ.
    """

    unacked: int
    connections: int
    prefetch: int | None = None
    keys: int | None = None


class Broker(ABC):
    """A broker to look at.

    Attributes:
        look_seconds: how long to wait between two looks. It is longer for RabbitMQ, where a look starts an Erlang
            machine.
    """

    look_seconds: float

    @abstractmethod
    def overview(self) -> Overview:
        """Take one look at the broker."""

    @abstractmethod
    def waiting(self) -> int:
        """Count the messages that wait in the queue of events."""


class RedisBroker(Broker):
    """Redis as the broker. Its transport keeps the messages in flight in a sorted set."""

    look_seconds = 1.0

    def __init__(self, server: RedisServer) -> None:
        self._client = server.client()

    def overview(self) -> Overview:
        """Take one look at the broker."""
        pipe = self._client.pipeline(transaction=False)
        pipe.zcard(UNACKED_INDEX)
        pipe.info("clients")
        pipe.dbsize()
        unacked, clients, keys = pipe.execute()
        return Overview(unacked, clients["connected_clients"], keys=keys)

    def waiting(self) -> int:
        """Count the messages that wait in the queue of events."""
        found: Any = self._client.llen(QUEUE)
        return int(found)


class RabbitBroker(Broker):
    """RabbitMQ as the broker. `rabbitmqctl eval` answers the questions that AMQP cannot."""

    look_seconds = 20.0

    def __init__(self, server: RabbitServer) -> None:
        self._server = server

    def overview(self) -> Overview:
        """Take one look at the broker."""
        server = self._server
        done = subprocess.run(
            [server.found.path.parent / "rabbitmqctl", "--node", server.node, "eval", _ASK % QUEUE],
            cwd=server.directory,  # a killed Erlang machine leaves its dump here
            env=server._environment(),  # noqa: SLF001  # its home directory has the Erlang cookie
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
        """Count the messages that wait in the queue of events."""
        with Connection(self._server.url) as connection:
            channel: Any = connection.default_channel
            return int(channel.queue_declare(QUEUE, passive=True).message_count)


def broker_of(server: RedisServer | RabbitServer) -> Broker:
    """The `Broker` for this server."""
    return RedisBroker(server) if isinstance(server, RedisServer) else RabbitBroker(server)


def look_until(ending: threading.Event, broker: Broker, soaked: Soaked) -> None:
    """Look at a broker regularly. A failed look is counted, and looking goes on: the figures limit how many may fail.

    Args:
        ending: stops looking when it is set.
        broker: the broker to look at.
        soaked: receives the measurements.
    """
    while not ending.wait(broker.look_seconds):
        try:
            seen, waiting = broker.overview(), broker.waiting()
        except Exception as error:  # noqa: BLE001  # any error is recorded: this thread has no caller to catch it
            soaked.failed_looks.append(f"{type(error).__name__}: {error}")
            continue
        soaked.queued.append(waiting)
        soaked.unacked.append(seen.unacked)
        soaked.connected.append(seen.connections)
        if seen.prefetch is not None:
            soaked.granted.append(seen.prefetch)
