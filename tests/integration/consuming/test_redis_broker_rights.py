"""A user of a Redis broker with the rights that docs/operations/users.md lists can do its part; with one fewer not."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import redis
from kombu.exceptions import OperationalError
from kombu.pidbox import Mailbox

from cachekeeper.broker.names import CONTROL_EXCHANGE, UNACKED
from cachekeeper.broker.queues import transport_options, work_queue
from cachekeeper.consuming.redis_channel import Connection
from cachekeeper.devservers import RedisServer
from cachekeeper.errors import BrokerUnavailable
from cachekeeper.publishing.publisher import Publisher
from cachekeeper.settings import PublisherSettings
from producers import UserLoggedOut
from testkit.delivering import Site
from testkit.full_brokers import full
from testkit.waiting import wait_until
from tests.integration.consuming.broker_workers import Refused

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cachekeeper.devservers import Guardian, MongoServer

SOON = 60.0
DOCS = Path(__file__).resolve().parents[3] / "docs" / "operations" / "users.md"
EVENT = UserLoggedOut(token_id="t1")
DEADLINES = "cachekeeper.binding_deadlines"


def publish(_: RedisServer, url: str) -> None:
    """What a publisher does."""
    publisher = Publisher(PublisherSettings(broker_url=url))
    try:
        publisher.publish(EVENT)
    finally:
        publisher.close()


def mailbox() -> Any:
    return Mailbox(CONTROL_EXCHANGE, type="fanout", queue_expires=10.0, reply_queue_expires=10.0, accept=["json"])


def connected(url: str) -> Any:
    return Connection(url, transport_options=transport_options(url, 5.0))


def work(server: RedisServer, url: str) -> None:
    """What a worker asks of its broker, whatever happens: a ping, an outage of the cache, a full broker."""
    publish(server, server.url)
    held: list[Any] = []
    asked: list[str] = []
    with connected(server.url) as asking, connected(url) as connection, server.client() as client:
        node = mailbox()(connection).Node(
            "celery@host", channel=connection.channel(), handlers={"ping": lambda *_, **__: asked.append("ping")}
        )
        listening = node.listen(callback=node.handle_message)
        channel = connection.default_channel
        connection.Consumer([work_queue(url)], on_message=held.append).consume()

        def drain(until: Callable[[], object]) -> None:
            while not until():
                connection.drain_events(timeout=5)

        def paused() -> bool:
            with contextlib.suppress(TimeoutError):
                connection.drain_events(timeout=0.1)
            return int(channel._pauses) >= 2

        drain(lambda: held)
        held.pop().reject(requeue=True)
        drain(lambda: held)
        channel.qos._vrestore_count = 0
        channel.visibility_timeout = -1  # a message that was taken in this second is overdue, too
        channel.qos.restore_visible()
        drain(lambda: len(held) == 2)
        held[1].ack()
        box = mailbox()(asking)
        reply = box.get_reply_queue()(asking.default_channel)
        reply.declare()
        box._publish("ping", {}, reply_ticket="ticket", channel=asking.default_channel)
        drain(lambda: asked)
        assert client.llen(reply.name) == 1
        with full(server):
            box._publish("ping", {}, reply_ticket="ticket", channel=asking.default_channel)
            drain(lambda: len(asked) == 2)
            assert client.llen(reply.name) == 2
            wait_until(paused, "a second pause, which is after an answer to the first", SOON)
        client.zadd(DEADLINES, {f"reply.{CONTROL_EXCHANGE}.pidbox": 0})
        channel.sweep_bindings()
        listening.cancel()
        assert client.zscore(DEADLINES, f"reply.{CONTROL_EXCHANGE}.pidbox") is None


ROLES: dict[str, Callable[[RedisServer, str], None]] = {"publisher": publish, "consumer": work}


def rules(role: str) -> list[str]:
    """What the docs give a user of this role."""
    found = re.search(rf"^ACL SETUSER {role} on >PASSWORD (.*(?:\n  .*)*)", DOCS.read_text("utf-8"), re.MULTILINE)
    assert found is not None
    return found[1].split()


def given(server: RedisServer, role: str) -> list[str]:
    """These rights, as this server's version knows them."""
    with server.client() as client:
        version: Any = client.info("server")["redis_version"]
    whole = rules(role)
    if int(version.partition(".")[0]) < 7:
        whole = [each.partition("|")[0] for each in whole]
    return list(dict.fromkeys(whole))


def set_user(client: redis.Redis, role: str, rights: list[str]) -> None:
    client.execute_command("ACL", "SETUSER", role, "reset", "resetchannels", "on", ">secret", *rights)  # type: ignore[no-untyped-call]
    client.acl_log_reset()


def url_of(server: RedisServer, role: str) -> str:
    return server.url.replace("//", f"//{role}:secret@")


def refused(client: redis.Redis) -> list[str]:
    entries: list[Any] = client.acl_log()
    return [entry["object"] for entry in entries if not entry["object"].startswith("client")]


@pytest.mark.parametrize("role", ROLES)
def test_the_rights_that_the_docs_list(any_redis: RedisServer, role: str) -> None:
    rights = given(any_redis, role)
    with any_redis.client() as client:
        set_user(client, role, rights)
        ROLES[role](any_redis, url_of(any_redis, role))
        assert refused(client) == []
        for right in rights:
            client.flushall()
            client.script_flush()
            set_user(client, role, [each for each in rights if each != right])
            # Of these, AttributeError is kombu's, where it closes a channel that it could not make.
            with contextlib.suppress(BrokerUnavailable, OperationalError, redis.ResponseError, AttributeError):
                ROLES[role](any_redis, url_of(any_redis, role))
            assert refused(client), f"{right} is not needed"


@pytest.fixture
def site(
    guardian: Guardian, own_redis: RedisServer, any_redis: RedisServer, mongo_server: MongoServer, database: str
) -> Iterator[Site]:
    environment = {"CACHEKEEPER_BROKER_URL": url_of(any_redis, "consumer")}
    with Site(guardian, any_redis, own_redis, mongo_server, database, environment) as site:
        yield site


def test_a_worker_and_a_publisher_with_these_rights(site: Site, any_redis: RedisServer) -> None:
    with any_redis.client() as client:
        for role in (*ROLES, "operator"):
            set_user(client, role, given(any_redis, role))
        worker = Refused(site.guardian, site.worker().environment)  # with nothing to say: it is ready at once
        worker.start()
        try:
            publish(any_redis, url_of(any_redis, "publisher"))
            wait_until(lambda: site.client.exists("blocked:t1"), "the event applied", SOON)
            wait_until(lambda: not client.hlen(UNACKED), "the message acknowledged", SOON)
            with connected(url_of(any_redis, "operator")) as asking:
                ask: Any = mailbox()(asking)
                wait_until(lambda: ask._broadcast("ping", reply=True, timeout=1, limit=1), "an answer to a ping", SOON)
            worker.stop()
            assert worker.exit_text == "exited with status 0"
        finally:
            worker.kill()
        assert refused(client) == []
        assert "refuse" not in worker.log_tail(1000)


@pytest.mark.parametrize("sign", ["~", "&"])
def test_the_cure_that_is_named_cures(site: Site, any_redis: RedisServer, sign: str) -> None:
    rights = [each for each in given(any_redis, "consumer") if not each.startswith(sign)]
    publish(any_redis, any_redis.url)
    worker = Refused(site.guardian, site.worker().environment)
    worker.says = "events wait in the broker: Redis refuses: "
    with any_redis.client() as client:
        set_user(client, "consumer", rights)
        try:
            worker.start()
            cure = re.search(r"grant it (\S+?)(,|$)", worker.log_tail(1000), re.MULTILINE)
            assert cure is not None
            set_user(client, "consumer", [*rights, cure[1].replace("/N.", "/0.")])
            wait_until(lambda: site.client.exists("blocked:t1"), "the event applied", SOON)
            wait_until(client.pubsub_numpat, "a worker that hears of control commands", SOON)
            assert refused(client) == []
        finally:
            worker.kill()
