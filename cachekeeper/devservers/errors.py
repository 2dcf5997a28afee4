"""Errors of servers that run as child processes.

    CachekeeperError
    └── EmbeddedError
        ├── ServerUnavailable   no program was found that can run on this system
        ├── ServerFailed        a program was found, but it did not start, or it ended unexpectedly
        └── StackError          the whole stack: its data directory is in use, or no stack is running

They concern servers for development and tests, never a production server.
"""

from collections.abc import Mapping, Sequence

from cachekeeper.errors import CachekeeperError

COMPOSE_ENVIRONMENT: Mapping[str, str] = {
    "CACHEKEEPER_REDIS_URL": "redis://127.0.0.1:6379/0",
    "CACHEKEEPER_SECURITY_REDIS_URL": "redis://127.0.0.1:6380/0",
    "CACHEKEEPER_MONGODB_URL": "mongodb://127.0.0.1:27017/shop?directConnection=true",
    "CACHEKEEPER_BROKER_URL": "amqp://cachekeeper:cachekeeper@127.0.0.1:5672//",
}
"""The variables with which programs on the host reach the services of `docker-compose.yml`."""


class EmbeddedError(CachekeeperError):
    """Base class of the errors of embedded servers."""


class ServerUnavailable(EmbeddedError):
    """No program was found that can run on this system.

    Attributes:
        wanted: the server that was searched for, such as `MongoDB 6.0 or later`.
        reasons: why each candidate cannot be used, in the order they were tried.
        package: the system's package that contains such a server.
    """

    def __init__(self, wanted: str, reasons: Sequence[str], package: str) -> None:
        self.wanted = wanted
        self.reasons = tuple(reasons)
        self.package = package
        lines = [f"found no {wanted} that can run on this system:"]
        lines += [f"  - {reason}" for reason in reasons]
        lines += [
            "Do one of these:",
            f"  - install the system's package: {package}",
            "  - run the servers in containers: docker compose up -d, and then in each shell that uses them:",
        ]
        lines += [f"      export {name}='{value}'" for name, value in COMPOSE_ENVIRONMENT.items()]
        super().__init__("\n".join(lines))

    def __reduce__(self) -> tuple[object, ...]:
        """Survive pickling: pytest-xdist and Celery send errors between processes."""
        return type(self), (self.wanted, self.reasons, self.package)


class ServerFailed(EmbeddedError):
    """A server did not start, or ended unexpectedly.

    Attributes:
        name: the server's name.
        problem: what happened to it.
        log: the last lines of its log.
    """

    def __init__(self, name: str, problem: str, log: str) -> None:
        self.name = name
        self.problem = problem
        self.log = log
        shown = "\n".join(f"    {line}" for line in log.splitlines()) or "    (nothing)"
        super().__init__(f"{name} {problem}. The last lines of its log:\n{shown}")

    def __reduce__(self) -> tuple[object, ...]:
        """Survive pickling: pytest-xdist and Celery send errors between processes."""
        return type(self), (self.name, self.problem, self.log)


class StackError(EmbeddedError):
    """The stack cannot start, its data directory cannot be used, or no running stack was found."""
