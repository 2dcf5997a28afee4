"""The development stack as child processes: two Redis servers, MongoDB, a worker and the programs that feed it."""

import fcntl
import os
import secrets
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Self

from cachekeeper.devservers.errors import ServerFailed, StackError
from cachekeeper.devservers.guardian import Guardian
from cachekeeper.devservers.mongo_server import MongoServer
from cachekeeper.devservers.parents import end_with_parent
from cachekeeper.devservers.process import ServerProcess
from cachekeeper.devservers.program_process import ProgramProcess
from cachekeeper.devservers.program_version import FoundServer
from cachekeeper.devservers.programs import find_mongod, find_redis
from cachekeeper.devservers.redis_server import RedisServer

if TYPE_CHECKING:
    from cachekeeper.devservers.worker_process import WorkerProcess

CACHE_CONFIG = {"maxmemory": "256mb", "maxmemory-policy": "allkeys-lfu"}
SECURITY_CONFIG = {"maxmemory-policy": "noeviction"}
APPEND_ONLY = {"appendonly": "yes"}
BROKER_DATABASE = 1
API_KEYS = "CACHEKEEPER_HTTP_API_KEYS"


class DevStack:
    """Two Redis servers, a MongoDB replica set of one, and a worker, for development, demonstrations and tests.

    The cache server may evict keys; the security server never does. The broker is database 1 of the security server, so
    that eviction cannot remove queued events. Everything ends with the process that made the stack, however it ends
    (see `Guardian`).

    Args:
        worker: also start `celery -A cachekeeper worker` in the current directory.
        relay: also start `cachekeeper relay`. Without it, events stay in the outbox.
        stream: also start `cachekeeper stream`, which turns changes in MongoDB into events.
        http: also start `cachekeeper serve` on this port; 0: a free one. Its key comes from the environment, else a new
            one is made.
        with_parent: send this process a SIGTERM when its own parent dies.
        data: a directory that keeps the data of MongoDB and both Redis servers (append-only); None: keep no data.
        redis, mongod: the programs to run; None: those that `find_redis` and `find_mongod` find.
        worker_app: where Celery finds the worker's application.
        worker_arguments: further arguments for `celery worker`.
        tell: called with a line of text for each step.

    Attributes:
        directory: the temporary directory with the logs; removed at the end.
        redis, security, mongo: the servers.
        worker: the worker; None if it was not wanted.

    Use it as a context manager, or call `start` and `close`.
    """

    directory: Path
    redis: RedisServer
    security: RedisServer
    mongo: MongoServer
    worker: "WorkerProcess | None"

    def __init__(  # noqa: PLR0913  # all by keyword
        self,
        *,
        worker: bool = True,
        relay: bool = False,
        stream: bool = False,
        http: int | None = None,
        with_parent: bool = False,
        data: Path | None = None,
        redis: FoundServer | None = None,
        mongod: FoundServer | None = None,
        worker_app: str = "worker",
        worker_arguments: Sequence[str] = (),
        tell: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._with_worker = worker
        self._with_relay = relay
        self._with_stream = stream
        self._http = http
        self._api_keys = {} if http is None else {API_KEYS: os.environ.get(API_KEYS) or secrets.token_urlsafe(24)}
        self._with_parent = with_parent
        self._data = data
        self._found_redis = redis
        self._found_mongod = mongod
        self._worker_app = worker_app
        self._worker_arguments = worker_arguments
        self._tell = tell
        self._started: list[ServerProcess] = []
        self._guardian: Guardian | None = None

    @property
    def guardian(self) -> Guardian:
        """The guardian of this stack's processes and directories.

        Raises:
            StackError: the stack has not been started.
        """
        if self._guardian is None:
            raise StackError("the stack was not started; call start() first")
        return self._guardian

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables with which settings and workers find the servers of this stack."""
        return {
            "CACHEKEEPER_REDIS_URL": self.redis.url,
            "CACHEKEEPER_SECURITY_REDIS_URL": self.security.url,
            "CACHEKEEPER_MONGODB_URL": self.mongo.url,
            "CACHEKEEPER_BROKER_URL": self.security.url_of(BROKER_DATABASE),
            **self._api_keys,
        }

    @property
    def servers(self) -> tuple[ServerProcess, ...]:
        """All servers that were started, in that order."""
        return tuple(self._started)

    def start(self) -> None:
        """Start one server after the other, and wait until each is ready. A failure or ctrl-C ends all of them.

        Raises:
            ServerUnavailable: a program was not found.
            ServerFailed: a server did not start.
            StackError: the data directory cannot be used, or the stack was started before.
        """
        if self._guardian is not None:
            raise StackError("this stack was started before; make a new one")
        redis = self._found_redis or find_redis()
        mongod = self._found_mongod or find_mongod()
        if self._with_parent:
            end_with_parent()
        try:
            self._start(redis, mongod)
        except BaseException:
            self.close()
            raise

    def _start(self, redis: FoundServer, mongod: FoundServer) -> None:
        # The guardian inherits the lock, so it is held until the last server of a killed stack is gone.
        lock = [] if self._data is None else [_lock(self._data)]
        try:
            guardian = self._guardian = Guardian(holding=lock)
        finally:
            for descriptor in lock:
                os.close(descriptor)
        self.directory = logs = guardian.directory()
        kept = APPEND_ONLY if self._data else {}

        def place(name: str) -> Path:
            return (self._data or logs / "data") / name

        self.redis = RedisServer(
            guardian, redis, config={**CACHE_CONFIG, **kept}, name="cache", directory=logs, data=place("cache")
        )
        self._bring_up(self.redis, f"cache: {redis}")
        self.security = RedisServer(
            guardian, redis, config={**SECURITY_CONFIG, **kept}, name="security", directory=logs, data=place("security")
        )
        self._bring_up(self.security, f"security and broker: {redis}")
        self.mongo = MongoServer(guardian, mongod, directory=logs, data=place("mongodb"))
        self._bring_up(self.mongo, f"database: {mongod}")
        self.worker = None
        if self._with_worker:
            from cachekeeper.devservers.worker_process import WorkerProcess  # noqa: PLC0415  (Celery takes long to import)

            self.worker = WorkerProcess(
                guardian, self.environment, app=self._worker_app, arguments=self._worker_arguments, directory=logs
            )
            self._bring_up(self.worker, f"worker: celery -A {self._worker_app} worker")
        if self._with_relay:
            self._bring_up(self._program("relay", "publishing what is in the outbox"), "relay: cachekeeper relay")
        if self._with_stream:
            self._bring_up(self._program("stream", "watching "), "change stream: cachekeeper stream")
        if self._http is not None:
            door = self._program("serve", "http://127.0.0.1:", self._http)
            self._bring_up(door, f"HTTP door, with its key in {API_KEYS}: cachekeeper serve")

    def _program(self, command: str, ready: str, port: int | None = None) -> ProgramProcess:
        return ProgramProcess(
            self.guardian, self.environment, command=command, ready=ready, port=port, directory=self.directory
        )

    def _bring_up(self, server: ServerProcess, what: str) -> None:
        self._started.append(server)
        began = time.monotonic()
        server.start()
        where = f" on 127.0.0.1:{server.port}" if server.listens else ""
        self._tell(f"{what}{where}, ready after {time.monotonic() - began:.1f} s")

    def check(self) -> None:
        """Check that everything still runs.

        Raises:
            ServerFailed: a server has ended; the error holds its name and the end of its log.
        """
        for server in self._started:
            if not server.alive:
                raise ServerFailed(server.name, f"{server.exit_text} unexpectedly", server.log_tail())
        if not self.guardian.alive:
            raise ServerFailed(
                "the guardian process", "is gone, so the servers could outlive this program; start it again", ""
            )

    def close(self) -> None:
        """End everything and remove the temporary directory. Idempotent.

        With a data directory the servers are asked to end, which takes a few seconds. Without one they are killed.
        """
        try:
            for server in reversed(self._started):
                if self._data is None:
                    server.kill()
                else:
                    server.stop()
        finally:
            if self._guardian is not None:
                self._guardian.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _lock(directory: Path) -> int:
    """Lock a data directory for this process and for those that inherit the descriptor."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(directory / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StackError(f"the data directory {directory} cannot be used: {error.strerror}; choose another") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise StackError(
            f"the data directory {directory} is in use by another stack; stop that stack, or choose another directory"
        ) from None
    return descriptor
