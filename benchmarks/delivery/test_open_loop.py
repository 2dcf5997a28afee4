"""Tests of the delivery benchmark's own logic: when messages are due, and from when on a latency counts."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence

import pytest

from benchmarks.delivery import workload
from benchmarks.delivery.open_loop import Offer, offered, percentile, watch
from cachekeeper.publishing.publisher import event_text
from producers import UserUpdated

OFFER = Offer(rate=10, seconds=1, size=2, users=6, version=100)


class Clock:
    """A clock that moves only when the code under test sleeps or works."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._lock = threading.Lock()

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        with self._lock:
            self.now += seconds


@pytest.mark.parametrize(
    ("values", "part", "expected"),
    [
        ([3.0, 1.0, 2.0], 0.5, 2.0),
        ([1.0, 2.0, 3.0, 4.0], 0.5, 2.0),
        ([1.0, 2.0, 3.0, 4.0], 0.99, 4.0),
        ([float(n) for n in range(1, 101)], 0.99, 99.0),
        ([float(n) for n in range(1, 201)], 0.99, 198.0),
        ([7.0], 0.01, 7.0),
        ([1.0, 2.0], 0.0, 1.0),
        ([1.0, 2.0], 1.0, 2.0),
    ],
)
def test_percentiles_are_values_that_were_measured(values: list[float], part: float, expected: float) -> None:
    assert percentile(values, part) == expected


def test_an_offer_is_due_at_a_fixed_rate_and_goes_round() -> None:
    assert OFFER.count == 10
    assert [OFFER.due(number) for number in (0, 1, 9)] == [0, 0.1, 0.9]
    assert [OFFER.of_message(number) for number in (0, 2, 3)] == [[0, 1], [4, 5], [0, 1]]
    assert [OFFER.version_of_message(number) for number in (0, 3)] == [100, 103]


def test_a_message_is_sent_when_it_is_due() -> None:
    clock, sent = Clock(), list[tuple[int, float]]()
    late = offered(
        lambda number: sent.append((number, clock())), OFFER, 1001.0, threads=1, clock=clock, sleep=clock.sleep
    )
    assert [number for number, _ in sent] == list(range(10))
    assert [at for _, at in sent] == pytest.approx([1001 + number / 10 for number in range(10)])
    assert late == pytest.approx([0] * 10)


def test_a_broker_that_is_slow_once_delays_no_time_that_is_due() -> None:
    clock = Clock()

    def send(number: int) -> None:
        clock.sleep(0.35 if number == 2 else 0.01)

    late = offered(send, OFFER, clock(), threads=1, clock=clock, sleep=clock.sleep)
    # Messages are due at 0.2, 0.3, …; sending the one of 0.2 takes until 0.55.
    assert late == pytest.approx([0, 0, 0, 0.25, 0.16, 0.07, 0, 0, 0, 0])


def test_latency_counts_from_when_a_message_was_due() -> None:
    clock = Clock()
    begin = clock()
    visible = [0.1, 0.2, 0.9, 0.91, 0.92, 0.93, 0.94, 0.95, 0.96, 1.0]  # the third is late, and all after it

    def seen(users: list[int]) -> Sequence[int]:
        done = [number for number, at in enumerate(visible) if clock() >= begin + at]
        latest = {user: OFFER.version_of_message(number) for number in done for user in OFFER.of_message(number)}
        return [latest.get(user, 0) for user in users]

    found = watch(seen, OFFER, begin, clock=clock, sleep=clock.sleep)
    wanted = [at - number / 10 for number, at in enumerate(visible)]
    assert sorted(found) == pytest.approx(sorted(wanted), abs=0.003)  # it looks every millisecond
    assert max(found) == pytest.approx(0.7, abs=0.003)


def test_what_never_becomes_visible_is_an_error() -> None:
    clock = Clock()
    with pytest.raises(AssertionError, match="messages are not applied"):
        watch(lambda users: [0] * len(users), OFFER, clock(), clock=clock, sleep=lambda _: clock.sleep(1))


def test_the_workload_is_what_publish_would_put_on_the_wire() -> None:
    text = workload.text(7, 3)
    said = json.loads(text)
    name = workload.document(7, 3)["name"]
    assert text == event_text(UserUpdated(id=said["id"], time=said["time"], user_id="7", name=name, version=3))
    assert workload.text(7, 3) != workload.text(7, 3), "each event has an id of its own"


def test_the_workload_knows_its_own_values_and_no_others() -> None:
    assert [workload.version_of(value) for value in (None, workload.cached(12))] == [0, 12]
    with pytest.raises(AssertionError, match="was never published"):
        workload.version_of(b"Ada")
