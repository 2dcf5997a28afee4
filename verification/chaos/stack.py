"""The servers and processes of a series. They stay up from run to run; those that a fault ended are started again."""

from __future__ import annotations

import json
import multiprocessing
import shutil
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pymongo

from cachekeeper.broker.names import QUEUE, UNACKED, UNACKED_INDEX
from cachekeeper.devservers import Guardian, MongoServer, RedisServer, ServerProcess, find_mongod, find_redis
from testkit.replica_set import ReplicaSet
from testkit.servers import RabbitServer, find_rabbitmq
from verification.chaos import proxied_command, readers, spy, upstream, workload
from verification.chaos.processes import Command, Remote, Worker
from verification.chaos.proxy import Proxy
from verification.chaos.schedule import LINES, Series, Station

if TYPE_CHECKING:
    from cachekeeper.devservers import FoundServer

DATABASE = "chaos"
TIMES: Mapping[str, float] = {
    "redis_timeout_seconds": 0.3,
    "load_timeout_seconds": 1.0,
    "lookup_timeout_seconds": 2.5,
    "lease_seconds": 2.0,
    "negative_ttl_seconds": 5.0,
    "outbox_retry_seconds": 0.5,
}
"""Settings of all processes. The times are short, so that a run reaches these limits often."""

_APP = "verification.chaos.impatient"  # a name and not an import: importing it needs the settings of a worker


@contextmanager
def _channel(broker: RabbitServer) -> Iterator[Any]:
    from kombu import Connection as Broker  # noqa: PLC0415  (takes long to import)

    with Broker(broker.url, connect_timeout=2) as connection:
        yield connection.default_channel


class Stack:
    """All servers and processes of a series.

    Args:
        mutant: name of the known-bad variant that workers and readers swap in, or None.

    Attributes:
        directory: holds logs and journals until `close`.
        ended: processes that ended by themselves, and how. Each was started again.
    """

    def __init__(self, mutant: str | None = None) -> None:
        self.mutant = mutant
        self.guardian = Guardian()
        self.directory = self.guardian.directory()
        self.journals = self.directory / "journals"
        self.journals.mkdir()
        self._rabbit: RabbitServer | None = None
        self.members: ReplicaSet | None = None
        self._client: pymongo.MongoClient[dict[str, Any]] | None = None
        self._station: Station | None = None
        self._processes: dict[str, ServerProcess] = {}
        self._offsets: dict[Path, int] = {}
        self._tended: dict[str, threading.Lock] = {}
        self._closing = threading.Event()
        self._supervisor = threading.Thread(target=self._supervise, daemon=True, name="supervisor")
        self.ended: list[str] = []
        try:
            self._start()
        except BaseException:
            self.close()
            raise

    def _start(self) -> None:
        redis, guardian, logs = find_redis(), self.guardian, self.directory
        self.proxy = Proxy()
        small = {"maxmemory-policy": "allkeys-random"}
        self.cache = RedisServer(guardian, redis, config=small, name="cache", directory=logs, data=logs / "cache")
        self.security = RedisServer(guardian, redis, name="security", directory=logs, data=logs / "security")
        durable = {"appendonly": "yes", "appendfsync": "always"}
        self.redis_broker = RedisServer(
            guardian, redis, config=durable, name="broker", directory=logs, data=logs / "broker"
        )
        self.mongo = MongoServer(
            guardian,
            find_mongod(),
            # Fail points need test commands. A transaction whose client is gone must end soon: it blocks others.
            parameters={"enableTestCommands": 1, "transactionLifetimeLimitSeconds": 5},
            database=DATABASE,
            name="mongodb",
            directory=logs,
            data=logs / "mongodb",
        )
        for server in (self.cache, self.security, self.redis_broker, self.mongo):
            server.start()
        self.board = multiprocessing.get_context("spawn").RawArray("q", workload.BOARD)
        self.readers = [Remote(readers.serve, self.board, index, self.mutant) for index in range(workload.READERS)]
        self.writers = [Remote(upstream.serve, self.board, index) for index in range(workload.WRITERS)]

        self._supervisor.start()

    @property
    def broker(self) -> RedisServer | RabbitServer:
        """The broker of the present station."""
        if self._station is not None and self._station.rabbit and self._rabbit is not None:
            return self._rabbit
        return self.redis_broker

    @property
    def client(self) -> pymongo.MongoClient[dict[str, Any]]:
        """A client of the present station's MongoDB."""
        assert self._client is not None, "the stack has no station yet: call move first"
        return self._client

    @property
    def series(self) -> Series:
        """How changes become events at the present station."""
        return Series.OUTBOX if self._station is None else self._station.series

    @property
    def database_server(self) -> MongoServer | ReplicaSet:
        """The MongoDB of the present station."""
        if self._station is not None and self._station.series is Series.REPLICAS and self.members is not None:
            return self.members
        return self.mongo

    @property
    def mongods(self) -> Sequence[MongoServer]:
        """The members of the present station's MongoDB."""
        server = self.database_server
        return server.members if isinstance(server, ReplicaSet) else [server]

    @property
    def found(self) -> list[FoundServer]:
        """The server programs, with their versions."""
        rabbit = [] if self._rabbit is None else [self._rabbit.found]
        return [self.cache.found, self.mongo.found, *rabbit]

    def move(self, station: Station) -> bool:
        """Bring workers, readers and writers to a station. Return False if they were already there."""
        if station == self._station:
            return False
        self._end_processes()
        self._station = station
        if station.rabbit and self._rabbit is None:
            self._rabbit = RabbitServer(self.guardian, find_rabbitmq())
            self._rabbit.start()
        if station.series is Series.REPLICAS and self.members is None:
            self.members = ReplicaSet(self.guardian, self.mongo.found, database=DATABASE)
            self.members.start()
        if self._client is not None:
            self._client.close()
        self._client = self.database_server.client(tz_aware=True)
        self.database = self.client[DATABASE]
        for collection in ("users", "products", "sessions", "blocked_tokens"):
            self.database.drop_collection(collection)
            self.database.create_collection(collection, changeStreamPreAndPostImages={"enabled": True})
        for collection in ("outbox", "change_streams", "dead_letters", "audit"):
            self.database.drop_collection(collection)
        # Before any transaction is under way: else MongoDB would tell the client to run that transaction again.
        self.database["outbox"].create_index("due_at")
        settings = {
            "redis_url": self.cache.url,
            "security_redis_url": self.security.url,
            "mongodb_url": self.database_server.url,
            "broker_url": self.broker.url,
            **TIMES,
        }
        for reader in self.readers:
            reader.ask("move", (settings, self._lines("readers")))
        for writer in self.writers:
            writer.ask("move", (station.series, settings, self._lines("writers")))
        self._start_processes({f"CACHEKEEPER_{name}".upper(): str(value) for name, value in settings.items()})
        return True

    def _lines(self, who: str) -> dict[int, int]:
        """Map the ports of the servers to the ports of the proxy where the lines begin.

        This also works for a replica set: the driver uses the addresses that the members report, and the mapping is
        below the driver.
        """
        servers: dict[str, Sequence[ServerProcess]] = {
            "cache": [self.cache],
            "security": [self.security],
            "mongo": self.mongods,
            "broker": [self.broker],
        }
        return {
            server.port: self.proxy.lead(f"{who}-{name}", server.port)
            for name, several in servers.items()
            if f"{who}-{name}" in LINES
            for server in several
        }

    def _start_processes(self, environment: Mapping[str, str]) -> None:
        spied = {
            **environment,
            "CACHEKEEPER_MODULES": f"producers,lookups,worker,{spy.__name__}",
            spy.JOURNAL: str(self.journals),
            spy.PORTS: json.dumps(self._lines("workers")),
            **({} if self.mutant is None else {spy.MUTANT: self.mutant}),
        }
        for index in range(2):
            name = f"worker{index}"
            alone = ("-n", f"{name}@chaos", "--without-mingle", "--without-gossip")
            worker = Worker(self.guardian, spied, app=_APP, arguments=alone, name=name, directory=self.directory)
            self._begin(name, worker)
        verbs = ["relay", *(["stream"] if self._station and self._station.series is Series.STREAM else [])]
        for verb in verbs:
            led_there = {**environment, proxied_command.PORTS: json.dumps(self._lines(verb))}
            self._begin(verb, Command(self.guardian, verb, led_there, self.directory))

    def _begin(self, name: str, process: ServerProcess) -> None:
        with self.tending(name):
            process.start()
            self._processes[name] = process

    def _end_processes(self) -> None:
        for name, process in list(self._processes.items()):
            with self.tending(name):
                del self._processes[name]
                process.kill()

    def process(self, target: str) -> ServerProcess:
        """Return a server or process by its name as a fault's target."""
        servers: dict[str, ServerProcess] = {
            "cache": self.cache,
            "security": self.security,
            "mongo": self.mongo,
            "broker": self.broker,
            **self._processes,
        }
        return servers[target]

    @contextmanager
    def tending(self, target: str) -> Iterator[None]:
        """Keep the supervisor from starting this process during the block."""
        with self._tended.setdefault(target, threading.Lock()):
            yield

    def _supervise(self) -> None:
        """Start processes again that have ended by themselves, as a supervisor in production does."""
        while not self._closing.wait(0.1):
            for name, process in list(self._processes.items()):
                lock = self._tended.setdefault(name, threading.Lock())
                if lock.acquire(blocking=False):
                    try:
                        if self._processes.get(name) is process and not process.alive:
                            self.ended.append(f"{name} {process.exit_text}")
                            process.start()
                    finally:
                        lock.release()

    def waiting(self) -> int:
        """Count the messages in the broker's queue. A Redis also counts those in flight, even if their worker died."""
        if isinstance(self.broker, RabbitServer):
            with _channel(self.broker) as channel:
                return int(channel.queue_declare(QUEUE, passive=True).message_count)
        with self.broker.client() as client:
            return int(client.llen(QUEUE)) + int(client.hlen(UNACKED))

    def new_acks(self) -> str:
        """Return what workers have noted in their journals since the last call."""
        texts = []
        for path in sorted(self.journals.iterdir()):
            with path.open() as file:
                file.seek(self._offsets.get(path, 0))
                texts.append(file.read())
                self._offsets[path] = file.tell()
        return "".join(texts)

    def forget_messages(self) -> None:
        """Empty the broker's queue. In a Redis, also drop messages in flight; RabbitMQ leaves those to the workers."""
        if isinstance(self.broker, RabbitServer):
            with _channel(self.broker) as channel:
                channel.queue_purge(QUEUE)
        else:
            with self.broker.client() as client:
                client.delete(QUEUE, UNACKED, UNACKED_INDEX)

    def keep_logs(self) -> Path:
        """Copy logs and journals to a directory that outlives the stack. Return the directory."""
        kept = Path(tempfile.mkdtemp(prefix="cachekeeper-chaos-"))
        members = [] if self.members is None else [member.log for member in self.members.members]
        for path in [*self.directory.glob("*.log"), *self.journals.iterdir(), *members]:
            shutil.copy(path, kept)
        return kept

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End all servers and processes."""
        self._closing.set()
        if self._supervisor.is_alive():
            self._supervisor.join()
        for remote in (*getattr(self, "readers", ()), *getattr(self, "writers", ())):
            remote.close()
        if hasattr(self, "proxy"):
            self.proxy.close()
        if self._client is not None:
            self._client.close()
        if self._rabbit is not None:
            self._rabbit.kill()
        self.guardian.close()
