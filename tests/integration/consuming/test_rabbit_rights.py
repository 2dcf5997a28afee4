"""A user of RabbitMQ with just the rights that docs/operations/users.md lists can do its part; with one fewer not."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cachekeeper.devservers import RedisServer
from cachekeeper.errors import BrokerUnavailable
from cachekeeper.publishing.publisher import Publisher
from cachekeeper.settings import PublisherSettings
from producers import UserLoggedOut
from testkit.delivering import Site, forget_queues
from testkit.waiting import wait_until
from tests.integration.consuming.broker_workers import Refused
from tests.integration.consuming.rabbit_users import NAME, NOTHING, add_user, ctl, grant

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cachekeeper.devservers import Guardian, MongoServer
    from testkit.servers import RabbitServer

SOON = 60.0
DOCS = Path(__file__).resolve().parents[3] / "docs" / "operations" / "users.md"
EVENT = UserLoggedOut(token_id="t1")
SAYS = "events wait in the broker: RabbitMQ refuses: ACCESS_REFUSED"


@pytest.fixture
def site(
    guardian: Guardian, own_redis: RedisServer, own_rabbit: RabbitServer, mongo_server: MongoServer, database: str
) -> Iterator[Site]:
    """Queues are not yet made."""
    with Site(guardian, own_rabbit, own_redis, mongo_server, database) as site:
        yield site


@pytest.fixture
def url(own_rabbit: RabbitServer) -> str:
    return add_user(own_rabbit)


def rules(role: str) -> list[str]:
    """Configure, write and read, as the docs give them to a user of this role."""
    found = re.search(rf"^rabbitmqctl set_permissions -p VHOST {role} (.*)$", DOCS.read_text("utf-8"), re.MULTILINE)
    assert found is not None
    return shlex.split(found[1])


def one_fewer(given: list[str]) -> Iterator[tuple[str, list[str]]]:
    """The rights without one of the patterns, for each of them."""
    for at, patterns in enumerate(given):
        parts = patterns.split("|")
        for left_out in parts:
            fewer = "|".join(part for part in parts if part != left_out) or NOTHING
            yield f"{('configure', 'write', 'read')[at]} {left_out}", [*given[:at], fewer, *given[at + 1 :]]


def publish(url: str) -> None:
    publisher = Publisher(PublisherSettings(broker_url=url))
    try:
        publisher.publish(EVENT)
    finally:
        publisher.close()


def test_a_publisher(own_rabbit: RabbitServer, url: str) -> None:
    given = rules("publisher")
    grant(own_rabbit, *given)
    publish(url)
    for name, fewer in one_fewer(given):
        forget_queues(own_rabbit)
        grant(own_rabbit, *fewer)
        with pytest.raises(BrokerUnavailable) as told:
            publish(url)
        assert "ACCESS_REFUSED" in str(told.value), name


def test_a_worker(site: Site, own_rabbit: RabbitServer, url: str) -> None:
    given = rules("worker")
    grant(own_rabbit, *given)
    environment = site.worker().environment | {"CACHEKEEPER_BROKER_URL": url}
    site.environment["CACHEKEEPER_BROKER_URL"] = url
    with site.working() as worker:
        site.publish(EVENT)
        wait_until(lambda: site.client.exists("blocked:t1"), "the event applied", SOON)
        assert "refuse" not in worker.log_tail(1000)
    for _name, fewer in one_fewer(given):
        forget_queues(own_rabbit)
        grant(own_rabbit, *fewer)
        worker = Refused(site.guardian, environment)
        worker.says = SAYS
        try:
            worker.start()
        finally:
            worker.kill()


def test_the_cure_that_is_named_cures(site: Site, own_rabbit: RabbitServer, url: str) -> None:
    grant(own_rabbit, NOTHING, NOTHING, NOTHING)
    with pytest.raises(BrokerUnavailable, match="ACCESS_REFUSED") as told:
        publish(url)
    cure = str(told.value).partition("rabbitmqctl ")[2]
    ctl(own_rabbit, *shlex.split(cure))
    assert f" {NAME} " in cure
    publish(url)
    site.environment["CACHEKEEPER_BROKER_URL"] = url
    with site.working():
        wait_until(lambda: site.client.exists("blocked:t1"), "the event applied", SOON)
