"""What a worker answers a Redis broker: acknowledgements share a round trip, and none is forgotten."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest
from kombu import Connection

from cachekeeper.delivery.answers import Acknowledgements
from cachekeeper.delivery.broker import QUEUE, work_queue
from producers import UserLoggedOut
from tests.shop import counted
from tests.waiting import wait_until

if TYPE_CHECKING:
    from cachekeeper.embedded import RedisServer
    from tests.real.delivering import Site

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


def transactions(server: RedisServer) -> int:
    """How many were executed."""
    with server.client() as client:
        found: Any = client.info("commandstats")
    return int(found.get("cmdstat_exec", {}).get("calls", 0))


def held(server: RedisServer) -> int:
    with server.client() as client:
        counts: Any = client.hlen("unacked"), client.zcard("unacked_index")
    return sum(counts)


def test_eight_share_a_round_trip_and_the_rest_goes_a_little_later(
    redis_server: RedisServer, connection: Connection
) -> None:
    loop = Loop()
    acknowledgements = Acknowledgements(loop.call_later)
    messages = in_hand(connection, 11)
    before = transactions(redis_server)
    for message in messages:
        acknowledgements.answer(message)()
    assert transactions(redis_server) == before + 1
    assert held(redis_server) == 2 * 3
    assert [seconds for seconds, _ in loop.later] == [0.01, 0.01]
    for _, send in loop.later:
        send()
    assert held(redis_server) == 0
    assert transactions(redis_server) == before + 2
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


@pytest.mark.parametrize("site", ["redis"], indirect=True)
def test_a_worker_that_stops_acknowledges_what_it_has_done(site: Site) -> None:
    """Else they would come back: kombu puts back what was not acknowledged."""
    with site.working("--include", "tests.real.patient_acks") as worker:
        site.publish_each(*(UserLoggedOut(token_id=f"last{n}") for n in range(3)))
        wait_until(lambda: site.client.exists(*(f"blocked:last{n}" for n in range(3))) == 3, "all applied", SOON)
        assert site.held() == 3
    assert worker.exit_text == "exited with status 0"
    assert (site.waiting(), site.held()) == (0, 0)
