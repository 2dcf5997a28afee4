"""Publishes at a fixed rate, even if the system falls behind, and measures when each message becomes visible.

A generator that waits for one answer before it sends the next message slows down together with the system it measures,
and so leaves out the worst latencies (coordinated omission). Here the time of every message is fixed beforehand, and
its latency counts from that time on, even if it was published later.
"""

from __future__ import annotations

import math
import multiprocessing
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

from benchmarks.delivery.workload import text
from cachekeeper.devservers.parents import end_with_parent
from cachekeeper.publishing.publisher import Publisher
from cachekeeper.publishing.wire_format import OutgoingMessage
from cachekeeper.settings import PublisherSettings

if TYPE_CHECKING:
    from benchmarks.delivery.lab import Lab

THREADS = 8
LEAD_SECONDS = 0.5
LOOK_SECONDS = 0.001
LOOK_AT = 200  # keys
LONGEST_SECONDS = 60.0


@dataclass(frozen=True)
class Offer:
    """Messages that are published at a fixed rate.

    Attributes:
        rate: messages a second.
        seconds: for how long.
        size: events in a message.
        users: how many users there are. Their events come in turn.
        version: the version of the first message's events. Each further message has the next version.
    """

    rate: float
    seconds: float
    size: int
    users: int
    version: int

    @property
    def count(self) -> int:
        """The number of messages."""
        return max(1, int(self.rate * self.seconds))

    def due(self, number: int) -> float:
        """Return the seconds from the beginning until message `number` is due."""
        return number / self.rate

    def of_message(self, number: int) -> list[int]:
        """Return the users that message `number` is about."""
        return [(number * self.size + at) % self.users for at in range(self.size)]

    def version_of_message(self, number: int) -> int:
        """Return the version of all events in message `number`."""
        return self.version + number


def percentile(values: Sequence[float], part: float) -> float:
    """Return the smallest value that at least `part` of all values do not exceed (nearest rank)."""
    return sorted(values)[max(0, math.ceil(part * len(values)) - 1)]


def offered(
    send: Callable[[int], object],
    offer: Offer,
    begin: float,
    *,
    threads: int = THREADS,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], object] = time.sleep,
) -> list[float]:
    """Send every message when it is due; at once if that time is past.

    Args:
        send: sends the message with this number.
        offer: the messages.
        begin: when the first message is due.
        threads: how many messages may be on their way to the broker at once.
        clock: returns the time now.
        sleep: waits.

    Returns:
        How late each message was, in seconds, before it was sent.
    """

    def on_time(number: int) -> float:
        due = begin + offer.due(number)
        left = due - clock()
        if left > 0:
            sleep(left)
        late = clock() - due
        send(number)
        return late

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(on_time, range(offer.count)))


def watch(
    seen: Callable[[list[int]], Sequence[int]],
    offer: Offer,
    begin: float,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], object] = time.sleep,
) -> list[float]:
    """Return the seconds of each message, from when it was due until it was visible.

    Args:
        seen: returns the cached versions of some users.
        offer: the messages.
        begin: when the first message is due.
        clock: returns the time now.
        sleep: waits.

    Raises:
        AssertionError: a message does not become visible.
    """
    latencies: list[float] = []
    waiting: deque[int] = deque()
    number = 0
    while len(latencies) < offer.count:
        while number < offer.count and begin + offer.due(number) <= clock():
            waiting.append(number)
            number += 1
        if waiting:
            looked = [waiting.popleft() for _ in range(min(LOOK_AT, len(waiting)))]
            versions = seen([offer.of_message(one)[-1] for one in looked])
            now = clock()
            late = []
            for one, version in zip(looked, versions, strict=True):
                if version >= offer.version_of_message(one):
                    latencies.append(now - begin - offer.due(one))
                else:
                    late.append(one)
            waiting.extendleft(reversed(late))
            assert now - begin - offer.due(offer.count) < LONGEST_SECONDS, f"{len(waiting)} messages are not applied"
        sleep(LOOK_SECONDS)
    return latencies


def measure(lab: Lab, offer: Offer) -> tuple[list[float], list[float]]:
    """Publish from another process, and watch when the messages become visible.

    Returns:
        For each message, in seconds: how long after its due time it was visible, and how late it was published.
    """
    spawning = multiprocessing.get_context("spawn")
    here, there = spawning.Pipe()
    process = spawning.Process(target=_publish, args=(lab.site.broker.url, offer, there), daemon=True)
    process.start()
    there.close()
    here.recv()  # the process is ready; EOFError: it has ended
    begin = time.monotonic() + LEAD_SECONDS
    here.send(begin)
    latencies = watch(lab.seen, offer, begin)
    late: list[float] = here.recv()
    process.join()
    for number in range(offer.count):
        lab.published(dict.fromkeys(offer.of_message(number), offer.version_of_message(number)))
    return latencies, late


def _publish(url: str, offer: Offer, parent: Connection[list[float] | None, float]) -> None:
    end_with_parent()
    messages = [
        [text(user, offer.version_of_message(number)) for user in offer.of_message(number)]
        for number in range(offer.count)
    ]
    publisher = Publisher(PublisherSettings(broker_url=url))
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(lambda _: publisher.probe(), range(THREADS)))  # make the connections before timing begins
    parent.send(None)
    begin = parent.recv()
    parent.send(offered(lambda number: publisher.send(OutgoingMessage(messages[number])), offer, begin))
    publisher.close()
