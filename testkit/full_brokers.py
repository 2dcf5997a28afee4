"""A Redis at its memory limit: it accepts what removes, and refuses what adds."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from cachekeeper.devservers import RedisServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from testkit.servers import RabbitServer


@contextmanager
def full(server: RedisServer | RabbitServer) -> Iterator[None]:
    """Meanwhile there is no memory left: more than one byte is in use, whatever it holds."""
    assert isinstance(server, RedisServer)
    with server.client() as client:
        client.config_set("maxmemory", 1)
        try:
            yield
        finally:
            client.config_set("maxmemory", 0)
