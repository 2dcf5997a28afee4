"""A Redis broker that refuses writes: a worker and a publisher say in one sentence what, and how that is mended."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest
import redis

from cachekeeper.devservers import RedisServer
from cachekeeper.errors import BrokerUnavailable
from cachekeeper.publishing.publisher import Publisher
from cachekeeper.settings import PublisherSettings
from producers import UserLoggedOut
from testkit.delivering import Site
from testkit.waiting import wait_until
from tests.integration.consuming.broker_workers import Refused

if TYPE_CHECKING:
    from collections.abc import Callable


OWN = "delete that key, or name another database in CACHEKEEPER_BROKER_URL"
BINDING = "_kombu.binding.cachekeeper"


def holds(key: str, kind: str) -> Callable[[RedisServer, redis.Redis], None]:
    def make(_: RedisServer, client: redis.Redis) -> None:
        if kind == "set":
            client.sadd(key, "theirs")
        elif kind == "list":
            client.rpush(key, "theirs")
        else:
            client.set(key, "theirs")

    return make


def setting(name: str, value: str) -> Callable[[RedisServer, redis.Redis], None]:
    def make(_: RedisServer, client: redis.Redis) -> None:
        client.config_set(name, value)

    return make


def replica(_: RedisServer, client: redis.Redis) -> None:
    client.replicaof("127.0.0.1", "1")


def cannot_save(server: RedisServer, client: redis.Redis) -> None:
    """Its directory is gone."""
    client.config_set("save", "3600 1")
    shutil.rmtree(server.data)
    client.bgsave()
    wait_until(lambda: client.info("persistence")["rdb_last_bgsave_status"] == "err", "a save that failed", 20)


def no_key(_: RedisServer, client: redis.Redis) -> None:
    client.acl_setuser("default", enabled=True, reset_keys=True, keys=["theirs:*"])


def no_command(_: RedisServer, client: redis.Redis) -> None:
    client.acl_setuser("default", enabled=True, commands=["-lpush", "-eval", "-evalsha"])


def nothing(_: RedisServer, __: redis.Redis) -> None:
    pass


USER = "the user in CACHEKEEPER_BROKER_URL has no permission for"
READONLY = "it is a read-only replica; name the primary in CACHEKEEPER_BROKER_URL"
SAYS: dict[str, tuple[Callable[[RedisServer, redis.Redis], None], str]] = {
    "the queue is a set": (holds("cachekeeper", "set"), f"the key cachekeeper is a set, not a list; {OWN}"),
    "a binding is a string": (holds(BINDING, "string"), f"the key {BINDING} is a string, not a set; {OWN}"),
    "a replica": (replica, READONLY),
    "too few replicas": (
        setting("min-replicas-to-write", "1"),
        "it takes no writes, because fewer replicas are connected than min-replicas-to-write; connect more replicas",
    ),
    "it cannot save": (cannot_save, "it takes no writes, because it could not save to its disk; see its log"),
    "a database that is not there": (
        nothing,
        "it has no database with the number in CACHEKEEPER_BROKER_URL; use a lower one",
    ),
    "no right to a key": (no_key, f"{USER} a key of cachekeeper; grant it ~*cachekeeper*"),
}
PUBLISHER = SAYS | {"no right to a command": (no_command, f"{USER} the command LPUSH; grant it that command")}
WORKER = SAYS | {
    "the unacked are a list": (
        holds("cachekeeper.unacked", "list"),
        f"the key cachekeeper.unacked is a list, not a hash; {OWN}",
    ),
    "their index is a string": (
        holds("cachekeeper.unacked_index", "string"),
        f"the key cachekeeper.unacked_index is a string, not a zset; {OWN}",
    ),
    "a binding of the control exchange is a string": (
        holds(f"{BINDING}.pidbox", "string"),
        f"the key {BINDING}.pidbox is a string, not a set; {OWN}",
    ),
    "no right to a command": (no_command, f"{USER} the command EVAL; grant it that command"),
}


def prepared(redis_site: Site, make: Callable[[RedisServer, redis.Redis], None], how: str) -> str:
    """The broker's URL, and the broker in the state that it is to be found in."""
    assert isinstance(redis_site.broker, RedisServer)
    with redis_site.broker.client() as client:
        make(redis_site.broker, client)
    url = redis_site.broker.url
    return url.rsplit("/", 1)[0] + "/99" if how == "a database that is not there" else url


@pytest.mark.parametrize("how", PUBLISHER)
def test_a_publisher_says_what_redis_refuses(redis_site: Site, how: str) -> None:
    make, says = PUBLISHER[how]
    publisher = Publisher(PublisherSettings(broker_url=prepared(redis_site, make, how)))
    try:
        with pytest.raises(BrokerUnavailable) as told:
            publisher.publish(UserLoggedOut(token_id="t1"))
    finally:
        publisher.close()
    assert f"Redis refuses: {says}" in str(told.value)


@pytest.mark.parametrize("how", WORKER)
def test_a_worker_says_what_redis_refuses_and_ends_when_it_is_told_to(redis_site: Site, how: str) -> None:
    make, says = WORKER[how]
    if "unacked" in how or "index" in how:
        redis_site.publish(UserLoggedOut(token_id="t1"))
    environment = redis_site.worker().environment | {"CACHEKEEPER_BROKER_URL": prepared(redis_site, make, how)}
    worker = Refused(redis_site.guardian, environment)
    worker.says = f"events wait in the broker: Redis refuses: {says}"
    try:
        worker.start()
        if "control exchange" in how:  # the worker has a consumer, whose connection is lost
            wait_until(lambda: worker.log_tail(1000).count("Connection to broker lost") >= 3, "three attempts", 60)
        worker.stop()
        said = worker.log_tail(1000)
        assert worker.exit_text == "exited with status 0"
        assert said.count("events wait in the broker") == 1
        assert "Traceback" not in said
    finally:
        worker.kill()
