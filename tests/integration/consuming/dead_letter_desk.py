"""A worker whose events fail, and the command for their dead letters, in one process."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from kombu import Connection
from redis import Redis

from cachekeeper import cli
from cachekeeper.broker.names import QUEUE
from cachekeeper.broker.queues import transport_options
from cachekeeper.consuming.messages import read_message
from cachekeeper.consuming.processor import Processor, Verdict
from cachekeeper.model.registry import Registry, load_registry
from cachekeeper.publishing.wire_format import task_body, task_headers
from producers import UserLoggedOut
from testkit.patient_publishing import ANSWER_SECONDS, PUBLISH_SECONDS
from testkit.verdicts import verdicts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from cachekeeper.model.commands import Command
    from testkit.shop import Shop

MODULES = ("producers", "lookups", "worker")
TOKEN = "correct-horse-battery-staple"
SESSION = "session-4711471147"
LOGOUT = UserLoggedOut(id="e1", token_id=TOKEN, session_id=SESSION, user_id="42")


def broken() -> Registry:
    """A deployment whose handler of logouts has a bug, and an error that quotes what it should not."""
    registry = load_registry(MODULES)

    def handle(event: UserLoggedOut) -> list[Command]:
        raise RuntimeError(f"no place for {event.token_id!r} of {event.session_id!r}\x1b[2J")

    registry.handlers[UserLoggedOut] = handle
    return registry


@dataclass
class Ran:
    """How a command ended."""

    status: int | str | None
    out: str
    err: str

    @property
    def rows(self) -> list[dict[str, str]]:
        """What `list` printed."""
        header, *rows = (line.split("\t") for line in self.out.splitlines())
        return [dict(zip(header, row, strict=True)) for row in rows]


class Desk:
    """One test's letters, broker and workers. The broker is database 1 of the shop's Redis."""

    def __init__(self, shop: Shop, run: Callable[..., Ran]) -> None:
        self.shop = shop
        self.url = f"redis://127.0.0.1:{shop.server.port}/1"
        self.broker = Redis.from_url(self.url)
        self.connection = Connection(self.url, transport_options=transport_options(self.url, ANSWER_SECONDS))
        self.deliveries: list[Processor] = []
        self.mended = self.worker(load_registry(MODULES))
        self.broken = self.worker(broken())
        self.run = run

    def worker(self, registry: Registry, **changes: Any) -> Processor:
        delivery = Processor(self.shop.settings(broker_url=self.url, **changes), registry)
        self.deliveries.append(delivery)
        delivery.indexes.run_once()
        delivery.pause.start()
        assert delivery.pause.is_over
        return delivery

    def fail(self, *bodies: object, message_id: str = "m1") -> None:
        """A message with these in the place of events comes to the broken worker."""
        message = FakeMessage(task_body([json.dumps(body) for body in bodies]), task_headers(message_id, len(bodies)))
        self.work(self.broken, message)

    def work(self, delivery: Processor, message: Any) -> None:
        assert verdicts(delivery, [read_message(message)]) == [Verdict.DONE]

    def work_all(self, delivery: Processor) -> int:
        """Deal with all messages that wait; how many they were."""
        messages = 0
        channel: Any = self.connection.default_channel
        while (message := channel.basic_get(QUEUE, no_ack=True)) is not None:
            messages += 1
            self.work(delivery, message)
        return messages

    @property
    def letters(self) -> list[dict[str, Any]]:
        return list(self.shop.db["dead_letters"].find().sort("first_at", 1))

    def close(self) -> None:
        for delivery in self.deliveries:
            delivery.pause.stop()
            delivery.keeper.close()
        self.connection.release()
        self.broker.close()


class FakeMessage:
    """What the broker delivers, as far as it is read."""

    errors: tuple[object, ...] = ()
    content_type = "application/json"

    def __init__(self, body: bytes, headers: dict[str, Any]) -> None:
        self.body, self.headers = body, headers


@pytest.fixture
def desk(shop: Shop, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Desk]:
    def run(*arguments: str, **environment: str) -> Ran:
        """`cachekeeper dead`, in this process."""
        with monkeypatch.context() as patch:
            for name in [name for name in os.environ if name.startswith("CACHEKEEPER_")]:
                patch.delenv(name)
            for name, value in environment_of(made).items():
                patch.setenv(name, environment.get(name, value))
            patch.setattr(sys, "argv", ["cachekeeper", "dead", *arguments])
            capsys.readouterr()
            with pytest.raises(SystemExit) as ended:
                cli.main()
        printed = capsys.readouterr()
        assert_nothing_told(printed.out + printed.err + str(ended.value))
        return Ran(ended.value.code, printed.out, printed.err)

    made = Desk(shop, run)
    yield made
    made.close()


def environment_of(desk: Desk) -> Mapping[str, str]:
    """No Redis cache: looking after letters needs none."""
    return {
        "CACHEKEEPER_MONGODB_URL": desk.shop.mongo.url_of(desk.shop.name),
        "CACHEKEEPER_BROKER_URL": desk.url,
        "CACHEKEEPER_PUBLISH_TIMEOUT_SECONDS": str(PUBLISH_SECONDS),
        "CACHEKEEPER_LOAD_TIMEOUT_SECONDS": "10",
    }


def assert_nothing_told(text: str) -> None:
    for secret in (TOKEN, SESSION, "4711471147", "battery"):
        assert secret not in text
