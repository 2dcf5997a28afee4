"""The notes of the spy in the workers of a fault-injection run: how an event came, and when its writes returned."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import pytest

import producers
import worker
from cachekeeper.applying import batch as applying
from cachekeeper.applying.batch import Applied
from cachekeeper.consuming import processor
from cachekeeper.consuming.messages import EventMessage
from cachekeeper.errors import CacheUnavailable
from cachekeeper.model.commands import Command, Write
from cachekeeper.model.registry import Registry
from producers import ProductChanged, UserUpdated
from verification.chaos.spy import Spy, read_acks

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

USER = UserUpdated(user_id="u", name="u #1", version=1)
AWAY = UserUpdated(user_id="away", name="away #1", version=1)
PRODUCT = ProductChanged(product_id="p", name="Lamp")


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The journal of a watching spy. The spy is removed after the test."""
    monkeypatch.setattr(EventMessage, "__init__", EventMessage.__init__)
    monkeypatch.setattr(Registry, "decode", Registry.decode)
    monkeypatch.setattr(Registry, "commands", Registry.commands)
    monkeypatch.setattr(applying._Plan, "_guard", staticmethod(applying._Plan._guard))
    monkeypatch.setattr(applying, "apply", in_turn)
    monkeypatch.setattr(processor, "apply", processor.apply)  # type: ignore[attr-defined]
    written: list[str] = []
    clock = itertools.count(1)
    Spy(written.append, lambda: next(clock)).watch()
    return written


def in_turn(_: object, batch: Sequence[Sequence[Command]]) -> list[Applied]:
    """Apply a batch as the product does, but let the writes of the events return one event after the other."""
    results = [Applied() for _ in batch]
    for commands, result in zip(batch, results, strict=True):
        with applying._Plan._guard([result]):
            write(commands)
    return results


def write(commands: Sequence[Command]) -> None:
    if any(isinstance(command, Write) and command.id == AWAY.user_id for command in commands):
        raise CacheUnavailable("away")


@pytest.fixture
def registry() -> Registry:
    registry = Registry()
    producers.register(registry)
    worker.register(registry)
    return registry


def arrive(registry: Registry, *parcels: EventMessage) -> None:
    """Do with messages what a worker does: decode, handle and apply them."""
    batch = [registry.commands(registry.decode(body)) for parcel in parcels for body in parcel.events]
    apply: Callable[..., Any] = processor.apply  # type: ignore[attr-defined]
    apply(None, batch)


def test_an_event_is_known_by_the_way_it_came(lines: list[str], registry: Registry) -> None:
    arrive(
        registry,
        EventMessage("m1", [USER.to_wire()], outbox=True),
        EventMessage("m2", [USER.to_wire(), PRODUCT.to_wire()]),
    )
    acks = read_acks("".join(lines))
    assert [(ack.event, ack.outbox) for ack in acks] == [(USER.id, True), (USER.id, False), (PRODUCT.id, False)]
    assert (acks[0].kind, acks[0].key, acks[0].name) == ("u", "u", "u #1")


def test_an_event_is_acknowledged_when_its_own_writes_have_returned(lines: list[str], registry: Registry) -> None:
    arrive(registry, EventMessage("m1", [USER.to_wire(), PRODUCT.to_wire()]))
    assert [ack.at for ack in read_acks("".join(lines))] == [1, 2]


def test_an_event_whose_writes_failed_is_not_acknowledged(lines: list[str], registry: Registry) -> None:
    arrive(registry, EventMessage("m1", [AWAY.to_wire(), USER.to_wire()]))
    assert [ack.event for ack in read_acks("".join(lines))] == [USER.id]
