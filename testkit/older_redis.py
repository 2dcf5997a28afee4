"""A Redis that is killed and comes back at the same address, with the data of an earlier moment."""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Self

from cachekeeper.devservers import FoundServer, Guardian, RedisServer

_NOWHERE = ("127.0.0.1", 1)  # nothing listens on port 1


class OlderRedis(ABC):
    """Use as a context, or call `start` and `close`.

    Args:
        guardian: ends the processes if this one cannot.
        found: the Redis program.

    Attributes:
        server: the server that answers at the address now.
    """

    config: Mapping[str, str | int] = {}

    def __init__(self, guardian: Guardian, found: FoundServer) -> None:
        self.guardian = guardian
        self.found = found
        self.server = RedisServer(guardian, found, config=self.config)

    def start(self) -> None:
        """Start the server, empty."""
        self.server.start()

    def close(self) -> None:
        """Kill the server."""
        self.server.kill()

    @abstractmethod
    def remember(self) -> None:
        """Keep the data of this moment."""

    @abstractmethod
    def come_back(self) -> None:
        """Kill the server (SIGKILL), and start it with the data last remembered. Returns when it answers."""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class FromSnapshot(OlderRedis):
    """A Redis that is started again from a snapshot."""

    def remember(self) -> None:
        """Take the snapshot."""
        with self.server.client(timeout=60) as client:
            client.save()

    def come_back(self) -> None:
        """Start from the snapshot."""
        self.server.kill()
        self.server.start()


class FromAppendOnlyFile(OlderRedis):
    """A Redis that is started again from an append-only file whose end is lost."""

    config: Mapping[str, str | int] = {"appendonly": "yes", "appendfsync": "always"}

    def remember(self) -> None:
        """Copy the file. With `always`, Redis writes a change to it before it answers."""
        kept = self.server.directory / "kept"
        shutil.rmtree(kept, ignore_errors=True)
        shutil.copytree(self.server.data, kept)

    def come_back(self) -> None:
        """Start from the copy."""
        self.server.kill()
        shutil.rmtree(self.server.data)
        shutil.copytree(self.server.directory / "kept", self.server.data)
        self.server.start()


class PromotedReplica(OlderRedis):
    """A Redis that is replaced by a replica which had lost the connection for a while."""

    def __init__(self, guardian: Guardian, found: FoundServer) -> None:
        super().__init__(guardian, found)
        self._replica: RedisServer | None = None

    def close(self) -> None:
        """Kill both servers."""
        super().close()
        if self._replica is not None:
            self._replica.kill()

    def remember(self) -> None:
        """Make a replica, and disconnect it."""
        if self._replica is not None:
            self._replica.kill()
        self._replica = RedisServer(self.guardian, self.found, replica_of=self.server, name="replica")
        self._replica.start()
        with self.server.client() as client:
            if client.wait(1, 10_000) != 1:
                raise TimeoutError("the replica has not caught up after 10 s")
        with self._replica.client() as client:
            client.replicaof(*_NOWHERE)

    def come_back(self) -> None:
        """Promote the replica, and give it the server's address."""
        if self._replica is None:
            raise RuntimeError("call remember() first: nothing was remembered")
        port = self.server.port
        self.server.kill()
        with self._replica.client() as client:
            client.replicaof("NO", "ONE")
            client.config_set("port", port)
        self.server, self._replica = self._replica, None
        self.server.port = port


KINDS: Mapping[str, type[OlderRedis]] = {
    "an old snapshot": FromSnapshot,
    "an old append-only file": FromAppendOnlyFile,
    "a promoted replica": PromotedReplica,
}
