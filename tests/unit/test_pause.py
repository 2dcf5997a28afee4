"""The gate: shut until the servers answer, open again by itself, and no patience without end for one message."""

import threading
from collections.abc import Callable, Iterator

import pytest

from cachekeeper.consuming import pause as gates
from cachekeeper.consuming.pause import Gate
from cachekeeper.errors import CacheOverloaded, CacheUnavailable
from testkit.waiting import Waits, wait_until

AWAY = CacheUnavailable("Redis failed while being asked")
FULL = CacheOverloaded("no connection was free in time")


class Servers:
    """What a gate asks."""

    def __init__(self) -> None:
        self.asked = 0
        self.away: Exception | None = None
        self._answered = threading.Condition()

    def attempt(self) -> None:
        with self._answered:
            self.asked += 1
            self._answered.notify_all()
        if self.away is not None:
            raise self.away

    def wait_for(self, times: int) -> None:
        """Wait until they have been asked so often."""
        with self._answered:
            assert self._answered.wait_for(lambda: self.asked >= times, 20)


@pytest.fixture
def servers() -> Servers:
    return Servers()


@pytest.fixture
def gate(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    monkeypatch.setattr(gates, "_FIRST_PAUSE_SECONDS", 0.0001)
    monkeypatch.setattr(gates, "_LONGEST_PAUSE_SECONDS", 0.01)
    gate = Gate(servers.attempt)
    yield gate
    gate.stop()


def open_again(gate: Gate) -> Callable[[], bool]:
    return lambda: gate.is_open


def test_a_gate_begins_shut_and_asks_before_it_opens(gate: Gate, servers: Servers) -> None:
    assert not gate.is_open
    gate.start()
    assert gate.is_open
    assert servers.asked == 1


def test_a_gate_that_cannot_open_at_the_start_opens_later(gate: Gate, servers: Servers) -> None:
    servers.away = AWAY
    gate.start()
    assert not gate.is_open
    servers.wait_for(5)
    assert not gate.is_open
    servers.away = None
    wait_until(open_again(gate), "an open gate")


def test_an_outage_of_any_length_ends_by_itself_and_tells(gate: Gate, servers: Servers) -> None:
    opened = threading.Event()
    gate.start()
    gate.on_open = opened.set
    servers.away = AWAY
    gate.shut("m", AWAY)
    assert not gate.is_open
    servers.wait_for(20)
    assert not gate.is_open
    assert not opened.is_set()
    servers.away = None
    assert opened.wait(20)
    assert gate.is_open
    assert gate.strikes("m") == 0  # it was not the message's fault


class Outages(Servers):
    """Servers that are away for so many questions, then well."""

    def __init__(self) -> None:
        super().__init__()
        self.left = 0

    def attempt(self) -> None:
        self.left -= 1
        self.away = AWAY if self.left >= 0 else None
        super().attempt()


@pytest.fixture
def outages() -> Outages:
    return Outages()


@pytest.fixture
def waits() -> Waits:
    return Waits()


@pytest.fixture
def timed(outages: Outages, waits: Waits) -> Iterator[Gate]:
    """A gate with its own pauses, which take no time here."""
    gate = Gate(outages.attempt)
    gate._stopping = waits
    yield gate
    gate.stop()


def test_it_asks_less_often_from_attempt_to_attempt_and_not_with_others(
    timed: Gate, outages: Outages, waits: Waits
) -> None:
    timed.start()
    for _ in range(2):  # the second outage begins anew
        waits.seconds.clear()
        outages.left = 30
        timed.shut("m", AWAY)
        wait_until(open_again(timed), "an open gate")
        assert len(waits.seconds) == 30
        for number, seconds in enumerate(waits.seconds):
            longest = min(0.2 * 2**number, 5)
            assert longest / 2 <= seconds <= longest, number
        assert max(waits.seconds[8:]) - min(waits.seconds[8:]) > 0.5, "workers would come back together"


def test_a_message_that_fails_again_and_again_makes_it_wait_longer(timed: Gate, waits: Waits) -> None:
    timed.start()
    for _ in range(8):
        timed.shut("m", AWAY)
        wait_until(open_again(timed), "an open gate")
    assert waits.seconds == [0.2, 0.4, 0.8, 1.6, 3.2, 5, 5, 5]


def test_a_full_pool_makes_it_wait_longer_and_is_no_strike(timed: Gate, waits: Waits) -> None:
    timed.start()
    for _ in range(8):
        timed.shut(None, FULL)
        wait_until(open_again(timed), "an open gate")
    assert waits.seconds == [0.2, 0.4, 0.8, 1.6, 3.2, 5, 5, 5]
    assert not timed._strikes
    timed._opened_at -= gates._LONGEST_PAUSE_SECONDS  # it was open for long: the next full pool begins anew
    timed.shut(None, FULL)
    wait_until(open_again(timed), "an open gate")
    assert waits.seconds[8:] == [0.2]


def test_however_often_a_message_has_failed_the_wait_has_an_end(timed: Gate, waits: Waits) -> None:
    """A message that cannot be read, where its dead letter cannot be kept: for hours, every five seconds."""
    timed.start()
    timed._strikes["m"] = 5000
    timed.shut("m", AWAY)
    wait_until(open_again(timed), "an open gate")
    assert waits.seconds == [5]


def test_whatever_an_attempt_raises_there_is_a_next(gate: Gate, servers: Servers) -> None:
    gate.start()
    servers.away = ZeroDivisionError()
    gate.shut("m", AWAY)
    servers.wait_for(10)
    servers.away = None
    wait_until(open_again(gate), "an open gate")


def test_many_failures_of_one_outage_make_one_thread(gate: Gate, servers: Servers) -> None:
    before = set(threading.enumerate())
    gate.start()
    servers.away = AWAY
    for number in range(50):
        gate.shut(f"m{number}", AWAY)
    servers.wait_for(5)
    # Not how many there are: a thread of another test may just be ending.
    assert [thread.name for thread in threading.enumerate() if thread not in before] == ["cachekeeper-gate"]
    servers.away = None
    wait_until(open_again(gate), "an open gate")


def test_a_gate_opens_again_although_no_thread_can_be_started(
    gate: Gate, servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a container's limit of processes is reached: the thread that opens it again is there before."""
    gate.start()

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    servers.away = AWAY
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        for number in range(3):
            gate.shut(f"m{number}", AWAY)
        servers.wait_for(5)
        assert not gate.is_open
        servers.away = None
        wait_until(open_again(gate), "an open gate")


def test_a_message_that_fails_while_the_servers_are_well_gets_a_strike(gate: Gate) -> None:
    gate.start()
    for strikes in range(1, 4):
        gate.shut("m", AWAY)
        wait_until(open_again(gate), "an open gate")
        assert gate.strikes("m") == strikes
    assert gate.strikes("another") == 0
    gate.forgive("m")
    assert gate.strikes("m") == 0


def test_strikes_are_not_remembered_without_end(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gates, "_REMEMBERED", 3)
    gate.start()
    for number in range(5):
        gate.shut(f"m{number}", AWAY)
        wait_until(open_again(gate), "an open gate")
    assert [gate.strikes(f"m{number}") for number in range(5)] == [0, 0, 1, 1, 1]


def test_a_gate_can_be_stopped_while_it_waits(gate: Gate, servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gates, "_FIRST_PAUSE_SECONDS", 1000.0)
    monkeypatch.setattr(gates, "_LONGEST_PAUSE_SECONDS", 1000.0)
    servers.away = AWAY
    gate.start()
    servers.wait_for(2)
    gate.stop()  # returns: pytest's own time limit would tell
    assert not gate.is_open


def test_the_log_says_what_it_waits_for_once_and_shows_no_token(
    gate: Gate, servers: Servers, caplog: pytest.LogCaptureFixture
) -> None:
    gate.start()
    servers.away = AWAY
    gate.shut("m", AWAY)
    servers.wait_for(10)
    servers.away = ValueError("token-4711")
    servers.wait_for(20)
    servers.away = None
    wait_until(open_again(gate), "an open gate")
    said = [record.getMessage() for record in caplog.records]
    assert sum("Redis failed while being asked" in line for line in said) == 1
    assert sum("ValueError" in line for line in said) == 1
    assert "fetching events again" in said[-1]
    assert "token-4711" not in caplog.text
