"""TLS: every role, on every server, verifies whom it talks to before it says a word, and takes a private authority."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from cachekeeper import BrokerUnavailable, CacheUnavailable, DatabaseUnavailable, Keeper, Settings
from cachekeeper.connections.mongodb import connect_mongodb
from cachekeeper.connections.mongodb_errors import database_errors
from cachekeeper.connections.redis_clients import connect_redis
from cachekeeper.devservers import FoundServer, Guardian, all_redis
from cachekeeper.devservers.ports import free_port
from cachekeeper.devservers.program_process import ProgramProcess
from cachekeeper.devservers.worker_process import WorkerProcess
from cachekeeper.protocol import LazyCluster, Store, cache_errors
from cachekeeper.settings import PublisherSettings
from lookups import is_blocked, read_session, read_user, save_session
from producers import BufferedPublisher, Publisher, UserLoggedOut, UserUpdated, outbox
from testkit.doors import AUTHORIZED, KEY, ask
from testkit.leftovers import CACHEKEEPER, ROOT
from testkit.parts import missing
from testkit.waiting import wait_until
from tests.integration.reading.tls import (
    PASSWORD,
    Authority,
    Impostor,
    TlsMongo,
    TlsRabbit,
    TlsRedis,
    impostor,
    variables,
)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"), "authority")


@pytest.fixture(scope="module")
def certificate(authority: Authority) -> Path:
    """Of a server on this machine."""
    return authority.certificate("server", "IP:127.0.0.1")


@pytest.fixture(scope="module", params=["another authority", "another host"])
def wrong(request: pytest.FixtureRequest, authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate that must not be believed here."""
    if request.param == "another host":
        return authority.certificate("elsewhere", "DNS:elsewhere.example.com")
    return Authority(tmp_path_factory.mktemp("another"), "another").certificate("forged", "IP:127.0.0.1")


@pytest.fixture(scope="module")
def tls_redis_found() -> FoundServer:
    """A Redis that was built with TLS; that of the wheel is not."""
    for found in all_redis():
        said = subprocess.run(
            [found.path, "--tls-port", "1", "--port", "0"], capture_output=True, check=False, timeout=5
        )
        words = said.stdout + said.stderr
        # Redis 8 knows the setting without being able to follow it. One that is able misses a certificate, and no more.
        if b"Bad directive" not in words and b"Failed finding TLS support" not in words:
            return found
    return missing("tls", "none of the Redis servers here was built with it")


@pytest.fixture(scope="module")
def secured_redis(
    guardian: Guardian, tls_redis_found: FoundServer, authority: Authority, certificate: Path
) -> Iterator[TlsRedis]:
    server = TlsRedis(guardian, tls_redis_found)
    server.authority, server.certificate = authority, certificate
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="module")
def secured_mongo(
    guardian: Guardian, mongo_found: FoundServer, authority: Authority, certificate: Path
) -> Iterator[TlsMongo]:
    server = TlsMongo(guardian, mongo_found)
    server.authority, server.certificate = authority, certificate
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="module")
def secured_rabbit(
    guardian: Guardian, rabbit_found: FoundServer, authority: Authority, certificate: Path
) -> Iterator[TlsRabbit]:
    server = TlsRabbit(guardian, rabbit_found)
    server.authority, server.certificate = authority, certificate
    server.start()
    yield server
    server.kill()


# --- whom nobody believes -------------------------------------------------------------------------------------------


def in_a_process(environment: Mapping[str, str], *command: str) -> Callable[[Impostor], None]:
    """Run a program until the impostor has refused it or has been told something, or it has ended."""

    def run(server: Impostor) -> None:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("CACHEKEEPER_")}
        program = subprocess.Popen(
            command, cwd=ROOT, env={**kept, **environment}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            wait_until(
                lambda: server.refused or server.received or program.poll() is not None, "a word or a refusal", 240
            )
        finally:
            program.kill()
            program.wait()

    return run


CELERY = (sys.executable, "-m", "celery", "-A", "worker")


def roles(url: str, others: Mapping[str, str]) -> dict[str, Callable[[Impostor], None]]:
    """Everyone who talks to the broker."""
    environment = {**others, **variables(broker=url)}
    settings = PublisherSettings(broker_url=url, publish_timeout_seconds=2)

    def publish(_: Impostor) -> None:
        publisher = Publisher(settings)
        with pytest.raises(BrokerUnavailable):
            publisher.publish(UserUpdated(user_id="1", name="Ada"))
        publisher.close()

    def publish_buffered(_: Impostor) -> None:
        publisher = Publisher(settings)
        buffered = BufferedPublisher(publisher, flush_on_sigterm=False, max_milliseconds=60_000)
        buffered.publish(UserUpdated(user_id="1", name="Ada"))
        with pytest.raises(BrokerUnavailable):
            buffered.close()
        publisher.close()

    door = {"CACHEKEEPER_HTTP_API_KEYS": KEY, **variables(broker=url)}
    port = str(free_port())

    def ask_a_door(_: Impostor) -> None:
        program = subprocess.Popen(
            [*CACHEKEEPER, "serve", "--port", port],
            cwd=ROOT,
            env={**os.environ, **door},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        try:
            assert program.stdout is not None
            assert program.stdout.readline()
            assert ask(f"http://127.0.0.1:{port}", "/readyz").status == 503
        finally:
            program.kill()
            program.communicate()

    return {
        "publisher": publish,
        "buffered publisher": publish_buffered,
        "door": ask_a_door,
        "relay": in_a_process(environment, *CACHEKEEPER, "relay"),
        "worker": in_a_process(environment, *CELERY, "worker"),
        "inspect": in_a_process(environment, *CELERY, "inspect", "ping"),
    }


EACH = [(role, True) for role in roles("redis://127.0.0.1", {})]
EACH += [("publisher", False), ("worker", False)]  # the others are one of those two, and each costs a process


@pytest.mark.parametrize(("role", "named"), EACH)
@pytest.mark.parametrize("scheme", ["rediss", "amqps"])
def test_a_broker_that_is_another_hears_nothing(
    *, scheme: str, role: str, named: bool, wrong: Path, authority: Authority, mongo_server: Any, database: str
) -> None:
    """Whether the URL names an authority, or leaves it to the system's."""
    with impostor(wrong) as server:
        option = f"?{authority.redis_option}" if named else ""
        url = f"{scheme}://me:{PASSWORD}@127.0.0.1:{server.port}/0{option}"
        mongodb = mongo_server.url_of(database)
        others = variables(redis="redis://127.0.0.1:1", mongodb=mongodb)
        with mongo_server.client() as client, client.start_session() as session, session.start_transaction():
            outbox.add(client[database], session, UserUpdated(user_id="1", name="Ada"))
        roles(url, others)[role](server)


@pytest.mark.parametrize("scheme", ["rediss", "rediss+cluster"])
def test_nor_does_such_a_cache(scheme: str, wrong: Path, authority: Authority) -> None:
    with impostor(wrong) as server:
        client = connect_redis(f"{scheme}://:{PASSWORD}@127.0.0.1:{server.port}?{authority.redis_option}", 5)
        with pytest.raises(CacheUnavailable), cache_errors("reading"):
            Store(client).getter()("key")
        if not isinstance(client, LazyCluster):
            client.close()


def test_nor_such_a_mongodb(wrong: Path, authority: Authority) -> None:
    with impostor(wrong) as server:
        url = f"mongodb://me:{PASSWORD}@127.0.0.1:{server.port}/shop?authSource=admin&{authority.mongodb_option}"
        database = connect_mongodb(url, 2)
        with database.client, pytest.raises(DatabaseUnavailable), database_errors("reading", 2):
            database["users"].find_one()


def test_who_says_so_in_the_url_believes_anybody(wrong: Path) -> None:
    for scheme in ("rediss", "amqps"):
        with Impostor(wrong) as server:
            url = f"{scheme}://me:{PASSWORD}@127.0.0.1:{server.port}/0?ssl_cert_reqs=none"
            publisher = Publisher(PublisherSettings(broker_url=url, publish_timeout_seconds=1))
            with pytest.raises(BrokerUnavailable):
                publisher.probe()
            publisher.close()
            assert (PASSWORD.encode() if scheme == "rediss" else b"AMQP") in server.received


# --- whom everybody believes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["redis", "rabbitmq"])
def test_all_of_it_over_tls_with_a_private_authority(
    kind: str, request: pytest.FixtureRequest, guardian: Guardian, secured_redis: TlsRedis, secured_mongo: TlsMongo
) -> None:
    """Every path of an event, from each publisher through the broker into cache and database."""
    broker = secured_redis.url_of(1) if kind == "redis" else request.getfixturevalue("secured_rabbit").url
    database = f"tls_{kind}"
    urls = {"redis": secured_redis.url, "mongodb": secured_mongo.url_of(database), "broker": broker}
    environment = {**variables(**urls), "CACHEKEEPER_HTTP_API_KEYS": KEY}
    worker = WorkerProcess(guardian, environment)
    relay = ProgramProcess(guardian, environment, command="relay", ready="publishing ")
    stream = ProgramProcess(guardian, environment, command="stream", ready="watching ")
    door = ProgramProcess(guardian, environment, command="serve", ready="http://127.0.0.1:", port=free_port())
    programs = (worker, relay, stream, door)
    keeper = Keeper(
        Settings(
            redis_url=urls["redis"],
            mongodb_url=urls["mongodb"],
            redis_timeout_seconds=2,
            load_timeout_seconds=10,
            lookup_timeout_seconds=30,
            lease_seconds=30,
        )
    )
    publisher = Publisher(PublisherSettings(broker_url=broker, publish_timeout_seconds=20))
    buffered = BufferedPublisher(publisher, flush_on_sigterm=False)
    try:
        for program in programs:
            program.start()
        save_session("s", {"a": 1}, keeper=keeper)
        assert read_session("s", keeper=keeper) == {"a": 1}
        db = keeper.database
        publisher.publish(UserLoggedOut(token_id="by-publisher"))
        buffered.publish(UserLoggedOut(token_id="by-buffer"))
        buffered.flush()
        with db.client.start_session() as session, session.start_transaction():
            outbox.add(db, session, UserLoggedOut(token_id="by-outbox"))
        body = b'{"specversion":"1.0","id":"1","source":"/t","type":"user.logged_out","data":{"token_id":"by-door"}}'
        headers = {**AUTHORIZED, "Content-Type": "application/cloudevents+json"}
        assert ask(f"http://127.0.0.1:{door.port}", "/events", body, headers).status == 202
        for token in ("by-publisher", "by-buffer", "by-outbox", "by-door"):
            wait_until(lambda token=token: is_blocked(token, keeper=keeper), token, 60)  # type: ignore[misc]
        db["users"].insert_one({"_id": 1, "name": "Ada", "version": 1})
        assert read_user(1, keeper=keeper) == "Ada"
        db["users"].update_one({"_id": 1}, {"$set": {"name": "Grace"}, "$inc": {"version": 1}})
        wait_until(lambda: read_user(1, keeper=keeper) == "Grace", "the change stream", 60)
        for command in (("dead", "list"), ("relay", "--check"), ("stream", "--check"), ("warm", "user_name")):
            done = subprocess.run(
                [*CACHEKEEPER, *command],
                cwd=ROOT,
                env={**os.environ, **environment},
                check=False,
                capture_output=True,
                text=True,
                timeout=60,
            )
            assert done.returncode == 0, done.stderr
    finally:
        buffered.close()
        publisher.close()
        keeper.close()
        for program in reversed(programs):
            program.kill()


def test_a_cluster_over_tls(
    guardian: Guardian, tls_redis_found: FoundServer, authority: Authority, certificate: Path
) -> None:
    server = TlsRedis(
        guardian, tls_redis_found, config={"cluster-enabled": "yes", "cluster-port": free_port(), "tls-cluster": "yes"}
    )
    server.authority, server.certificate = authority, certificate
    server.start()
    try:
        with server.client() as client:
            client.execute_command("CLUSTER", "ADDSLOTS", *range(16384))
            wait_until(lambda: b"cluster_state:ok" in client.execute_command("CLUSTER", "INFO"), "the Cluster")
            client.set("key", "value")
        late = connect_redis(server.url.replace("rediss:", "rediss+cluster:"), 5)
        assert Store(late).getter()("key") == b"value"
        late.close()
    finally:
        server.kill()
