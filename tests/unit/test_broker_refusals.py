"""How long a worker waits before it connects again."""

import random
import time

import pytest

from cachekeeper.delivery.refusals import ReconnectPause, refusal


class Clock:
    """Time that passes only in naps."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        monkeypatch.setattr(time, "sleep", self.sleep)
        monkeypatch.setattr(random, "uniform", lambda _low, high: high)

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_the_first_attempt_is_made_at_once_and_the_pauses_grow(clock: Clock) -> None:
    pause = ReconnectPause(lambda: None)
    began = clock.now
    assert [pause.failed(OSError()) for _ in range(8)] == [0, 0.5, 1, 2, 4, 8, 15, 15]
    assert clock.now - began == pytest.approx(45.5)


def test_a_connection_that_worked_costs_no_pause_and_one_that_did_not_goes_on_growing(clock: Clock) -> None:
    pause = ReconnectPause(lambda: None)
    for _ in range(3):
        pause.connected()
        pause.failed(OSError())
    for _ in range(3):
        pause.connected()
        clock.now += 3
        assert pause.failed(OSError()) == 0
    pause.connected()
    clock.now += 1
    assert pause.failed(OSError()) == 0.5


@pytest.mark.usefixtures("clock")
def test_a_worker_that_is_to_stop_does_not_wait_to_the_end() -> None:
    asked = []

    def maybe_stop() -> None:
        asked.append(1)
        if len(asked) > 3:
            raise SystemExit

    pause = ReconnectPause(maybe_stop)
    for _ in range(2):
        pause.failed(OSError())
    with pytest.raises(SystemExit):
        pause.failed(OSError())


@pytest.mark.usefixtures("clock")
def test_a_cause_is_said_once_until_another_comes(caplog: pytest.LogCaptureFixture) -> None:
    class Said(Exception):
        reply_code = 406

        def __init__(self, text: str) -> None:
            self.reply_text = text

    pause = ReconnectPause(lambda: None)
    for text in ("one", "one", "two", "two", "one"):
        pause.failed(Said(text))
    assert [record.message.split(":")[2].strip() for record in caplog.records] == ["one", "two", "one"]


def test_an_outage_is_no_refusal() -> None:
    assert refusal(OSError("connection refused")) is None
    assert refusal(ValueError()) is None
