"""Servers as child processes: start, stop, kill, freeze, and start again where they were."""

import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import kombu
import psutil
import pymongo
import pytest
import redis
from pymongo.errors import PyMongoError

from cachekeeper.devservers import FoundServer, Guardian, MongoServer, RedisServer, ServerFailed, process
from testkit.leftovers import is_alive
from testkit.servers import RabbitServer
from testkit.waiting import wait_until


def test_every_redis_answers_and_keeps_nothing(any_redis: RedisServer) -> None:
    with any_redis.client() as client:
        assert client.info()["process_id"] == any_redis.pid
        assert client.dbsize() == 0
        assert client.config_get("save") == {"save": ""}
        assert client.config_get("appendonly") == {"appendonly": "no"}
        client.set("seen by the next test", 1)


def test_every_redis_is_empty_again(any_redis: RedisServer) -> None:
    with any_redis.client() as client:
        assert client.dbsize() == 0


def test_redis_restarts_on_its_port_with_or_without_its_data(own_redis: RedisServer) -> None:
    port, pid = own_redis.port, own_redis.pid
    with own_redis.client() as client:
        client.set("name", "Ada")
        own_redis.restart(keep_data=True)
        assert (own_redis.port, own_redis.pid != pid) == (port, True)
        assert client.get("name") == b"Ada"
        own_redis.restart()
        assert own_redis.port == port
        assert client.get("name") is None


def test_redis_that_appends_keeps_what_it_acknowledged_when_killed(
    guardian: Guardian, redis_found: FoundServer
) -> None:
    server = RedisServer(guardian, redis_found, config={"appendonly": "yes"})
    server.start()
    with server.client() as client:
        client.set("name", "Ada")
        server.kill()
        assert server.exit_text == "was killed by SIGKILL"
        server.start()
        assert client.get("name") == b"Ada"
    server.kill()


def test_a_paused_redis_is_silent_and_goes_on_where_it_was(own_redis: RedisServer) -> None:
    with own_redis.client(timeout=60) as client, own_redis.client(timeout=2) as hasty:
        client.set("name", "Ada")
        own_redis.pause()
        assert own_redis.alive
        with pytest.raises(redis.TimeoutError):
            hasty.get("name")
        own_redis.resume()
        assert client.get("name") == b"Ada"
        own_redis.pause()
        own_redis.stop(seconds=60)  # one that stays paused could not end
        assert own_redis.exit_text == "exited with status 0"


def test_a_pause_that_is_undone_meanwhile_ends(own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    kill = os.killpg

    def kill_and_resume(group: int, number: int) -> None:
        kill(group, number)
        if number == signal.SIGSTOP:
            kill(group, signal.SIGCONT)  # as another thread's `resume` does, before this one waits

    monkeypatch.setattr(process, "PAUSE_SECONDS", 0.2)
    monkeypatch.setattr(os, "killpg", kill_and_resume)
    with pytest.raises(ServerFailed, match=r"did not stop within 0\.2 s of SIGSTOP"):
        own_redis.pause()
    assert own_redis.alive


def test_a_server_that_ends_while_it_is_paused_is_not_paused(
    own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    kill = os.killpg

    def kill_and_reap(group: int, _number: int) -> None:
        kill(group, signal.SIGKILL)
        wait_until(lambda: not own_redis.alive, "reaped")  # as another thread's `alive` does

    with monkeypatch.context() as patched:
        patched.setattr(os, "killpg", kill_and_reap)
        with pytest.raises(ServerFailed, match="was killed by SIGKILL and cannot be paused"):
            own_redis.pause()


def test_a_replica_follows(own_redis: RedisServer, guardian: Guardian) -> None:
    with own_redis.client() as client:
        client.set("name", "Ada")
    replica = RedisServer(guardian, own_redis.found, replica_of=own_redis)
    replica.start()
    with replica.client() as client:
        assert client.get("name") == b"Ada"
        assert client.info("replication")["role"] == "slave"
    replica.kill()


def test_a_wrong_directive_fails_the_start_with_the_servers_words(guardian: Guardian, redis_found: FoundServer) -> None:
    server = RedisServer(guardian, redis_found, config={"maxmemory-policy": "whatever"})
    with pytest.raises(ServerFailed, match=r"(?s)redis exited with status 1 while starting.*maxmemory-policy"):
        server.start()
    assert not server.alive


@pytest.fixture
def silent(tmp_path: Path) -> FoundServer:
    """A program that starts and never answers."""
    path = tmp_path / "redis-server"
    path.write_text("#!/bin/sh\necho waiting for nothing\nexec sleep 600\n")
    path.chmod(0o755)
    return FoundServer("redis", "9.9.9", path, "a test")


class HeardFirst(RedisServer):
    """One that has written something before it is asked, however late that is."""

    def _not_ready(self) -> str | None:
        wait_until(self.log_tail, "its first words")
        return super()._not_ready()


def test_a_server_that_is_not_ready_in_time_is_killed(guardian: Guardian, silent: FoundServer) -> None:
    server = HeardFirst(guardian, silent, start_seconds=2)
    with pytest.raises(ServerFailed, match=r"(?s)not ready after 2 s \(.*refused.*waiting for nothing"):
        server.start()
    assert server.exit_text == "was killed by SIGKILL"


def test_a_server_starts_once(own_redis: RedisServer) -> None:
    with pytest.raises(ServerFailed, match="is already running"):
        own_redis.start()
    assert own_redis.alive


def test_a_server_that_never_started_says_so(guardian: Guardian, redis_found: FoundServer) -> None:
    server = RedisServer(guardian, redis_found)
    assert server.exit_text == "was never started"
    server.kill()
    with pytest.raises(ServerFailed, match="was never started and cannot receive SIGSTOP"):
        server.pause()


def test_a_dead_server_gets_no_signals(own_redis: RedisServer) -> None:
    """Its number may be somebody else's."""
    own_redis.kill()
    own_redis.kill()
    with pytest.raises(ServerFailed, match="was killed by SIGKILL and cannot receive SIGSTOP"):
        own_redis.pause()


@pytest.fixture
def taken_first(monkeypatch: pytest.MonkeyPatch, own_redis: RedisServer) -> Iterator[int]:
    """The next free port turns out to be another server's; the ones after that are free."""
    ports = iter([own_redis.port])
    monkeypatch.setattr(process, "free_port", lambda: next(ports, None) or _free())
    yield own_redis.port
    assert next(ports, None) is None, "the taken port was tried"


def _free() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def test_a_port_that_another_server_got_first_is_left_to_it(
    taken_first: int, own_redis: RedisServer, guardian: Guardian
) -> None:
    """The answer to the probe comes from the other one, which must not be taken for this one."""
    server = RedisServer(guardian, own_redis.found)
    server.start()
    assert server.port != taken_first
    with server.client() as client, own_redis.client() as other:
        assert client.info()["process_id"] == server.pid
        assert other.info()["process_id"] == own_redis.pid
    server.kill()


def test_mongo_leaves_a_taken_port_too(taken_first: int, mongo_found: FoundServer, guardian: Guardian) -> None:
    server = MongoServer(guardian, mongo_found)
    server.start()
    assert server.port != taken_first
    server.kill()


def test_a_server_does_not_come_back_on_another_port(
    own_redis: RedisServer, guardian: Guardian, redis_found: FoundServer
) -> None:
    squatter = RedisServer(guardian, redis_found)
    own_redis.kill()
    squatter.port = own_redis.port
    squatter.start()
    with pytest.raises(ServerFailed, match=r"(?i)address already in use"):
        own_redis.start()
    squatter.kill()
    own_redis.start()
    assert own_redis.port == squatter.port


def test_many_start_at_once(guardian: Guardian, redis_found: FoundServer) -> None:
    servers = [RedisServer(guardian, redis_found, name=f"redis-{number}") for number in range(6)]
    threads = [threading.Thread(target=server.start) for server in servers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({server.port for server in servers}) == len(servers)
    for server in servers:
        with server.client() as client:
            assert client.info()["process_id"] == server.pid
        server.kill()


def test_mongo_is_a_replica_set_with_all_that_needs_one(mongo_server: MongoServer, database: str) -> None:
    with mongo_server.client() as client:
        things = client[database].get_collection("things")
        things.insert_one({"_id": 0})
        with things.watch() as stream:
            with client.start_session() as session, session.start_transaction():
                things.insert_one({"_id": 1}, session=session)
            assert stream.next()["documentKey"] == {"_id": 1}
        assert client.admin.command("hello")["setName"] == "cachekeeper"
    assert not Path(f"/tmp/mongodb-{mongo_server.port}.sock").exists(), "a SIGKILL would leave it there"  # noqa: S108
    with pymongo.MongoClient[dict[str, object]](mongo_server.url_of(database)) as client:
        assert client.get_default_database().name == database


def test_mongo_restarts_on_its_port_with_or_without_its_data(own_mongo: MongoServer) -> None:
    port = own_mongo.port
    with own_mongo.client(w="majority") as client:
        client.shop.things.insert_one({"_id": 1})
        own_mongo.restart()
        assert own_mongo.port == port
        assert client.shop.things.count_documents({}) == 1
    own_mongo.restart(keep_data=False)
    assert own_mongo.port == port
    with own_mongo.client() as client:
        assert client.shop.things.count_documents({}) == 0


def test_mongo_moves_to_another_port_with_its_data(own_mongo: MongoServer) -> None:
    """As with `cachekeeper dev --data`: the stored replica set names the old one."""
    with own_mongo.client(w="majority") as client:
        client.shop.things.insert_one({"_id": 1})
    own_mongo.stop()
    assert own_mongo.exit_text == "exited with status 0"
    old, own_mongo.port = own_mongo.port, 0
    own_mongo.start()
    assert own_mongo.port != old
    with own_mongo.client(w="majority") as client:
        assert client.shop.things.count_documents({}) == 1
        client.shop.things.insert_one({"_id": 2})


@pytest.mark.skipif(sys.platform != "linux", reason="only /proc tells the state of each thread")
def test_a_server_is_paused_with_all_its_threads_when_pause_returns(own_mongo: MongoServer) -> None:
    for _ in range(50):
        own_mongo.pause()
        threads = list(Path(f"/proc/{own_mongo.pid}/task").iterdir())
        states = [(each / "stat").read_text("utf-8").rpartition(")")[2].split()[0] for each in threads]
        assert set(states) == {"T"}
        assert len(states) > 10
        own_mongo.resume()


def test_a_paused_mongo_is_silent_and_goes_on_where_it_was(own_mongo: MongoServer) -> None:
    with own_mongo.client() as client:
        client.shop.things.insert_one({"_id": 1})
        own_mongo.pause()
        with pytest.raises(PyMongoError), pymongo.timeout(3):
            client.shop.things.find_one()
        own_mongo.resume()
    with own_mongo.client() as client:
        assert client.shop.things.find_one() == {"_id": 1}


def test_rabbit_takes_messages_and_keeps_them_across_a_kill(own_rabbit: RabbitServer) -> None:
    port = own_rabbit.port
    _publish(own_rabbit, "kept")
    own_rabbit.restart(keep_data=True)
    assert own_rabbit.port == port
    assert _consume(own_rabbit) == "kept"
    mapper = psutil.Process(own_rabbit.epmd.pid)
    below = psutil.Process(own_rabbit.pid).children(recursive=True)
    assert any("beam" in child.name() for child in below)
    own_rabbit.kill()
    assert not mapper.is_running()
    wait_until(lambda: not any(is_alive(child) for child in below), "Erlang's helpers have noticed")


def test_a_paused_rabbit_accepts_connections_and_says_nothing(rabbit_server: RabbitServer) -> None:
    rabbit_server.pause()
    try:
        with pytest.raises(TimeoutError), kombu.Connection(rabbit_server.url, connect_timeout=0.5) as connection:
            connection.connect()
    finally:
        rabbit_server.resume()
    _publish(rabbit_server, "after")
    assert _consume(rabbit_server) == "after"


def _publish(server: RabbitServer, body: str) -> None:
    options = {"confirm_publish": True}
    with kombu.Connection(server.url, transport_options=options) as connection:
        queue = connection.SimpleQueue("embedded-test")
        queue.put(body, delivery_mode="persistent")
        queue.close()


def _consume(server: RabbitServer) -> str:
    with kombu.Connection(server.url) as connection:
        queue = connection.SimpleQueue("embedded-test")
        message = queue.get(timeout=10)
        message.ack()
        queue.close()
        return str(message.payload)
