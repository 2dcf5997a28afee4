"""A MongoDB server as a child process: a replica set of one member."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pymongo
from pymongo.errors import OperationFailure, PyMongoError

from cachekeeper.devservers.guardian import Guardian
from cachekeeper.devservers.process import ServerProcess
from cachekeeper.devservers.program_version import FoundServer

REPLICA_SET = "cachekeeper"
_NOT_INITIATED = 94
_NOT_A_MEMBER = 93
"""The stored configuration does not name this host and port, because the data was last used on another port."""


class MongoServer(ServerProcess):
    """A `mongod` on 127.0.0.1 that is the primary of a replica set of one.

    Args:
        guardian: ends the server when this process dies.
        found: the program to run.
        parameters: server parameters (`--setParameter`), such as `{"ttlMonitorSleepSecs": 1}`.
        database: the name of the database in `url`.
        name, directory, data, start_seconds: see `ServerProcess`.
    """

    def __init__(
        self,
        guardian: Guardian,
        found: FoundServer,
        *,
        parameters: Mapping[str, str | int] | None = None,
        database: str = "shop",
        name: str = "mongodb",
        directory: Path | None = None,
        data: Path | None = None,
        start_seconds: float = 60.0,
    ) -> None:
        super().__init__(guardian, name, directory=directory, data=data, start_seconds=start_seconds)
        self.found = found
        self.parameters = dict(parameters or {})
        self.database = database

    @property
    def url(self) -> str:
        """The URL of the database `database`."""
        return self.url_of(self.database)

    def url_of(self, database: str) -> str:
        """The URL of a database."""
        return f"mongodb://127.0.0.1:{self.port}/{database}?replicaSet={REPLICA_SET}"

    def client(self, **options: Any) -> pymongo.MongoClient[dict[str, Any]]:
        """A new client; the caller closes it.

        Args:
            options: of `pymongo.MongoClient`.
        """
        return pymongo.MongoClient(self.url, **options)

    def direct_client(self, **options: Any) -> pymongo.MongoClient[dict[str, Any]]:
        """A new client that talks to this server only, also while it is not the primary; the caller closes it.

        Args:
            options: of `pymongo.MongoClient`.
        """
        return pymongo.MongoClient("127.0.0.1", self.port, directConnection=True, **options)

    def restart(self, *, keep_data: bool = True) -> None:
        """Kill it if it runs, and start it on the same port.

        Args:
            keep_data: start with the data in its files. If False, it starts empty, as a new replica set of the same
                name. Clients that were made before take its primary for a deposed one and never use it: make new ones.

        Raises:
            ServerFailed: it did not start.
        """
        super().restart(keep_data=keep_data)

    def _command(self) -> Sequence[str]:
        parameters: dict[str, str | int] = {
            "diagnosticDataCollectionEnabled": "false",
            # By default a primary waits 15 s after SIGTERM, so that clients find the next one. Here there is no other.
            "shutdownTimeoutMillisForSignaledShutdown": 0,
            **self.parameters,
        }
        return [
            str(self.found.path),
            *("--port", str(self.port), "--bind_ip", "127.0.0.1"),
            *("--dbpath", str(self.data), "--replSet", REPLICA_SET),
            *("--wiredTigerCacheSizeGB", "0.25", "--oplogSize", "256"),
            "--nounixsocket",  # after a SIGKILL, a socket would stay behind in the system's temporary directory
            *(word for name, value in parameters.items() for word in ("--setParameter", f"{name}={value}")),
        ]

    def _not_ready(self) -> str | None:
        try:
            with self.direct_client(serverSelectionTimeoutMS=500, socketTimeoutMS=5000) as client:
                # Two servers that start at once may choose one port: one cannot bind it, and the other answers here.
                if client.admin.command({"serverStatus": 1, **_WITHOUT})["pid"] != self.pid:
                    return f"another process answers on port {self.port}"
                return self._not_in_role(client)
        except PyMongoError as error:
            return str(error)

    def _not_in_role(self, client: pymongo.MongoClient[dict[str, Any]]) -> str | None:
        """Take the next step towards being the primary. Return None once it is, else why it is not."""
        if client.admin.command("hello")["isWritablePrimary"]:
            return None
        try:
            client.admin.command("replSetGetStatus")
        except OperationFailure as error:
            member = {"_id": 0, "host": f"127.0.0.1:{self.port}"}
            if error.code == _NOT_INITIATED:
                client.admin.command("replSetInitiate", {"_id": REPLICA_SET, "members": [member]})
            elif error.code == _NOT_A_MEMBER:
                stored = client.local["system.replset"].find_one()
                config = {**(stored or {}), "members": [member]}
                client.admin.command("replSetReconfig", config, force=True)
            else:
                raise
        return "not the primary yet"


_WITHOUT: Mapping[str, int] = {"metrics": 0, "wiredTiger": 0, "tcmalloc": 0, "locks": 0}
"""Sections to leave out of the answer: they are not needed and take time."""
