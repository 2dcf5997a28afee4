"""A Redis that dies and comes back, at the same address, with the data of an earlier moment."""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Self

from cachekeeper.devservers import FoundServer, Guardian, RedisServer

_NOWHERE = ("127.0.0.1", 1)  # port 1 is nobody's


class OlderRedis(ABC):
    """Use as a context, or call `start` and `close`.

    Args:
        guardian: ends the processes if this one cannot.
        found: which program.

    Attributes:
        server: the one that answers at the address now.
    """

    config: Mapping[str, str | int] = {}

    def __init__(self, guardian: Guardian, found: FoundServer) -> None:
        self.guardian = guardian
        self.found = found
        self.server = RedisServer(guardian, found, config=self.config)

    def start(self) -> None:
        """Start it, empty."""
        self.server.start()

    def close(self) -> None:
        """Kill it."""
        self.server.kill()

    @abstractmethod
    def remember(self) -> None:
        """Keep the data of this moment."""

    @abstractmethod
    def come_back(self) -> None:
        """Die (SIGKILL), and come back with what was last remembered; returns when it answers."""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class FromSnapshot(OlderRedis):
    """Started again, from a snapshot."""

    def remember(self) -> None:
        """Take the snapshot."""
        with self.server.client(timeout=60) as client:
            client.save()

    def come_back(self) -> None:
        """Start from it."""
        self.server.kill()
        self.server.start()


class FromAppendOnlyFile(OlderRedis):
    """Started again, from an append-only file whose end is lost."""

    config: Mapping[str, str | int] = {"appendonly": "yes", "appendfsync": "always"}

    def remember(self) -> None:
        """Copy the file. With `always`, Redis has written to it whatever it has answered."""
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
    """Replaced by a replica that had lost the connection for a while."""

    def __init__(self, guardian: Guardian, found: FoundServer) -> None:
        super().__init__(guardian, found)
        self._replica: RedisServer | None = None

    def close(self) -> None:
        """Kill both."""
        super().close()
        if self._replica is not None:
            self._replica.kill()

    def remember(self) -> None:
        """Make a replica, and cut it off."""
        if self._replica is not None:
            self._replica.kill()
        self._replica = RedisServer(self.guardian, self.found, replica_of=self.server, name="replica")
        self._replica.start()
        with self.server.client() as client:
            if client.wait(1, 10_000) != 1:
                raise TimeoutError("the replica is not in step after 10 s")
        with self._replica.client() as client:
            client.replicaof(*_NOWHERE)

    def come_back(self) -> None:
        """Promote the replica, and give it the address."""
        if self._replica is None:
            raise RuntimeError("nothing was remembered")
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
