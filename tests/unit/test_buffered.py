"""How long an event waits in the buffer, by a clock of the test's own."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, cast

import pytest

from cachekeeper.delivery import buffered as module
from cachekeeper.delivery.buffered import BufferedPublisher
from producers import UserDeleted
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Sequence


class Clock:
    """Stands for the module `time`."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


class Due(threading.Condition):
    """Its waits take no time but by the clock; one without a limit is real."""

    def __init__(self, lock: threading.Lock, clock: Clock) -> None:
        super().__init__(lock)
        self._clock = clock

    def wait(self, timeout: float | None = None) -> bool:
        if timeout is None:
            return super().wait()
        self._clock.now += timeout
        return False


class Sent:
    """Stands for the publisher: when it was given how many events."""

    def __init__(self, clock: Clock) -> None:
        self.at: list[tuple[float, int]] = []
        self._clock = clock

    def limit_seconds(self) -> float:
        return 1.0

    def publish_texts(self, texts: Sequence[str]) -> None:
        self.at.append((self._clock.now, len(texts)))


@pytest.mark.parametrize("milliseconds", [50, 400.0])
def test_an_event_waits_for_others_as_long_as_is_said_and_no_longer(
    monkeypatch: pytest.MonkeyPatch, milliseconds: float
) -> None:
    clock = Clock()
    sent = Sent(clock)
    monkeypatch.setattr(module, "time", clock)
    publisher = BufferedPublisher(cast("Any", sent), max_milliseconds=milliseconds, flush_on_sigterm=False)
    publisher._due = Due(publisher._lock, clock)
    expected = []
    for user in range(3):
        clock.now += 100  # while nothing waits
        expected.append(clock.now + milliseconds / 1000)
        publisher.publish(UserDeleted(user_id=str(user)))
        wait_until(lambda: not publisher.waiting, "an empty buffer")
    publisher.close()
    assert [count for _, count in sent.at] == [1, 1, 1]
    assert [at for at, _ in sent.at] == pytest.approx(expected, abs=1e-6)
