"""`make soak`: made-up series are judged as flat or not."""

from __future__ import annotations

import random
import threading
from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING

import pytest

from producers import ProductChanged, UserLoggedOut, UserUpdated
from testkit.report import Figure
from verification.soak.brokers import Broker, Overview, look_until
from verification.soak.judging import LONG, LONG_SECONDS, SHORT, limits_of, points, trend
from verification.soak.results import figures_of, series_of
from verification.soak.sampling import CONNECTIONS, FILES, MEMORY, METRICS, THREADS, Sample, Soaked
from verification.soak.workload import PRODUCTS, USERS, event_of, number_in, product_name

if TYPE_CHECKING:
    from collections.abc import Callable

PROCESSES = ("worker", "publisher", "reader")
LEVELS = {MEMORY: 80.0, THREADS: 13.0, FILES: 25.0, CONNECTIONS: 15.0}
EVENTS_PER_SECOND = 250


def soaked(
    duration: float, cut_seconds: float, leak: Callable[[float, int], dict[str, float]] = lambda _at, _cuts: {}
) -> Soaked:
    """Make up a run: its levels are noisy, its connections fall to zero at each cut, and its worker leaks.

    Args:
        duration: seconds of load.
        cut_seconds: seconds between two cuts.
        leak: given the seconds and the cuts so far, returns the leaked amount by metric.
    """
    rng = random.Random(5)
    found = Soaked(
        duration,
        prefetch=[16],
        in_hand=[3],
        queued=[0],
        unacked=[0],
        connected=[9],
        granted=[16],
        looks_due=1,
        configured=16,
        published=1000,
        applied=1000,
        cached=USERS,
        reconnects=int(duration / cut_seconds),
        spent=dict.fromkeys(PROCESSES, 1.0),
        load=[1.0],
    )
    for at in range(1, int(duration) + 1):
        cuts, calm = int(at // cut_seconds), at % cut_seconds
        levels = {name: dict(LEVELS) for name in PROCESSES}
        for metric, more in leak(at, cuts).items():
            levels["worker"][metric] += more
        for process in levels.values():
            process[MEMORY] += rng.uniform(-1, 1) + 3 * (1 - 0.5 ** (at / duration * 20))  # a warm-up
            process[CONNECTIONS] += rng.choice((-1, 0, 0, 1)) if calm >= 1 else -process[CONNECTIONS]
        found.samples.append(Sample(at, cuts, calm, at * EVENTS_PER_SECOND, levels))
    found.published = found.applied = int(duration * EVENTS_PER_SECOND)
    return found


def missed(found: Soaked, kind: str = "rabbitmq") -> list[str]:
    """The figures that miss their target."""
    return [each.figure for each in figures_of(kind, found) if each.held is False]


@pytest.mark.parametrize(("duration", "cut_seconds"), [(60, 5), (3600, 20)])
def test_noise_cuts_and_a_warm_up_are_flat(duration: float, cut_seconds: float) -> None:
    assert missed(soaked(duration, cut_seconds)) == []


@pytest.mark.parametrize(("duration", "cut_seconds"), [(60, 5), (3600, 20)])
@pytest.mark.parametrize("metric", [FILES, CONNECTIONS])
def test_two_at_each_cut_are_found(duration: float, cut_seconds: float, metric: str) -> None:
    found = missed(soaked(duration, cut_seconds, lambda _, cuts: {metric: 2 * cuts}))
    assert f"rabbitmq: worker, {metric}: rise from then to the end" in found


@pytest.mark.parametrize(("duration", "cut_seconds"), [(60, 5), (3600, 20)])
def test_a_thread_at_each_cut_is_found(duration: float, cut_seconds: float) -> None:
    found = missed(soaked(duration, cut_seconds, lambda _, cuts: {THREADS: cuts}))
    assert f"rabbitmq: worker, {THREADS}: rise from then to the end" in found


def test_a_minute_finds_a_message_kept_at_each_event() -> None:
    kept = 4096 * EVENTS_PER_SECOND / (1 << 20)  # MiB a second
    found = missed(soaked(60, 5, lambda at, _: {MEMORY: kept * at}))
    assert found == [f"rabbitmq: worker, {MEMORY}: rise from then to the end"]


@pytest.mark.parametrize("metric", [THREADS, FILES, CONNECTIONS])
def test_an_hour_finds_one_at_every_twentieth_cut(metric: str) -> None:
    slow = lambda _, cuts: {metric: cuts // 20}  # noqa: E731
    assert any(metric in figure for figure in missed(soaked(3600, 20, slow)))
    assert missed(soaked(60, 5, slow)) == []  # a minute is too short to find it


def test_an_hour_finds_ten_mebibytes() -> None:
    assert any("slope" in figure for figure in missed(soaked(3600, 20, lambda at, _: {MEMORY: at / 360})))


def test_a_leak_of_another_process_does_not_hide() -> None:
    found = soaked(3600, 20)
    for sample in found.samples:
        sample.levels["publisher"][FILES] += sample.cuts  # type: ignore[index]
    assert {figure.split(",")[0] for figure in missed(found)} == {"rabbitmq: publisher"}


def test_one_outlier_moves_nothing() -> None:
    found = soaked(3600, 20)
    for sample in found.samples[-30:]:
        sample.levels["worker"][MEMORY] += 500  # type: ignore[index]
    assert missed(found) == []


def test_what_a_minute_cannot_tell_is_not_told() -> None:
    assert limits_of(60) is SHORT
    assert limits_of(LONG_SECONDS) is LONG
    assert not [each for each in figures_of("redis", soaked(60, 5)) if "slope" in each.figure]


def test_too_few_points_are_no_verdict() -> None:
    with pytest.raises(ValueError, match="5 points are too few"):
        trend([(float(at), 1.0) for at in range(5)])


def test_a_trend_tells_level_rise_and_slope() -> None:
    seen = trend([(60.0 * minute, 10.0 + minute) for minute in range(9)])
    assert (seen.start, seen.rise, seen.slope) == (11.0, 6.0, 60.0)


def test_what_follows_a_cut_and_the_warm_up_do_not_count() -> None:
    level = {"worker": {MEMORY: 1.0}}
    high = {"worker": {MEMORY: 99.0}}
    samples = [
        Sample(1, 0, 1, 0, high),
        Sample(10, 0, 10, 0, high),
        Sample(11, 1, 1, 0, high),
        Sample(18, 1, 8, 0, level),
        Sample(20, 1, 10, 0, level),
    ]
    assert points(samples, "worker", MEMORY, after=15) == [(20, 1.0)]


@pytest.mark.parametrize(
    ("change", "figure"),
    [
        ({"prefetch": [16, 17, 16]}, "prefetch that the worker applies, the most"),
        ({"granted": [17]}, "prefetch that the broker grants, the most"),
        ({"in_hand": [33]}, "messages in flight in the worker, the most"),
        ({"queued": [0, 101]}, "messages that wait in the queue, median of the last quarter"),
        ({"reconnects": 10}, "times that the worker connected to the broker again"),
        ({"looks_due": 5}, "looks at the broker"),
        ({"failed_looks": ["TimeoutExpired"]}, "looks at the broker that failed"),
        ({"granted": []}, "looks at which RabbitMQ granted the worker a prefetch"),
        ({"applied": 14_999}, "events lost behind the broker's confirmation"),
        ({"stale": 1}, "cached names that differ from MongoDB in the end"),
        ({"cached": USERS - 1}, "cached names in the end"),
        ({"waiting": 1}, "messages left in the queue"),
        ({"held": 1}, "messages left in flight"),
        ({"letters": 1}, "dead letters"),
        ({"keys": 9}, "keys left in the broker's Redis"),
    ],
)
def test_each_end_is_judged(change: dict[str, object], figure: str) -> None:
    found = soaked(60, 5)
    for name, value in change.items():
        setattr(found, name, value)
    assert missed(found) == [f"rabbitmq: {figure}"]


def test_what_the_worker_holds_while_it_is_not_connected_does_not_count() -> None:
    found = soaked(60, 5, lambda _, cuts: {FILES: 3 * cuts})
    figure = f"rabbitmq: worker, {FILES}: rise from then to the end"
    assert figure in missed(found)
    for index, sample in enumerate(found.samples):
        if sample.at % 5 == 4:
            sample.levels["worker"][FILES] = LEVELS[FILES]  # type: ignore[index]
        else:
            found.samples[index] = replace(sample, calm=0)
    assert missed(found) == []


class UnreliableBroker(Broker):
    """A broker that answers every other look, and sets `ending` at the last one."""

    look_seconds = 0.0

    def __init__(self, ending: threading.Event, looks: int) -> None:
        self._ending = ending
        self._left = looks

    def overview(self) -> Overview:
        self._left -= 1
        if not self._left:
            self._ending.set()
        if self._left % 2:
            raise TimeoutError("no answer")
        return Overview(unacked=1, connections=2, prefetch=16)

    def waiting(self) -> int:
        return 3


def test_a_look_that_fails_is_counted_and_the_next_one_is_made() -> None:
    ending, found = threading.Event(), Soaked(60)
    look_until(ending, UnreliableBroker(ending, 6), found)
    assert (found.queued, found.unacked, found.connected, found.granted) == ([3] * 3, [1] * 3, [2] * 3, [16] * 3)
    assert found.failed_looks == ["TimeoutError: no answer"] * 3


def test_redis_alone_may_lose_what_was_on_its_way() -> None:
    found = soaked(60, 5)
    found.applied -= 1
    assert missed(found, "redis") == []
    assert Figure("redis: events lost behind the broker's confirmation", 1, "") in figures_of("redis", found)


def test_an_hour_is_told_minute_by_minute() -> None:
    found = series_of(soaked(3600, 20))
    assert {len(found[process][metric]) for process in PROCESSES for metric in METRICS} == {60}


def test_events_tell_their_number() -> None:
    for number in range(400):
        event = event_of(number)
        assert number_in(event.to_wire()) == number
    assert number_in({"id": "mark-7"}) is None
    assert number_in("soak-7") is None


def test_all_kinds_of_events_come_and_each_user_has_some() -> None:
    events = [event_of(number) for number in range(20 * USERS)]
    assert {type(event) for event in events} == {UserUpdated, UserLoggedOut, ProductChanged}
    assert len({event.user_id for event in events if isinstance(event, UserUpdated)}) == USERS


def test_a_product_is_called_what_its_next_event_says_it_was_called() -> None:
    names = {product: product_name(product - PRODUCTS) for product in range(PRODUCTS)}
    for number in count():
        event = event_of(number)
        if isinstance(event, ProductChanged):
            product = int(event.product_id)
            assert event.previous_name == names[product]
            names[product] = str(event.name)
        if number > 3 * 20 * PRODUCTS:
            return
