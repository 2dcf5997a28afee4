"""How long an event waits in the buffer, and a caller for room in it, by a clock of the test's own."""

from __future__ import annotations

import threading

import pytest

from cachekeeper.errors import BufferFull
from cachekeeper.publishing import event_buffer as module
from cachekeeper.publishing.buffered import BufferedPublisher
from cachekeeper.publishing.wire_format import OutgoingMessage
from producers import Publisher, UserDeleted
from testkit.waiting import wait_until


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


class Sent(Publisher):
    """Stands for the publisher: when it was given how many events."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.at: list[tuple[float, int]] = []
        self._clock = clock

    def limit_seconds(self) -> float:
        return 1.0

    def send(self, message: OutgoingMessage) -> None:
        self.at.append((self._clock.now, len(message.texts)))


@pytest.mark.parametrize("milliseconds", [50, 400.0])
def test_an_event_waits_for_others_as_long_as_is_said_and_no_longer(
    monkeypatch: pytest.MonkeyPatch, milliseconds: float
) -> None:
    clock = Clock()
    sent = Sent(clock)
    monkeypatch.setattr(module, "time", clock)
    publisher = BufferedPublisher(sent, max_milliseconds=milliseconds)
    publisher._locks.due = Due(publisher._locks.lock, clock)
    expected = []
    for user in range(3):
        clock.now += 100  # while nothing waits
        expected.append(clock.now + milliseconds / 1000)
        publisher.publish(UserDeleted(user_id=str(user)))
        wait_until(lambda: not publisher.waiting, "an empty buffer")
    publisher.close()
    assert [count for _, count in sent.at] == [1, 1, 1]
    assert [at for at, _ in sent.at] == pytest.approx(expected, abs=1e-6)


class Wakes(threading.Condition):
    """Wakes early each time, as where the room that was made is another's already; the clock goes on meanwhile."""

    def __init__(self, lock: threading.Lock, clock: Clock) -> None:
        super().__init__(lock)
        self._clock = clock

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        self._clock.now += min(timeout, 0.3)
        return True


class Hangs(Sent):
    """Confirms nothing until it may."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self.goes_on = threading.Event()

    def send(self, message: OutgoingMessage) -> None:
        assert self.goes_on.wait(30)
        super().send(message)


def test_a_caller_waits_for_room_as_long_as_is_said_and_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    hangs = Hangs(clock)
    monkeypatch.setattr(module, "time", clock)
    publisher = BufferedPublisher(hangs, max_events=2, max_milliseconds=0)
    publisher._locks.room = Wakes(publisher._locks.lock, clock)
    try:
        for user in range(2):
            publisher.publish(UserDeleted(user_id=str(user)))
        began = clock.now
        with pytest.raises(BufferFull):
            publisher.publish(UserDeleted(user_id="2"))
        assert clock.now - began == pytest.approx(hangs.limit_seconds(), abs=1e-6)
        assert publisher.waiting == 2
    finally:
        hangs.goes_on.set()
        publisher.close()
    assert sum(count for _, count in hangs.at) == 2
