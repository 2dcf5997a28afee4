"""Users of a RabbitMQ with few rights, or with limits."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from testkit.servers import RabbitServer

NAME, PASSWORD = "shop", "rights-1234"
NOTHING = "^$"


def ctl(broker: RabbitServer, *words: str) -> None:
    """Run `rabbitmqctl`. Takes a second or two."""
    program = broker.found.path.with_name("rabbitmqctl")
    done = subprocess.run(
        [str(program), "-n", broker.node, "-q", *words],
        env=dict(broker._environment()),  # the node's cookie and port mapper
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def add_user(broker: RabbitServer) -> str:
    """A user without any right. Returns the URL of that user."""
    ctl(broker, "add_user", NAME, PASSWORD)
    return broker.url.replace("guest:guest@", f"{NAME}:{PASSWORD}@")


def grant(broker: RabbitServer, configure: str, write: str, read: str, *, vhost: str = "/") -> None:
    """Give it these rights, and no others."""
    ctl(broker, "set_permissions", "-p", vhost, NAME, configure, write, read)
