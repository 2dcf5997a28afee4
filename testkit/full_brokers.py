"""A Redis at its memory limit: it accepts commands that remove data, and refuses commands that add data."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from cachekeeper.devservers import RedisServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from testkit.servers import RabbitServer


@contextmanager
def full(server: RedisServer | RabbitServer) -> Iterator[None]:
    """Set the memory limit to one byte inside the block. More than that is always in use, so no memory is left."""
    assert isinstance(server, RedisServer)
    with server.client() as client:
        client.config_set("maxmemory", 1)
        try:
            yield
        finally:
            client.config_set("maxmemory", 0)
