"""A reader that Redis refuses answers from MongoDB, and says once for each server and cause what is wrong."""

from __future__ import annotations

import logging
import socket
import ssl
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
import redis

from cachekeeper.errors import CacheUnavailable
from cachekeeper.protocol.refusals import server_name, warn_if_refused
from lookups import read_user
from testkit.limits import NOWHERE, PATIENT
from testkit.shop import Shop

if TYPE_CHECKING:
    from cachekeeper.devservers import RedisServer


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "cachekeeper"]


def reads(shop: Shop, url: str, caplog: pytest.LogCaptureFixture) -> str:
    """Read twice, past the breaker's pause, and return the one warning."""
    keeper = shop.keeper(redis_url=url, **PATIENT)
    with caplog.at_level(logging.WARNING, "cachekeeper"):
        for _ in range(2):
            for reader in keeper._parts().readers.values():
                reader.breaker.succeeded()
            assert read_user(1, keeper=keeper) == "Ann"
    (said,) = warnings(caplog)
    assert "secret" not in said
    return said


def test_a_wrong_password(stocked: Shop, own_redis: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    with own_redis.client() as client:
        client.execute_command("ACL", "SETUSER", "shop", "on", ">other", "~*", "+@all")
    said = reads(stocked, own_redis.url.replace("//", "//shop:secret@"), caplog)
    assert (
        said
        == f"Redis at 127.0.0.1:{own_redis.port}: it refuses the user name or the password; correct them in the URL"
    )


def test_no_permission_for_a_command(stocked: Shop, own_redis: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    with own_redis.client() as client:
        client.execute_command("ACL", "SETUSER", "shop", "on", ">secret", "~*", "-@all", "+ping")
    said = reads(stocked, own_redis.url.replace("//", "//shop:secret@").removesuffix("/0"), caplog)
    assert "no permission for the command get; give it the rights" in said


def test_no_permission_for_a_key(stocked: Shop, own_redis: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    with own_redis.client() as client:
        client.execute_command("ACL", "SETUSER", "shop", "on", ">secret", "~other:*", "+@all")
    said = reads(stocked, own_redis.url.replace("//", "//shop:secret@").removesuffix("/0"), caplog)
    assert "no permission for a command or a key; give it the rights" in said


def test_an_unknown_host(stocked: Shop, caplog: pytest.LogCaptureFixture) -> None:
    said = reads(stocked, "redis://:secret@cache.invalid:6379/0", caplog)
    assert said.startswith("Redis at cache.invalid:6379: its host name is unknown; correct")


def test_an_unknown_host_of_a_cluster(stocked: Shop, caplog: pytest.LogCaptureFixture) -> None:
    said = reads(stocked, "redis+cluster://:secret@cache.invalid:7000", caplog)
    assert said.startswith("Redis at cache.invalid:7000: its host name is unknown; correct")


def test_an_error_that_the_caller_handles_is_not_the_servers(stocked: Shop, caplog: pytest.LogCaptureFixture) -> None:
    """Redis refuses a command of the caller's own. Meanwhile ours does not answer: an outage, nothing to correct."""
    keeper = stocked.keeper(redis_url=NOWHERE, **PATIENT)
    with caplog.at_level(logging.WARNING, "cachekeeper"):
        try:
            stocked.redis.eval("return redis.error_reply('unknown command')", 0)
        except redis.ResponseError:
            assert read_user(1, keeper=keeper) == "Ann"
    assert warnings(caplog) == []


@pytest.mark.parametrize("auth", ["", ":secret@"])
def test_a_server_that_is_no_cluster(
    stocked: Shop, own_redis: RedisServer, caplog: pytest.LogCaptureFixture, auth: str
) -> None:
    if auth:
        with own_redis.client() as client:
            client.config_set("requirepass", "secret")
    said = reads(stocked, f"redis+cluster://{auth}127.0.0.1:{own_redis.port}", caplog)
    assert said == (
        f"Redis at 127.0.0.1:{own_redis.port}: it is not a Cluster; begin the URL with redis:// (or rediss://), "
        "without +cluster"
    )


def test_a_full_server(stocked: Shop, own_redis: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    with own_redis.client() as client:
        client.config_set("maxmemory", "1")
    assert "(OOM); raise maxmemory" in reads(stocked, own_redis.url, caplog)


def test_a_database_that_the_server_does_not_have(
    stocked: Shop, own_redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    said = reads(stocked, f"redis://127.0.0.1:{own_redis.port}/99", caplog)
    assert said == (
        f"Redis at 127.0.0.1:{own_redis.port}, database 99: it has no database with this number; use a lower number in "
        "CACHEKEEPER_REDIS_URL or CACHEKEEPER_SECURITY_REDIS_URL, or raise `databases` of Redis"
    )


def test_a_server_that_is_no_redis(stocked: Shop, caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            with suppress(OSError):  # closed at the end of the test
                while True:
                    connection, _ = server.accept()
                    with connection:
                        connection.recv(1000)
                        connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        threading.Thread(target=answer, daemon=True).start()
        said = reads(stocked, f"redis://127.0.0.1:{server.getsockname()[1]}/0", caplog)
        server.shutdown(socket.SHUT_RDWR)
    assert "it does not answer like a Redis server; correct the host and the port" in said


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (redis.ResponseError("unknown command 'EVALSHA', with args beginning with: 'secret'"), "the command EVALSHA"),
        (redis.ResponseError("unknown command `evalsha`, with args beginning with: `secret`"), "the command evalsha"),
        (redis.ResponseError("SELECT is not allowed in cluster mode"), "redis+cluster://"),
        (redis.exceptions.MovedError("12539 secret:7000"), "redis+cluster://"),
        (redis.ResponseError("some new refusal of 'user:secret'"), "(ResponseError)"),
        (redis.exceptions.ExecAbortError("secret"), "(ExecAbortError)"),
        (redis.RedisError("secret is not installed"), "(RedisError)"),
    ],
)
def test_any_other_refusal_is_said_too(error: Exception, said: str, caplog: pytest.LogCaptureFixture) -> None:
    for server in ("cache:6379", "cache:6379", "safe:6379"):
        caught = CacheUnavailable("failed")
        caught.__cause__ = error
        warn_if_refused(server, caught)
    found = warnings(caplog)
    assert [line.partition(": ")[0] for line in found] == ["Redis at cache:6379", "Redis at safe:6379"]
    assert all(said in line and "secret" not in line for line in found)


@pytest.mark.parametrize(
    ("cause", "said"),
    [
        (ssl.SSLCertVerificationError("secret"), "ssl_ca_certs=FILE"),
        (ssl.SSLError("secret"), "TLS fails"),
        (FileNotFoundError(2, "secret"), "cannot be read"),
        (redis.exceptions.ReadOnlyError("READONLY secret"), "READONLY"),
        (redis.ResponseError("NOAUTH secret"), "the password into the URL"),
        (redis.ResponseError("This instance has cluster support disabled"), "without +cluster"),
        (redis.ResponseError("ERR This instance has cluster support disabled"), "without +cluster"),
    ],
)
def test_other_causes(cause: Exception, said: str, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(2):
        error: Any = redis.ConnectionError("secret")
        error.__cause__ = cause
        warn_if_refused("cache:6379", error)
    (found,) = warnings(caplog)
    assert said in found
    assert "secret" not in found


@pytest.mark.parametrize(
    "error",
    [
        redis.TimeoutError(),
        redis.ConnectionError("refused"),
        redis.BusyLoadingError("LOADING"),
        redis.exceptions.NoScriptError("No matching script. Please use EVAL."),
        redis.ResponseError("WRONGTYPE Operation against a key"),
        redis.exceptions.AskError("12539 cache:7000"),
        redis.exceptions.MasterDownError("Link with MASTER is down"),
        ConnectionRefusedError(),
    ],
)
def test_what_ends_by_itself_is_no_refusal(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    warn_if_refused("cache:6379", error)
    assert warnings(caplog) == []


def test_a_path_is_a_name() -> None:
    with redis.Redis.from_url("unix://:secret@/run/redis.sock") as client:
        assert server_name(client) == "/run/redis.sock"
