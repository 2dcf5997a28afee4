"""What can go wrong with servers run as child processes.

    CachekeeperError
    └── EmbeddedError
        ├── ServerUnavailable   no program was found that could be run here
        ├── ServerFailed        a program was found, but it did not start, or died
        └── StackError          the stack as a whole: data in use, nothing running to ask

None of them concerns a production server.
"""

from collections.abc import Mapping, Sequence

from cachekeeper.errors import CachekeeperError

COMPOSE_ENVIRONMENT: Mapping[str, str] = {
    "CACHEKEEPER_REDIS_URL": "redis://127.0.0.1:6379/0",
    "CACHEKEEPER_SECURITY_REDIS_URL": "redis://127.0.0.1:6380/0",
    "CACHEKEEPER_MONGODB_URL": "mongodb://127.0.0.1:27017/shop?directConnection=true",
    "CACHEKEEPER_BROKER_URL": "amqp://cachekeeper:cachekeeper@127.0.0.1:5672//",
}
"""What the host sets to use the services of `docker-compose.yml`."""


class EmbeddedError(CachekeeperError):
    """Root of what the embedded servers raise."""


class ServerUnavailable(EmbeddedError):
    """No program was found that could be run here.

    Attributes:
        wanted: what was looked for, such as `MongoDB 6.0 or later`.
        reasons: why each candidate was passed over, in the order they were tried.
    """

    def __init__(self, wanted: str, reasons: Sequence[str], package: str) -> None:
        self.wanted = wanted
        self.reasons = tuple(reasons)
        self.package = package
        lines = [f"no {wanted} can be run here:"]
        lines += [f"  - {reason}" for reason in reasons]
        lines += [
            "Either of these helps:",
            f"  - the system's package: {package}",
            "  - docker compose up -d, and then in the shell that needs it:",
        ]
        lines += [f"      export {name}='{value}'" for name, value in COMPOSE_ENVIRONMENT.items()]
        super().__init__("\n".join(lines))

    def __reduce__(self) -> tuple[object, ...]:
        """Survive pickling: pytest-xdist and Celery send errors between processes."""
        return type(self), (self.wanted, self.reasons, self.package)


class ServerFailed(EmbeddedError):
    """A server did not start, or died unexpectedly.

    Attributes:
        name: which of the servers.
        log: its last lines, as text.
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
    """The stack as a whole cannot do what was asked."""
