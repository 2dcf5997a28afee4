"""A Redis (or Valkey) server as a child process."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from cachekeeper.devservers.guardian import Guardian
from cachekeeper.devservers.process import ServerProcess
from cachekeeper.devservers.program_version import FoundServer

_DEFAULTS = {"save": "", "appendonly": "no", "repl-diskless-sync-delay": "0"}


class RedisServer(ServerProcess):
    """A Redis-protocol server on 127.0.0.1, without persistence unless `config` asks for it.

    Args:
        guardian: ends the server when this process dies.
        found: the program to run.
        config: directives of `redis.conf`, such as `{"maxmemory": "64mb", "maxmemory-policy": "allkeys-lfu"}`.
        replica_of: the server to replicate; it must be started before.
        name, directory, data, start_seconds: see `ServerProcess`.
    """

    def __init__(
        self,
        guardian: Guardian,
        found: FoundServer,
        *,
        config: Mapping[str, str | int] | None = None,
        replica_of: "RedisServer | None" = None,
        name: str = "redis",
        directory: Path | None = None,
        data: Path | None = None,
        start_seconds: float = 30.0,
    ) -> None:
        super().__init__(guardian, name, directory=directory, data=data, start_seconds=start_seconds)
        self.found = found
        self.config: dict[str, str | int] = {**_DEFAULTS, **(config or {})}
        self.replica_of = replica_of

    @property
    def url(self) -> str:
        """The URL of database 0."""
        return self.url_of(0)

    def url_of(self, database: int) -> str:
        """The URL of a numbered database."""
        return f"redis://127.0.0.1:{self.port}/{database}"

    def client(self, database: int = 0, *, timeout: float = 5.0) -> redis.Redis:
        """A new client that answers in bytes and does not retry. The caller closes it.

        Args:
            database: its number.
            timeout: seconds, for connecting and for each answer.
        """
        return redis.Redis(
            host="127.0.0.1",
            port=self.port,
            db=database,
            socket_timeout=timeout,
            socket_connect_timeout=timeout,
            protocol=2,
            retry=Retry(NoBackoff(), 0),
        )

    def restart(self, *, keep_data: bool = False) -> None:
        """Kill it if it runs, and start it on the same port.

        Args:
            keep_data: keep all data of a running server (it takes a snapshot first, unless it writes an append-only
                file), or the data in the files of a dead one. If False, it starts empty.

        Raises:
            ServerFailed: it did not start.
            redis.RedisError: the running server could not take the snapshot.
        """
        if keep_data and self.alive and self.config["appendonly"] == "no":
            with self.client(timeout=60) as client:
                client.save()
        super().restart(keep_data=keep_data)

    def _command(self) -> Sequence[str]:
        directives = {
            "port": self.port,
            "bind": "127.0.0.1",
            "dir": str(self.data),
            "daemonize": "no",
            "logfile": "",
            **self.config,
        }
        if self.replica_of is not None:
            directives["replicaof"] = f"127.0.0.1 {self.replica_of.port}"
        arguments = [word for name, value in directives.items() for word in (f"--{name}", *_words(name, value))]
        return [str(self.found.path), *arguments]

    def _not_ready(self) -> str | None:
        try:
            with self.client(timeout=1) as client:
                info = client.info()
        except redis.RedisError as error:
            return str(error)
        # Two servers that start at once may choose one port: one cannot bind it, and the other answers here.
        if info["process_id"] != self.pid:
            return f"another process answers on port {self.port}"
        if info["loading"]:
            return "it is still loading its data"
        if self.replica_of is not None and info["master_link_status"] != "up":
            return "the replica is not yet in sync with its primary"
        return None


def _words(name: str, value: str | int) -> list[str]:
    """The command-line arguments of one directive. Only the directives named here take several."""
    if name in {"bind", "replicaof", "save", "client-output-buffer-limit", "rename-command"} and value:
        return str(value).split()
    return [str(value)]
