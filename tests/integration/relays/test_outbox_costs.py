"""How often a relay publishes: once, and again as seldom as nothing is lost by it; known-bad relays flood."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from cachekeeper.errors import BrokerUnavailable
from cachekeeper.publishing.publisher import EVENTS_PER_MESSAGE, Publisher
from cachekeeper.publishing.wire_format import OutgoingMessage
from cachekeeper.relays.outbox_relay import Relay
from producers import outbox
from testkit.gates import threads
from tests.integration.relays.outbox_lab import renamed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.integration.relays.outbox_lab import OutboxLab


class AllAtOnce(Relay):
    """A known-bad relay: publishes again whatever is due."""

    def _publish_again(self) -> int:
        self._retries.last, self._retries.size = (), EVENTS_PER_MESSAGE
        return super()._publish_again()


def without_workers(lab: OutboxLab, kind: type[Relay]) -> int:
    """How many copies wait in the broker after each of 100 events was due again ten times."""
    lab.store(*(renamed(number) for number in range(100)))
    relay = lab.relay(kind)
    for _ in range(11):
        relay.run_once()
        lab.time_passes()
    assert len(lab.stored()) == 100
    return sum(lab.published().values())


def test_a_long_time_without_workers_costs_one_backlog_and_some(outbox_lab: OutboxLab) -> None:
    assert without_workers(outbox_lab, Relay) == 100 + 16


def test_a_relay_that_publishes_all_that_is_due_costs_many(outbox_lab: OutboxLab) -> None:
    assert without_workers(outbox_lab, AllAtOnce) == 11 * 100


def test_without_workers_a_few_are_tried_now_and_then(outbox_lab: OutboxLab) -> None:
    """Else a broker that has lost everything would never be given anything that could open the way."""
    outbox_lab.store(*(renamed(number) for number in range(100)))
    relay = outbox_lab.relay()
    assert [relay.run_once(), *(outbox_lab.again(relay) for _ in range(4))] == [100, 16, 16, 16, 16]
    assert len(outbox_lab.published()) == 100


def test_while_none_leaves_a_few_are_tried_ever_more_seldom(outbox_lab: OutboxLab) -> None:
    def wait() -> float:
        return relay._retries.not_before - time.monotonic()

    outbox_lab.store(*(renamed(number) for number in range(100)))
    relay = outbox_lab.relay(outbox_retry_seconds=100)
    relay.run_once()
    for expected in (100, 200, 400, 800, 800):
        assert outbox_lab.again(relay) == 16
        assert expected - 30 < wait() <= expected
    outbox_lab.work_all()
    outbox_lab.store(*(renamed(number) for number in range(100, 200)))
    relay.run_once()
    assert outbox_lab.again(relay) == 32
    assert 70 < wait() <= 100


def test_each_time_it_takes_twice_as_long_until_it_is_published_again(outbox_lab: OutboxLab) -> None:
    outbox_lab.store(renamed(1))
    relay = outbox_lab.relay(outbox_retry_seconds=100)
    waits = []
    for _ in range(8):
        outbox_lab.again(relay)
        (found,) = outbox_lab.shop.db["outbox"].aggregate([{"$set": {"ms": {"$subtract": ["$due_at", "$$NOW"]}}}])
        waits.append(found["ms"] / 100_000)
    for wait, least in zip(waits, [1, 2, 4, 8, 16, 32, 32, 32], strict=True):
        assert 0.9 * least < wait <= 1.5 * least
    assert len({wait / least for wait, least in zip(waits, [1, 2, 4, 8, 16, 32, 32, 32], strict=True)}) == 8  # spread


def test_no_more_are_under_way_than_the_limit(outbox_lab: OutboxLab) -> None:
    outbox_lab.store(*(renamed(number) for number in range(30)))
    relay = outbox_lab.relay(outbox_limit_events=10)
    assert [relay.run_once() for _ in range(3)] == [10, 0, 0]
    assert outbox_lab.work_all() == 10
    assert [relay.run_once() for _ in range(3)] == [10, 0, 0]
    lag = outbox.outbox_lag(outbox_lab.shop.db)
    assert (lag.events, lag.under_way) == (20, 10)


def test_when_a_worker_is_back_what_was_lost_comes_in_ever_larger_parts(outbox_lab: OutboxLab) -> None:
    outbox_lab.store(*(renamed(number) for number in range(600)))
    relay = outbox_lab.relay()
    assert [relay.run_once() for _ in range(3)] == [500, 100, 0]
    outbox_lab.broker.flushdb()
    outbox_lab.time_passes()
    sizes = []
    while outbox_lab.stored():
        sizes.append(relay.run_once())  # no more time passes
        outbox_lab.work_all()
    assert sizes == [16, 32, 64, 128, 256, 104]


def test_one_that_never_leaves_does_not_keep_the_others_waiting(outbox_lab: OutboxLab) -> None:
    outbox_lab.store(*(renamed(number) for number in range(100)))
    relay = outbox_lab.relay()
    relay.run_once()
    outbox_lab.broker.flushdb()
    outbox_lab.time_passes()
    never = outbox_lab.shop.db["outbox"].find_one(sort=[("due_at", 1)])
    assert never is not None
    for _ in range(10):
        relay.run_once()
        outbox_lab.work_all()
        outbox_lab.shop.db["outbox"].update_one({"_id": never["_id"]}, {"$set": never}, upsert=True)  # it is back
    assert outbox_lab.stored() == [never["_id"]]


def test_a_broker_that_confirms_nothing_is_given_little(outbox_lab: OutboxLab, monkeypatch: pytest.MonkeyPatch) -> None:
    outbox_lab.store(*(renamed(number) for number in range(600)))
    relay = outbox_lab.relay()
    send = Publisher.send

    def taken_and_not_confirmed(publisher: Publisher, message: OutgoingMessage) -> None:
        send(publisher, message)
        raise BrokerUnavailable("no confirmation")

    with monkeypatch.context() as patch:
        patch.setattr(Publisher, "send", taken_and_not_confirmed)
        for _ in range(10):
            with pytest.raises(BrokerUnavailable):
                relay.run_once()
        assert outbox.outbox_lag(outbox_lab.shop.db).under_way == 0  # to be published at once when it is back
    assert sum(outbox_lab.published().values()) == 500 + 9 * 16
    assert [relay.run_once() for _ in range(3)] == [16, 500, 84]
    assert len(outbox_lab.published()) == 600


def test_a_record_that_was_published_often_travels_alone(outbox_lab: OutboxLab) -> None:
    outbox_lab.store(*(renamed(number) for number in range(4)))
    outbox_lab.shop.db["outbox"].update_one({"_id": outbox_lab.stored()[0]}, {"$set": {"attempts": 3}})
    outbox_lab.relay().run_once()
    assert outbox_lab.broker.llen("cachekeeper") == 2


class ClaimsWhatItSaw(Relay):
    """A known-bad relay: does not look again whether a record is still due. Two of them look at the same moment."""

    looked = threading.Barrier(2)
    first = True

    def _claim(self, due: Mapping[str, Any], limit: int) -> list[dict[str, Any]]:
        chosen = list(self._outbox.find(due).limit(limit))
        if self.first:
            self.first = False
            self.looked.wait(20)  # else the one might be through before the other begins
        ids = [record["_id"] for record in chosen]
        self._outbox.update_many({"_id": {"$in": ids}}, self._claimed("mine"))
        return [{**record, "attempts": 1} for record in chosen]


def two_relays(lab: OutboxLab, kind: type[Relay]) -> list[int]:
    """How often each event was published by two relays at work at once."""
    for start in (0, 1000):
        lab.store(*(renamed(number) for number in range(start, start + 1000)))
    relays = [lab.relay(kind) for _ in range(2)]
    ready = threading.Barrier(2)

    def publish(relay: Relay) -> int:
        ready.wait(20)
        total = 0
        while lab.shop.db["outbox"].find_one({"due_at": None}) is not None:
            total += relay.run_once()
        return total

    with threads() as go:
        shares = [go(publish, relay) for relay in relays]
        assert sum(share.result(60) for share in shares) >= 2000
    seen = lab.published()
    assert sorted(seen) == lab.stored()
    return list(seen.values())


def test_two_relays_share_the_work(outbox_lab: OutboxLab) -> None:
    assert set(two_relays(outbox_lab, Relay)) == {1}


def test_two_relays_that_do_not_look_again_publish_twice(outbox_lab: OutboxLab) -> None:
    assert 2 in two_relays(outbox_lab, ClaimsWhatItSaw)
