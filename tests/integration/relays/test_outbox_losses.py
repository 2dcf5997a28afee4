"""What a broker loses, or a worker that is killed has in hand, is published again; known-bad variants lose it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

import cachekeeper.consuming.processor
from cachekeeper.consuming.processor import Verdict
from cachekeeper.reading.keeper import Keeper
from cachekeeper.relays.outbox import remove_delivered
from cachekeeper.relays.outbox_relay import Relay
from testkit.faults import DeletesWhenPublished
from tests.integration.relays.outbox_lab import Killed, old_names_are_cached, stale

if TYPE_CHECKING:
    from tests.integration.relays.outbox_lab import OutboxLab


def the_broker_loses_everything(lab: OutboxLab, kind: type[Relay]) -> list[str]:
    events = old_names_are_cached(lab, 20)
    lab.store(*events)
    relay = lab.relay(kind)
    assert relay.run_once() == 20
    lab.broker.flushdb()
    for _ in range(10):
        if not lab.stored():
            break
        lab.again(relay)
        lab.work_all()
    return stale(lab, events)


def test_what_a_broker_loses_is_published_again(outbox_lab: OutboxLab) -> None:
    assert the_broker_loses_everything(outbox_lab, Relay) == []
    assert outbox_lab.stored() == []


def test_a_relay_that_trusts_the_broker_loses_it(outbox_lab: OutboxLab) -> None:
    assert len(the_broker_loses_everything(outbox_lab, DeletesWhenPublished)) == 20


GAPS = ["before the database", "before Redis", "before it leaves", "before the acknowledgement"]


def kill_worker_at(monkeypatch: pytest.MonkeyPatch, gap: str) -> None:
    def killed(*_: object) -> None:
        raise Killed

    work: Any = cachekeeper.consuming.processor
    match gap:
        case "before the database":
            monkeypatch.setattr(work, "apply", killed)
        case "before Redis":
            monkeypatch.setattr("cachekeeper.applying.batch._Plan.run", killed)
        case "before it leaves":
            monkeypatch.setattr(work, "remove_delivered", killed)
        case "before the acknowledgement":
            monkeypatch.setattr(work.Processor, "_warm", killed)


def a_worker_is_killed(lab: OutboxLab, monkeypatch: pytest.MonkeyPatch, gap: str) -> list[str]:
    """The broker loses its message besides, as Redis does now and then."""
    events = old_names_are_cached(lab, 5)
    lab.store(*events)
    relay = lab.relay()
    relay.run_once()
    message = lab.take()
    assert message is not None
    with monkeypatch.context() as patch:
        kill_worker_at(patch, gap)
        with pytest.raises(Killed):
            lab.work(message)
    lab.new_worker()
    for _ in range(10):
        if not lab.stored():
            break
        lab.again(relay)
        lab.work_all()
    return stale(lab, events)


@pytest.mark.parametrize("gap", GAPS)
def test_a_worker_killed_at_any_point_leaves_the_record_or_has_applied_it(
    outbox_lab: OutboxLab, monkeypatch: pytest.MonkeyPatch, gap: str
) -> None:
    assert a_worker_is_killed(outbox_lab, monkeypatch, gap) == []
    assert outbox_lab.stored() == []


@pytest.mark.parametrize("gap", GAPS[:2])
def test_a_worker_that_removes_before_it_applies_loses_it(
    outbox_lab: OutboxLab, monkeypatch: pytest.MonkeyPatch, gap: str
) -> None:
    """Known-bad: acknowledged early, as Celery does by default."""
    deal_with = outbox_lab.delivery._deal_with

    def leaves_first(messages: Any, strikes: int) -> None:
        for message in messages:
            remove_delivered(outbox_lab.delivery.keeper, message.events)
        deal_with(messages, strikes)

    monkeypatch.setattr(outbox_lab.delivery, "_deal_with", leaves_first)
    assert len(a_worker_is_killed(outbox_lab, monkeypatch, gap)) == 5


def test_where_the_record_cannot_be_removed_the_message_goes_back(
    outbox_lab: OutboxLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = old_names_are_cached(outbox_lab, 1)
    outbox_lab.store(*events)
    outbox_lab.relay().run_once()
    message = outbox_lab.take()
    assert message is not None
    blind = Keeper(outbox_lab.shop.settings(mongodb_url="mongodb://127.0.0.1:1/none", load_timeout_seconds=0.1))
    with monkeypatch.context() as patch:
        patch.setattr(
            cachekeeper.consuming.processor, "remove_delivered", lambda _, bodies: remove_delivered(blind, bodies)
        )
        assert outbox_lab.work(message) is Verdict.AWAY
    assert len(outbox_lab.stored()) == 1
    blind.close()
