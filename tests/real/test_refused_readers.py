"""A reader that Redis refuses answers from MongoDB, and says once for each server and cause what is wrong."""

from __future__ import annotations

import logging
import ssl
from typing import TYPE_CHECKING, Any

import pytest
import redis

from cachekeeper import metrics
from cachekeeper.refusals import server_name, warn_if_refused
from lookups import read_user
from tests.shop import NO_REDIS, Shop

if TYPE_CHECKING:
    from cachekeeper.embedded import RedisServer


@pytest.fixture(autouse=True)
def nothing_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "_said", set())


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "cachekeeper"]


def reads(shop: Shop, url: str, caplog: pytest.LogCaptureFixture) -> str:
    """Read twice, past the breaker's pause, and return the one warning."""
    keeper = shop.keeper(redis_url=url, **NO_REDIS)
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


def test_a_full_server(stocked: Shop, own_redis: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    with own_redis.client() as client:
        client.config_set("maxmemory", "1")
    assert "(OOM); raise maxmemory" in reads(stocked, own_redis.url, caplog)


@pytest.mark.parametrize(
    ("cause", "said"),
    [
        (ssl.SSLCertVerificationError("secret"), "ssl_ca_certs=FILE"),
        (ssl.SSLError("secret"), "TLS fails"),
        (FileNotFoundError(2, "secret"), "cannot be read"),
        (redis.exceptions.ReadOnlyError("READONLY secret"), "READONLY"),
        (redis.ResponseError("NOAUTH secret"), "the password into the URL"),
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
        ConnectionRefusedError(),
    ],
)
def test_an_outage_is_no_refusal(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    warn_if_refused("cache:6379", error)
    assert warnings(caplog) == []


def test_a_path_is_a_name() -> None:
    with redis.Redis.from_url("unix://:secret@/run/redis.sock") as client:
        assert server_name(client) == "/run/redis.sock"
