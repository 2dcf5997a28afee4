"""How far it is from `publish` to the broker, and from a message to the Lua script, in calls of ours."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest
import redis
from kombu import Producer

from cachekeeper.consuming.message_batcher import MessageBatcher
from cachekeeper.consuming.messages import EventMessage
from cachekeeper.consuming.processor import Processor, Verdict
from cachekeeper.model.registry import load_registry
from cachekeeper.publishing import publisher as publishing
from cachekeeper.publishing.publisher import Publisher
from producers import UserUpdated

if TYPE_CHECKING:
    from collections.abc import Callable

    from testkit.shop import Shop

OURS = ("cachekeeper", "lookups", "producers", "worker")
EVENT = UserUpdated(user_id="1", name="Ann", version=2)


def frames() -> list[str]:
    """The calls of ours that are under way, the outermost first."""
    root = Path(publishing.__file__).parents[2]
    return [
        frame.name
        for frame in traceback.extract_stack()
        if Path(frame.filename).is_relative_to(root) and Path(frame.filename).relative_to(root).parts[0] in OURS
    ]


def noted(monkeypatch: pytest.MonkeyPatch, where: type, name: str) -> list[list[str]]:
    """At each call of a library's method, the calls of ours around it."""
    seen: list[list[str]] = []
    original: Callable[..., Any] = getattr(where, name)

    def call(*args: Any, **options: Any) -> Any:
        seen.append(frames())
        return original(*args, **options)

    monkeypatch.setattr(where, name, call)
    return seen


def test_from_publish_to_the_broker_it_is_four_at_most(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = noted(monkeypatch, Producer, "publish")
    publisher = Publisher(shop.settings(broker_url=shop.server.url))
    monkeypatch.setattr(publishing, "_default", publisher)
    publishing.publish(EVENT)
    publisher.close()
    (calls,) = seen
    assert len(calls) <= 4, calls


class Request:
    """A message, as far as the batcher knows it."""

    def __init__(self) -> None:
        self.read, self.events = EventMessage("m1", [EVENT.to_wire()]), 1
        self.verdict: Verdict | None = None

    def on_accepted(self, *_: object) -> None:
        """Celery is told so."""

    def settle(self, verdict: Verdict, _seconds: float) -> None:
        self.verdict = verdict


class Pool:
    """One thread: the test's."""

    limit = 1

    def apply_async(self, target: Callable[[], None], callback: object) -> None:
        del callback
        target()


def test_from_a_message_to_the_script_it_is_ten_at_most(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = shop.settings(broker_url=shop.server.url)
    processor = Processor(settings, load_registry(settings.modules))
    processor.pause._over = True  # as after a first attempt; no thread of its own is wanted
    seen = noted(monkeypatch, redis.Redis, "evalsha")
    request = Request()
    MessageBatcher(Pool(), processor).add(cast("Any", request))
    processor.keeper.close()
    assert request.verdict is Verdict.DONE
    to_the_write = seen[0][seen[0].index("_work") :]
    assert len(to_the_write) <= 10, to_the_write
