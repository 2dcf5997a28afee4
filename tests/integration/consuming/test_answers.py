"""What a worker answers a Redis broker, and that no answer is forgotten."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from cachekeeper.broker.names import QUEUE, UNACKED, UNACKED_INDEX
from cachekeeper.broker.queues import work_queue
from cachekeeper.consuming.acks import acknowledgement, rejection
from cachekeeper.consuming.redis_channel import Connection
from producers import UserLoggedOut
from testkit.counting import counted
from testkit.patient_publishing import give_patience
from testkit.waiting import wait_until

if TYPE_CHECKING:
    from cachekeeper.devservers import RedisServer
    from testkit.delivering import Site

SOON = 30.0


@pytest.fixture
def connection(redis_server: RedisServer) -> Iterator[Connection]:
    with Connection(redis_server.url) as connection:
        yield connection


def in_hand(connection: Connection, count: int) -> list[Any]:
    """Messages that are taken and not acknowledged."""
    channel: Any = connection.default_channel
    queue = work_queue(connection.as_uri())
    with connection.Producer(channel) as producer:
        for number in range(count):
            producer.publish(str(number), routing_key=queue.name, declare=[queue])
    return [channel.basic_get(QUEUE) for _ in range(count)]


def held(server: RedisServer) -> int:
    with server.client() as client:
        counts: Any = client.hlen(UNACKED), client.zcard(UNACKED_INDEX)
    return sum(counts)


def test_an_acknowledged_message_leaves_the_record(redis_server: RedisServer, connection: Connection) -> None:
    first, second = in_hand(connection, 2)
    acknowledgement(first)(None, ())
    assert first.acknowledged
    assert not second.acknowledged
    assert held(redis_server) == 2
    channel: Any = connection.default_channel
    channel.close()  # puts back what is in flight
    with redis_server.client() as client:
        assert client.llen(QUEUE) == 1


def test_an_answer_whose_connection_is_lost_is_counted(
    redis_server: RedisServer, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    messages = in_hand(connection, 3)
    channel: Any = connection.default_channel
    with counted() as counts, monkeypatch.context() as lost:
        lost.setattr(channel.connection, "client", None)  # as kombu leaves it
        for message in messages:
            acknowledgement(message)(None, ())
    assert counts["answer_unheard"] == 3
    assert held(redis_server) == 2 * 3


@contextmanager
def refusing(server: RedisServer) -> Iterator[None]:
    """It answers, and takes no writes: as one does that has lost its replicas, or cannot save."""
    with server.client() as client:
        client.config_set("min-replicas-to-write", 1)
        try:
            yield
        finally:
            client.config_set("min-replicas-to-write", 0)


def test_a_refused_acknowledgement_ends_the_connection(redis_server: RedisServer, connection: Connection) -> None:
    """Unnoticed, it would count as in flight forever: at its prefetch limit, a worker is stuck."""
    (message,) = in_hand(connection, 1)
    with refusing(redis_server), pytest.raises(ConnectionError, match="refused to acknowledge"):
        acknowledgement(message)(None, ())


def test_what_is_put_back_is_there_again_or_the_connection_ends(
    redis_server: RedisServer, connection: Connection
) -> None:
    first, second = in_hand(connection, 2)
    with refusing(redis_server), pytest.raises(ConnectionError, match="refused to acknowledge or requeue"):
        rejection(first)(None, (), requeue=True)
    rejection(second)(None, (), requeue=True)
    with redis_server.client() as client:
        assert client.llen(QUEUE) == 1


@pytest.mark.usefixtures("patient_publishing")
@pytest.mark.parametrize("site", ["redis"], indirect=True)
def test_a_worker_that_stops_acknowledges_what_it_has_done(site: Site) -> None:
    """Else they would come back: kombu puts back what was not acknowledged."""
    give_patience(site.publisher, site.broker.url)  # it is told exactly how many are held
    with site.working("--include", "tests.integration.consuming.late_worker") as worker:
        site.publish_each(*(UserLoggedOut(token_id=f"last{n}") for n in range(3)))
        wait_until(lambda: site.held() == 3, "all taken", SOON)
        assert not site.client.exists(*(f"blocked:last{n}" for n in range(3)))
    assert site.client.exists(*(f"blocked:last{n}" for n in range(3))) == 3
    assert worker.exit_text == "exited with status 0"
    assert (site.waiting(), site.held()) == (0, 0)


@pytest.mark.usefixtures("patient_publishing")
def test_a_worker_that_stops_and_loses_its_broker_ends_all_the_same(redis_site: Site) -> None:
    redis_site.environment["LATE_WORKER_ENDS_ITS_BROKER"] = "yes"
    with redis_site.working("--include", "tests.integration.consuming.late_worker") as worker:
        redis_site.publish(UserLoggedOut(token_id="last"))
        wait_until(lambda: redis_site.held() == 1, "the message taken", SOON)
    assert redis_site.client.exists("blocked:last")
    assert worker.exit_text == "exited with status 0"
    assert "while the worker stopped, a message was not acknowledged or put back (ConnectionError)" in worker.log_tail(
        1000
    )
    assert "Traceback" not in worker.log_tail(1000)
