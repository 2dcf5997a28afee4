"""What a worker answers a Redis broker: acknowledgements share a round trip, and none is forgotten."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from kombu.asynchronous import Hub

from cachekeeper.broker.names import QUEUE, UNACKED, UNACKED_INDEX
from cachekeeper.broker.queues import work_queue
from cachekeeper.consuming.acks import Acknowledgements, rejection
from cachekeeper.consuming.redis_channel import Connection
from producers import UserLoggedOut
from testkit.counting import counted
from testkit.patient_publishing import give_patience
from testkit.waiting import wait_until

if TYPE_CHECKING:
    from cachekeeper.devservers import RedisServer
    from testkit.delivering import Site

SOON = 30.0


class Loop:
    """The part of an event loop that is used: what is to be called later, and when."""

    def __init__(self) -> None:
        self.later: list[tuple[float, Callable[[], None]]] = []

    def call_later(self, seconds: float, what: Callable[[], None]) -> None:
        self.later.append((seconds, what))


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


def acknowledgements_sent(server: RedisServer) -> int:
    """How many commands removed a record or more."""
    with server.client() as client:
        found: Any = client.info("commandstats")
    return int(found.get("cmdstat_hdel", {}).get("calls", 0))


def held(server: RedisServer) -> int:
    with server.client() as client:
        counts: Any = client.hlen(UNACKED), client.zcard(UNACKED_INDEX)
    return sum(counts)


def test_eight_share_a_round_trip_and_the_rest_goes_a_little_later(
    redis_server: RedisServer, connection: Connection
) -> None:
    loop = Loop()
    acknowledgements = Acknowledgements(loop.call_later)
    messages = in_hand(connection, 11)
    before = acknowledgements_sent(redis_server)
    for message in messages:
        acknowledgements.answer(message)()
    assert acknowledgements_sent(redis_server) == before + 1
    assert held(redis_server) == 2 * 3
    assert [seconds for seconds, _ in loop.later] == [0.01, 0.01]
    for _, send in loop.later:
        send()
    assert held(redis_server) == 0
    assert all(message.acknowledged for message in messages)
    assert acknowledgements_sent(redis_server) == before + 2
    channel: Any = connection.default_channel
    channel.close()  # puts back what it believes to be in hand
    with redis_server.client() as client:
        assert client.llen(QUEUE) == 0


def test_an_answer_whose_connection_is_lost_is_counted(
    redis_server: RedisServer, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    acknowledgements = Acknowledgements(Loop().call_later)
    messages = in_hand(connection, 3)
    for message in messages:
        acknowledgements.answer(message)()
    channel: Any = connection.default_channel
    with counted() as counts, monkeypatch.context() as lost:
        lost.setattr(channel.connection, "client", None)  # as kombu leaves it
        acknowledgements.send()
    assert counts["answer_unheard"] == 3
    assert held(redis_server) == 2 * 3


@pytest.mark.parametrize(("in_hand_at_most", "together"), [(1, 1), (4, 2), (16, 8), (100, 8)])
def test_they_never_take_more_than_half_of_what_may_be_in_hand(
    redis_server: RedisServer, connection: Connection, in_hand_at_most: int, together: int
) -> None:
    channel: Any = connection.default_channel
    channel.basic_qos(prefetch_count=in_hand_at_most)
    acknowledgements = Acknowledgements(Loop().call_later)
    messages = in_hand(connection, together)
    for message in messages:
        assert held(redis_server) == 2 * together
        acknowledgements.answer(message)()
    assert held(redis_server) == 0


@contextmanager
def refusing(server: RedisServer) -> Iterator[None]:
    """It answers, and takes no writes: as one does that has lost its replicas, or cannot save."""
    with server.client() as client:
        client.config_set("min-replicas-to-write", 1)
        try:
            yield
        finally:
            client.config_set("min-replicas-to-write", 0)


def test_a_refused_acknowledgement_ends_the_connection_from_a_timer_too(
    redis_server: RedisServer, connection: Connection
) -> None:
    """Logged by the timer and no more, it would count as in hand for ever: with its hands full, a worker is stuck."""
    hub: Any = Hub()
    try:
        acknowledgements = Acknowledgements(hub.call_later)
        (message,) = in_hand(connection, 1)
        acknowledgements.answer(message)()
        with refusing(redis_server), pytest.raises(ConnectionError, match="refused to acknowledge or requeue"):
            wait_until(lambda: hub.fire_timers(propagate=connection.connection_errors) is None, "the timer", SOON)
    finally:
        hub.close()


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
@pytest.mark.parametrize(("worker", "applied"), [("patient_acks", 3), ("late_worker", 0)])
def test_a_worker_that_stops_acknowledges_what_it_has_done(site: Site, worker: str, applied: int) -> None:
    """Before the stop or meanwhile. Else they would come back: kombu puts back what was not acknowledged."""
    give_patience(site.publisher, site.broker.url)  # it is told exactly how many are held
    keys = [f"blocked:{worker}{number}" for number in range(3)]
    with site.working("--include", f"tests.integration.consuming.{worker}") as process:
        site.publish_each(*(UserLoggedOut(token_id=f"{worker}{number}") for number in range(3)))
        wait_until(lambda: site.held() == 3 and site.client.exists(*keys) == applied, "all taken", SOON)
    assert site.client.exists(*keys) == 3
    assert process.exit_text == "exited with status 0"
    assert (site.waiting(), site.held()) == (0, 0)


@pytest.mark.usefixtures("patient_publishing")
@pytest.mark.parametrize("count", [1, 10], ids=["the last are sent at the end", "eight are sent before"])
def test_a_worker_that_stops_and_loses_its_broker_ends_all_the_same(redis_site: Site, count: int) -> None:
    redis_site.environment["LATE_WORKER_ENDS_ITS_BROKER"] = "yes"
    with redis_site.working("--include", "tests.integration.consuming.late_worker") as worker:
        redis_site.publish_each(*(UserLoggedOut(token_id=f"last{number}") for number in range(count)))
        wait_until(lambda: redis_site.held() == count, "the messages taken", SOON)
    assert redis_site.client.exists(*(f"blocked:last{number}" for number in range(count))) == count
    assert worker.exit_text == "exited with status 0"
    said = worker.log_tail(1000)
    assert "while the worker stopped, messages were not acknowledged or put back (ConnectionError)" in said
    assert "Traceback" not in said
