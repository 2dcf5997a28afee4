"""A RabbitMQ that refuses for a limit or a lock: the cure fits the cause, and a worker ends without a traceback."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest
from kombu import Connection

from cachekeeper.broker.names import CONTROL_EXCHANGE, QUEUE
from cachekeeper.devservers import RedisServer
from cachekeeper.errors import BrokerUnavailable
from cachekeeper.publishing.publisher import Publisher
from cachekeeper.settings import PublisherSettings
from producers import UserLoggedOut
from testkit.delivering import Site, forget_queues
from testkit.waiting import wait_until
from tests.integration.consuming.broker_workers import Refused
from tests.integration.consuming.rabbit_users import NAME, add_user, ctl, grant

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cachekeeper.devservers import FoundServer, Guardian, MongoServer
    from testkit.servers import RabbitServer

SOON = 60.0
RAISE = "; raise that limit in RabbitMQ"


@pytest.fixture(scope="module")
def rabbit(guardian: Guardian, rabbit_found: FoundServer) -> Iterator[RabbitServer]:
    from testkit.servers import RabbitServer  # noqa: PLC0415

    server = RabbitServer(guardian, rabbit_found)
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="module")
def url(rabbit: RabbitServer) -> str:
    url = add_user(rabbit)
    grant(rabbit, ".*", ".*", ".*")
    return url


@pytest.fixture
def site(
    guardian: Guardian, own_redis: RedisServer, rabbit: RabbitServer, mongo_server: MongoServer, database: str
) -> Iterator[Site]:
    with Site(guardian, rabbit, own_redis, mongo_server, database) as site:
        yield site


def refused(url: str) -> str:
    """What a publisher is told."""
    publisher = Publisher(PublisherSettings(broker_url=url))
    try:
        with pytest.raises(BrokerUnavailable) as told:
            publisher.publish(UserLoggedOut(token_id="t1"))
    finally:
        publisher.close()
    return str(told.value)


def test_limits_of_users_and_vhosts(rabbit: RabbitServer, url: str) -> None:
    forget_queues(rabbit)
    for words, undo, says in (
        (("set_user_limits", NAME, '{"max-connections": 0}'), ("clear_user_limits", NAME, "all"), "connection limit"),
        (("set_vhost_limits", '{"max-connections": 0}'), ("clear_vhost_limits",), "connection limit"),
        (("set_vhost_limits", '{"max-queues": 0}'), ("clear_vhost_limits",), "queue limit"),
    ):
        ctl(rabbit, *words)
        said = refused(url)
        ctl(rabbit, *undo)
        assert says in said
        assert RAISE in said


def test_a_queue_that_another_connection_has_for_itself(rabbit: RabbitServer, url: str) -> None:
    forget_queues(rabbit)
    with Connection(rabbit.url) as connection:
        channel: Any = connection.default_channel
        channel.queue_declare(QUEUE, exclusive=True)
        said = refused(url)
    assert "RESOURCE_LOCKED" in said
    assert "another connection has declared it as exclusive" in said


def control_exchange_of_another_type(rabbit: RabbitServer) -> None:
    with Connection(rabbit.url) as connection:
        channel: Any = connection.default_channel
        channel.exchange_declare(f"{CONTROL_EXCHANGE}.pidbox", "direct", durable=False, auto_delete=False)


def one_channel(rabbit: RabbitServer) -> None:
    ctl(rabbit, "set_user_limits", NAME, '{"max-channels": 1}')


MAKES = {
    "the control exchange has another type": (control_exchange_of_another_type, "inequivalent arg 'type' for exchange"),
    "one channel for each connection": (one_channel, RAISE),
}


@pytest.mark.parametrize("how", MAKES)
def test_a_worker_ends_without_a_traceback_while_it_is_refused(
    site: Site, rabbit: RabbitServer, url: str, how: str
) -> None:
    make, says = MAKES[how]
    forget_queues(rabbit)
    make(rabbit)
    worker = Refused(site.guardian, site.worker().environment | {"CACHEKEEPER_BROKER_URL": url})
    worker.says = says
    try:
        worker.start()
        # Also where it has lost several connections, and is told to end in a pause between two of them.
        wait_until(lambda: worker.log_tail(1000).count("Connection to broker lost") >= 3, "three attempts", SOON)
        began = time.monotonic()
        worker.stop()
        assert time.monotonic() - began < SOON
        said = worker.log_tail(1000)
        assert worker.exit_text == "exited with status 0"
        assert "Traceback" not in said, said
        assert "Error on stopping" not in said, said
    finally:
        worker.kill()
        ctl(rabbit, "clear_user_limits", NAME, "all")
        with Connection(rabbit.url) as connection:
            channel: Any = connection.default_channel
            channel.exchange_delete(f"{CONTROL_EXCHANGE}.pidbox")
