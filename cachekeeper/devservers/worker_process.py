"""A real Celery worker as a child process."""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

from celery import Celery
from kombu.exceptions import OperationalError

from cachekeeper.broker.names import CONTROL_EXCHANGE
from cachekeeper.broker.queues import tls_options
from cachekeeper.devservers.guardian import Guardian
from cachekeeper.devservers.process import ServerProcess
from cachekeeper.values.urls.broker_url import without_tls_options

PING_SECONDS = 0.25


class WorkerProcess(ServerProcess):
    """`celery -A APP worker`, run by this Python in the current directory; ready once it answers a ping.

    Args:
        guardian: ends the worker when this process dies.
        environment: variables to add to those of this process; they name the servers.
        app: where Celery finds the application.
        arguments: further arguments for `celery worker`.
        hostname: its name among the workers of its broker. Needed if there are several: else another's answer counts.
        name, directory, start_seconds: see `ServerProcess`.
    """

    listens = False

    def __init__(
        self,
        guardian: Guardian,
        environment: Mapping[str, str],
        *,
        app: str = "cachekeeper",
        arguments: Sequence[str] = (),
        hostname: str | None = None,
        name: str = "worker",
        directory: Path | None = None,
        start_seconds: float = 60.0,
    ) -> None:
        super().__init__(guardian, name, directory=directory, start_seconds=start_seconds)
        self.environment = dict(environment)
        self.app = app
        self.arguments = (*arguments, *(("--hostname", hostname) if hostname else ()))
        self._asked = [hostname] if hostname else None

    def _command(self) -> Sequence[str]:
        return [sys.executable, "-m", "celery", "-A", self.app, "worker", *self.arguments]

    def _environment(self) -> Mapping[str, str]:
        return {**os.environ, "PYTHONUNBUFFERED": "1", **self.environment}

    def _not_ready(self) -> str | None:
        # Celery starts remote control last, after it has begun to consume: a worker that answers is ready. Without a
        # hostname, the worker that answers must be this one: no other worker uses this broker.
        broker = self.environment["CACHEKEEPER_BROKER_URL"]
        with Celery("cachekeeper-ping", broker=without_tls_options(broker), set_as_current=False) as asking:
            asking.conf.broker_use_ssl = tls_options(broker)
            asking.conf.control_exchange = CONTROL_EXCHANGE
            # Also the errors of the broker's client: kombu keeps connections, and one may be older than the broker.
            errors = cast("tuple[type[Exception], ...]", (OperationalError, *asking.connection().connection_errors))
            try:
                answers = asking.control.ping(destination=self._asked, timeout=PING_SECONDS, limit=1)
            except errors as error:
                return str(error)
        return None if answers else "it does not answer a ping"
