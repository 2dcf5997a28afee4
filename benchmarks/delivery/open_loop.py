"""Publishing at a fixed rate, whatever becomes of it, and how long each message takes until it is visible.

A generator that waits for one answer before it sends the next slows down with what it measures, and so leaves out the
worst (coordinated omission). Here every message has its time beforehand, and its latency counts from that time on,
whether or not it could be published then.
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
    """What is published: messages at a fixed rate.

    Attributes:
        rate: messages a second.
        seconds: for how long.
        size: events in a message.
        users: how many there are; their events come in turn.
        version: the first event's; each message has the next one.
    """

    rate: float
    seconds: float
    size: int
    users: int
    version: int

    @property
    def count(self) -> int:
        """How many messages."""
        return max(1, int(self.rate * self.seconds))

    def due(self, number: int) -> float:
        """Seconds from the beginning until message `number` is due."""
        return number / self.rate

    def of_message(self, number: int) -> list[int]:
        """The users that message `number` is about."""
        return [(number * self.size + at) % self.users for at in range(self.size)]

    def version_of_message(self, number: int) -> int:
        """The version of all of its events."""
        return self.version + number


def percentile(values: Sequence[float], part: float) -> float:
    """The smallest of the values that at least this part of them do not exceed (nearest rank)."""
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
    """Send every message when it is due, and at once where that is past.

    Args:
        send: message `number`.
        offer: what is published.
        begin: when the first message is due.
        threads: so many messages may be on their way to the broker at once.
        clock: now.
        sleep: waits.

    Returns:
        How late each was, in seconds, before it was sent.
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
    """Seconds of each message, from when it was due until it was visible.

    Args:
        seen: the versions that are cached of some users.
        offer: what is published.
        begin: when the first message is due.
        clock: now.
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
    """Publish from a process of its own, and watch.

    Returns:
        For each message, how long after it was due it was visible, and how late it was published; seconds.
    """
    spawning = multiprocessing.get_context("spawn")
    here, there = spawning.Pipe()
    process = spawning.Process(target=_publish, args=(lab.site.broker.url, offer, there), daemon=True)
    process.start()
    there.close()
    here.recv()  # it is ready; EOFError: it has died
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
        list(pool.map(lambda _: publisher.probe(), range(THREADS)))  # connections are made
    parent.send(None)
    begin = parent.recv()
    parent.send(offered(lambda number: publisher.send(OutgoingMessage(messages[number])), offer, begin))
    publisher.close()
