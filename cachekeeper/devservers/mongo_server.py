"""A MongoDB server, a replica set of one, as a child process."""

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
"""The stored configuration does not name this host and port: the data was last used on another port."""


class MongoServer(ServerProcess):
    """A `mongod` on 127.0.0.1 that is the primary of a replica set of one.

    Args:
        guardian: ends the process if this one cannot.
        found: which program.
        parameters: server parameters (`--setParameter`), such as `{"ttlMonitorSleepSecs": 1}`.
        database: the database that `url` names.
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
        """The URL that names the database given."""
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
        """A new client of this process alone, whatever its role; the caller closes it.

        Args:
            options: of `pymongo.MongoClient`.
        """
        return pymongo.MongoClient("127.0.0.1", self.port, directConnection=True, **options)

    def restart(self, *, keep_data: bool = True) -> None:
        """Kill it if it runs, and start it on the same port.

        Args:
            keep_data: otherwise it starts empty, as another replica set under the same name. Clients made before take
                that one's primary for a deposed one, and never use it: make new ones.

        Raises:
            ServerFailed: it did not start.
        """
        super().restart(keep_data=keep_data)

    def _command(self) -> Sequence[str]:
        parameters: dict[str, str | int] = {
            "diagnosticDataCollectionEnabled": "false",
            # The default lets a primary wait 15 s on SIGTERM, for clients to find the next one; there is none.
            "shutdownTimeoutMillisForSignaledShutdown": 0,
            **self.parameters,
        }
        return [
            str(self.found.path),
            *("--port", str(self.port), "--bind_ip", "127.0.0.1"),
            *("--dbpath", str(self.data), "--replSet", REPLICA_SET),
            *("--wiredTigerCacheSizeGB", "0.25", "--oplogSize", "256"),
            "--nounixsocket",  # its socket in the system's temporary directory would outlive a SIGKILL
            *(word for name, value in parameters.items() for word in ("--setParameter", f"{name}={value}")),
        ]

    def _not_ready(self) -> str | None:
        try:
            with self.direct_client(serverSelectionTimeoutMS=500, socketTimeoutMS=5000) as client:
                # Two starts at once may choose the same port: one fails to bind, and this answer is the other's.
                if client.admin.command({"serverStatus": 1, **_WITHOUT})["pid"] != self.pid:
                    return f"port {self.port} is answered by another process"
                return self._not_in_role(client)
        except PyMongoError as error:
            return str(error)

    def _not_in_role(self, client: pymongo.MongoClient[dict[str, Any]]) -> str | None:
        """Bring it nearer to what it shall be: None when it is that, else why not."""
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
"""Parts of the answer that are not wanted, and cost time."""
