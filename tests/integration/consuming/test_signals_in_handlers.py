"""With `-P solo` signal handlers run amid the work: what they raise ends the worker, and makes no dead letter."""

from __future__ import annotations

import asyncio
import signal
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from celery.exceptions import WorkerShutdown, WorkerTerminate

from cachekeeper.consuming import processor
from cachekeeper.consuming.messages import EventMessage
from cachekeeper.consuming.processor import Processor, Verdict
from lookups import read_user
from testkit.delivering import REGISTRY
from testkit.verdicts import verdicts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from testkit.shop import Shop

ENDS = (WorkerTerminate, WorkerShutdown, KeyboardInterrupt)


@pytest.fixture(params=ENDS)
def end(request: pytest.FixtureRequest) -> Iterator[type[BaseException]]:
    """What SIGUSR1 raises in the main thread, as Celery's handlers and Python's own do for other signals."""
    ends: type[BaseException] = request.param

    def handle(*_: object) -> None:
        raise ends(1)

    before = signal.signal(signal.SIGUSR1, handle)
    yield ends
    signal.signal(signal.SIGUSR1, before)


@pytest.fixture
def delivery(stocked: Shop) -> Iterator[Processor]:
    settings = stocked.settings(redis_url=stocked.server.url, broker_url=stocked.server.url_of(1))
    delivery = Processor(settings, REGISTRY)
    delivery.pause._over = True  # as after a first attempt; no thread of its own is wanted
    yield delivery
    delivery.keeper.close()


def message() -> EventMessage:
    return EventMessage("m1", [{"type": "user.updated", "user_id": "1", "name": "Bob"}])


def signalled(*_: object, **__: object) -> Any:
    signal.raise_signal(signal.SIGUSR1)


def with_commands(commands: Callable[..., Any]) -> Any:
    """The registry, with handlers of this kind."""
    return SimpleNamespace(decode=REGISTRY.decode, events=REGISTRY.events, commands=commands)


def in_a_handler(delivery: Processor, _: pytest.MonkeyPatch) -> None:
    delivery.registry = with_commands(signalled)


def in_a_batch(_: Processor, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(processor, "apply", signalled)


def in_an_event_alone(delivery: Processor, patch: pytest.MonkeyPatch) -> None:
    delivery.pause._strikes["m1"] = 1
    patch.setattr(processor, "apply", signalled)


@pytest.mark.parametrize("where", [in_a_handler, in_a_batch, in_an_event_alone])
def test_the_message_comes_again(
    stocked: Shop,
    delivery: Processor,
    monkeypatch: pytest.MonkeyPatch,
    end: type[BaseException],
    where: Callable[[Processor, pytest.MonkeyPatch], None],
) -> None:
    given = message()
    with monkeypatch.context() as patch:
        where(delivery, patch)
        with pytest.raises(end):
            verdicts(delivery, [given])
    assert stocked.db.dead_letters.count_documents({}) == 0


def test_it_ends_the_reading_of_warm_views_too(
    delivery: Processor, monkeypatch: pytest.MonkeyPatch, end: type[BaseException]
) -> None:
    read_user(1, keeper=delivery.keeper)
    monkeypatch.setattr(processor, "warm_keys", signalled)
    given = message()
    with pytest.raises(end):
        verdicts(delivery, [given])


@pytest.mark.parametrize("end", [*ENDS, SystemExit, asyncio.CancelledError])
def test_in_a_thread_of_the_pool_it_is_the_handler_s_own(
    stocked: Shop, delivery: Processor, end: type[BaseException]
) -> None:
    def commands(_: object) -> Any:
        raise end(1)

    delivery.registry = with_commands(commands)
    with ThreadPoolExecutor(1) as pool:
        said = pool.submit(verdicts, delivery, [message()]).result()
    assert said == [Verdict.DONE]
    assert stocked.db.dead_letters.count_documents({}) == 1


@pytest.mark.parametrize("end", [SystemExit, asyncio.CancelledError])
def test_what_no_signal_raises_is_the_handler_s_own_in_the_main_thread_too(
    stocked: Shop, delivery: Processor, end: type[BaseException]
) -> None:
    def commands(_: object) -> Any:
        raise end(1)

    delivery.registry = with_commands(commands)
    assert verdicts(delivery, [message()]) == [Verdict.DONE]
    assert stocked.db.dead_letters.count_documents({}) == 1
