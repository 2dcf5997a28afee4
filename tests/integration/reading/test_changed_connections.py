"""A command that changes its connection changes nothing for the next caller: the connection is closed instead."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from cachekeeper import make_redis_client

if TYPE_CHECKING:
    from collections.abc import Callable

    from cachekeeper.devservers import RedisServer

CHANGES: dict[str, Callable[[Any], object]] = {
    "MULTI": lambda client: client.execute_command("MULTI"),
    "multi": lambda client: client.execute_command("multi"),
    "bytes": lambda client: client.execute_command(b"Multi"),
    "SELECT": lambda client: client.execute_command("SELECT", 3),
    "in one text": lambda client: client.execute_command("SELECT 3"),
    "select": lambda client: client.select(3),
    "MONITOR": lambda client: client.execute_command("MONITOR"),
    "RESET": lambda client: client.execute_command("RESET"),
    "HELLO": lambda client: client.execute_command("HELLO", 3),
    "AUTH": lambda client: client.execute_command("AUTH", "few", "rights"),
    "in a pipeline": lambda client: client.pipeline(transaction=False).execute_command("SELECT", 3).execute(),
    "in a transaction": lambda client: client.pipeline().execute_command("SELECT", 3).execute(),
    "MULTI in a pipeline": lambda client: client.pipeline(transaction=False).execute_command("MULTI").execute(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_the_next_caller_does_not_notice(own_redis: RedisServer, change: str) -> None:
    with own_redis.client() as direct:
        direct.execute_command("ACL", "SETUSER", "few", "on", ">rights", "+@connection")
    with make_redis_client(f"redis://127.0.0.1:{own_redis.port}/2") as client:
        client.set("key", "value")
        CHANGES[change](client)
        for _ in range(3):
            assert client.get("key") == b"value"


def connections(client: Any) -> int:
    return int(client.info("stats")["total_connections_received"])


def test_whatever_else_keeps_its_connection(own_redis: RedisServer) -> None:
    """The handshake selects a database, and a transaction has a MULTI of its own."""
    with own_redis.client() as direct, make_redis_client(f"redis://127.0.0.1:{own_redis.port}/2") as client:
        client.set("key", "value")
        before = connections(direct)
        for _ in range(3):
            assert client.get("key") == b"value"
            assert client.pipeline().get("key").execute() == [b"value"]
            assert client.pipeline(transaction=False).get("key").execute() == [b"value"]
            assert client.eval("return 1", 0) == 1
            with client.pipeline() as pipe:
                pipe.watch("key")
                pipe.multi()
                pipe.get("key")
                assert pipe.execute() == [b"value"]
        assert connections(direct) == before


def test_a_caller_may_go_on_with_a_connection_of_its_own(own_redis: RedisServer) -> None:
    with make_redis_client(f"redis://127.0.0.1:{own_redis.port}/2") as client:
        client.set("key", "value")
        with client.client() as own:
            own.execute_command("MULTI")
            own.execute_command("GET", "key")
            assert own.execute_command("EXEC") == [b"value"]
            own.execute_command("SELECT", 3)
            assert own.get("key") is None
        assert client.get("key") == b"value"
