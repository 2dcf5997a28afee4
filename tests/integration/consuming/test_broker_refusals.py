"""A broker that refuses whoever asks again: one sentence says what differs, and the worker asks ever more seldom."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest
from kombu import Connection

from cachekeeper.broker.names import DEAD_QUEUE, QUEUE
from cachekeeper.broker.queues import DELIVERY_LIMIT
from cachekeeper.devservers import RedisServer
from cachekeeper.errors import BrokerUnavailable
from cachekeeper.publishing.publisher import Publisher
from cachekeeper.settings import PublisherSettings
from producers import UserLoggedOut
from testkit.delivering import Site, forget_queues
from testkit.waiting import wait_until
from tests.integration.consuming.broker_workers import Refused

if TYPE_CHECKING:
    from collections.abc import Iterator

    import redis

    from cachekeeper.devservers import Guardian, MongoServer
    from testkit.servers import RabbitServer

SOON = 60.0
LOGIN = "accepting AMQP connection"
DEAD = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": DEAD_QUEUE}
CLASSIC = {"x-queue-type": "classic", **DEAD}
OTHER_LIMIT = {"x-queue-type": "quorum", "x-delivery-limit": DELIVERY_LIMIT - 1, **DEAD}


@pytest.fixture
def site(
    guardian: Guardian, own_redis: RedisServer, rabbit_server: RabbitServer, mongo_server: MongoServer, database: str
) -> Iterator[Site]:
    forget_queues(rabbit_server)
    with Site(guardian, rabbit_server, own_redis, mongo_server, database) as site:
        yield site
    forget_queues(rabbit_server)


def refused(site: Site, url: str, says: str) -> Refused:
    environment = site.worker().environment | {"CACHEKEEPER_BROKER_URL": url}
    worker = Refused(site.guardian, environment)
    worker.says = says
    worker.start()
    return worker


def logins(broker: Any) -> int:
    said: str = broker.log_tail(100_000)
    return said.count(LOGIN)


def declare(broker: RabbitServer, arguments: dict[str, Any]) -> None:
    with Connection(broker.url) as connection:
        channel: Any = connection.default_channel
        channel.queue_declare(QUEUE, durable=True, auto_delete=False, arguments=arguments)


def url_of(broker: RabbitServer, *, login: str = "guest:guest", vhost: str = "/") -> str:
    return broker.url.replace("guest:guest@", f"{login}@").removesuffix("//") + f"/{vhost}"


@pytest.mark.parametrize(
    ("how", "says"),
    [
        (
            "password",
            "the broker refuses the login: the user or the password in CACHEKEEPER_BROKER_URL is wrong or missing",
        ),
        ("vhost", "vhost elsewhere not found; create the vhost that CACHEKEEPER_BROKER_URL names"),
        ("queue type", "inequivalent arg 'x-queue-type' for queue 'cachekeeper' in vhost '/'"),
        ("arguments", "inequivalent arg 'x-delivery-limit' for queue 'cachekeeper' in vhost '/'"),
    ],
)
def test_a_worker_says_once_what_differs_and_asks_ever_more_seldom(
    site: Site, rabbit_server: RabbitServer, how: str, says: str
) -> None:
    url = {
        "password": url_of(rabbit_server, login="guest:not-its-password"),
        "vhost": url_of(rabbit_server, vhost="elsewhere"),
    }.get(how, rabbit_server.url)
    if how in {"queue type", "arguments"}:
        declare(rabbit_server, CLASSIC if how == "queue type" else OTHER_LIMIT)
    worker = refused(site, url, says)
    try:
        # The pauses before five further attempts are 3.75 s at the least; without them there are 70 attempts a second.
        before, began = logins(rabbit_server), time.monotonic()
        wait_until(lambda: logins(rabbit_server) - before >= 5, "five further attempts", SOON)
        assert time.monotonic() - began > 3
        said = worker.log_tail(1000)
        assert len([line for line in said.splitlines() if "events wait in the broker" in line and says in line]) == 1
        assert "Traceback" not in said
        assert "not-its-password" not in said
        worker.stop()
        assert worker.exit_text == "exited with status 0"
    finally:
        worker.kill()


def test_a_worker_goes_on_by_itself_once_the_queue_is_right(site: Site, rabbit_server: RabbitServer) -> None:
    declare(rabbit_server, CLASSIC)
    worker = refused(site, rabbit_server.url, "inequivalent arg 'x-queue-type'")
    try:
        forget_queues(rabbit_server)
        site.publish(UserLoggedOut(token_id="t1"))
        wait_until(lambda: site.client.exists("blocked:t1"), "the event applied", SOON)
    finally:
        worker.kill()


def test_a_publisher_is_told_what_differs(site: Site, rabbit_server: RabbitServer) -> None:
    declare(rabbit_server, CLASSIC)
    for url, says in (
        (rabbit_server.url, r"inequivalent arg 'x-queue-type' for queue 'cachekeeper'.*delete that queue"),
        (url_of(rabbit_server, login="guest:not-its-password"), "the user or the password in CACHEKEEPER_BROKER_URL"),
    ):
        publisher = Publisher(PublisherSettings(broker_url=url))
        try:
            with pytest.raises(BrokerUnavailable, match=says) as told:
                publisher.publish(UserLoggedOut(token_id="t1"))
            assert "not-its-password" not in str(told.value)
        finally:
            publisher.close()
    assert site.letters == []


# --- Redis as the broker

WRONG_LOGIN = "the broker refuses the login: the user or the password in CACHEKEEPER_BROKER_URL is wrong or missing"
REDIS_REFUSES: dict[str, tuple[str, str]] = {
    "a wrong password": (":not-it-1234@", WRONG_LOGIN),
    "no password": ("", WRONG_LOGIN),
}


def refusals(client: redis.Redis) -> int:
    """How often Redis has refused a login or a command."""
    counts: dict[str, Any] = client.info("errorstats")
    names = ("errorstat_WRONGPASS", "errorstat_NOAUTH", "errorstat_NOPERM")
    return sum(int(counts[name]["count"]) for name in names if name in counts)


@pytest.mark.parametrize("how", REDIS_REFUSES)
def test_a_worker_says_once_what_redis_refuses_and_goes_on_once_it_is_mended(redis_site: Site, how: str) -> None:
    login, says = REDIS_REFUSES[how]
    broker = redis_site.broker
    assert isinstance(broker, RedisServer)
    # A connection that is logged in stays so, whatever password is asked for later.
    with broker.client() as client:
        client.ping()
        client.config_set("requirepass", "right-1234")
        worker = refused(
            redis_site, broker.url.replace("redis://", f"redis://{login}"), f"events wait in the broker: {says}"
        )
        try:
            before, began = refusals(client), time.monotonic()
            wait_until(lambda: refusals(client) - before >= 5, "further attempts", SOON)
            assert time.monotonic() - began > 1
            if how == "no password":
                client.config_set("requirepass", "")
            else:
                client.config_set("requirepass", "not-it-1234")
            if how == "no password":
                redis_site.publish(UserLoggedOut(token_id="t1"))
                wait_until(lambda: redis_site.client.exists("blocked:t1"), "the event applied", SOON)
            else:
                wait_until(lambda: any(each["cmd"] == "blmove" for each in client.client_list()), "a consumer", SOON)
            said = worker.log_tail(1000)
            assert said.count("events wait in the broker") == 1
            assert "Trying again in" not in said
            assert "Traceback" not in said
            assert "-1234" not in said
            worker.stop()
            assert worker.exit_text == "exited with status 0"
        finally:
            worker.kill()
