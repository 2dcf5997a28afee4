"""The pause: lasts until the servers answer, ends by itself, and no patience without end for one message."""

import threading
from collections.abc import Callable, Iterator

import pytest

from cachekeeper.consuming import pause as pausing
from cachekeeper.consuming.pause import Pause
from cachekeeper.errors import CacheOverloaded, CacheUnavailable
from testkit.waiting import Waits, wait_until

AWAY = CacheUnavailable("Redis failed while being asked")
FULL = CacheOverloaded("no connection was free in time")


class Servers:
    """What a pause asks."""

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
def pause(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pause]:
    monkeypatch.setattr(pausing, "_FIRST_PAUSE_SECONDS", 0.0001)
    monkeypatch.setattr(pausing, "_LONGEST_PAUSE_SECONDS", 0.01)
    pause = Pause(servers.attempt)
    yield pause
    pause.stop()


def open_again(pause: Pause) -> Callable[[], bool]:
    return lambda: pause.is_over


def test_a_worker_begins_with_a_pause_and_asks_before_it_ends(pause: Pause, servers: Servers) -> None:
    assert not pause.is_over
    pause.start()
    assert pause.is_over
    assert servers.asked == 1


def test_a_pause_that_cannot_end_at_the_start_opens_later(pause: Pause, servers: Servers) -> None:
    servers.away = AWAY
    pause.start()
    assert not pause.is_over
    servers.wait_for(5)
    assert not pause.is_over
    servers.away = None
    wait_until(open_again(pause), "the end of the pause")


def test_an_outage_of_any_length_ends_by_itself_and_tells(pause: Pause, servers: Servers) -> None:
    opened = threading.Event()
    pause.start()
    pause.on_over = opened.set
    servers.away = AWAY
    pause.begin("m", AWAY)
    assert not pause.is_over
    servers.wait_for(20)
    assert not pause.is_over
    assert not opened.is_set()
    servers.away = None
    assert opened.wait(20)
    assert pause.is_over
    assert pause.strikes("m") == 0  # it was not the message's fault


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
def timed(outages: Outages, waits: Waits) -> Iterator[Pause]:
    """A pause with its own pauses, which take no time here."""
    pause = Pause(outages.attempt)
    pause._stopping = waits
    yield pause
    pause.stop()


def test_it_asks_less_often_from_attempt_to_attempt_and_not_with_others(
    timed: Pause, outages: Outages, waits: Waits
) -> None:
    timed.start()
    for _ in range(2):  # the second outage begins anew
        waits.seconds.clear()
        outages.left = 30
        timed.begin("m", AWAY)
        wait_until(open_again(timed), "the end of the pause")
        assert len(waits.seconds) == 30
        for number, seconds in enumerate(waits.seconds):
            longest = min(0.2 * 2**number, 5)
            assert longest / 2 <= seconds <= longest, number
        assert max(waits.seconds[8:]) - min(waits.seconds[8:]) > 0.5, "workers would come back together"


def test_a_message_that_fails_again_and_again_makes_it_wait_longer(timed: Pause, waits: Waits) -> None:
    timed.start()
    for _ in range(8):
        timed.begin("m", AWAY)
        wait_until(open_again(timed), "the end of the pause")
    assert waits.seconds == [0.2, 0.4, 0.8, 1.6, 3.2, 5, 5, 5]


def test_a_full_pool_makes_it_wait_longer_and_is_no_strike(timed: Pause, waits: Waits) -> None:
    timed.start()
    for _ in range(8):
        timed.begin(None, FULL)
        wait_until(open_again(timed), "the end of the pause")
    assert waits.seconds == [0.2, 0.4, 0.8, 1.6, 3.2, 5, 5, 5]
    assert not timed._strikes
    timed._over_at -= pausing._LONGEST_PAUSE_SECONDS  # it was open for long: the next full pool begins anew
    timed.begin(None, FULL)
    wait_until(open_again(timed), "the end of the pause")
    assert waits.seconds[8:] == [0.2]


def test_however_often_a_message_has_failed_the_wait_has_an_end(timed: Pause, waits: Waits) -> None:
    """A message that cannot be read, where its dead letter cannot be kept: for hours, every five seconds."""
    timed.start()
    timed._strikes["m"] = 5000
    timed.begin("m", AWAY)
    wait_until(open_again(timed), "the end of the pause")
    assert waits.seconds == [5]


def test_whatever_an_attempt_raises_there_is_a_next(pause: Pause, servers: Servers) -> None:
    pause.start()
    servers.away = ZeroDivisionError()
    pause.begin("m", AWAY)
    servers.wait_for(10)
    servers.away = None
    wait_until(open_again(pause), "the end of the pause")


def test_many_failures_of_one_outage_make_one_thread(pause: Pause, servers: Servers) -> None:
    before = set(threading.enumerate())
    pause.start()
    servers.away = AWAY
    for number in range(50):
        pause.begin(f"m{number}", AWAY)
    servers.wait_for(5)
    # Not how many there are: a thread of another test may just be ending.
    assert [thread.name for thread in threading.enumerate() if thread not in before] == ["cachekeeper-pause"]
    servers.away = None
    wait_until(open_again(pause), "the end of the pause")


def test_a_pause_ends_although_no_thread_can_be_started(
    pause: Pause, servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a container's limit of processes is reached: the thread that opens it again is there before."""
    pause.start()

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    servers.away = AWAY
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        for number in range(3):
            pause.begin(f"m{number}", AWAY)
        servers.wait_for(5)
        assert not pause.is_over
        servers.away = None
        wait_until(open_again(pause), "the end of the pause")


def test_a_message_that_fails_while_the_servers_are_well_gets_a_strike(pause: Pause) -> None:
    pause.start()
    for strikes in range(1, 4):
        pause.begin("m", AWAY)
        wait_until(open_again(pause), "the end of the pause")
        assert pause.strikes("m") == strikes
    assert pause.strikes("another") == 0
    pause.forgive("m")
    assert pause.strikes("m") == 0


def test_strikes_are_not_remembered_without_end(pause: Pause, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pausing, "_REMEMBERED", 3)
    pause.start()
    for number in range(5):
        pause.begin(f"m{number}", AWAY)
        wait_until(open_again(pause), "the end of the pause")
    assert [pause.strikes(f"m{number}") for number in range(5)] == [0, 0, 1, 1, 1]


def test_a_pause_can_be_stopped_while_it_waits(pause: Pause, servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pausing, "_FIRST_PAUSE_SECONDS", 1000.0)
    monkeypatch.setattr(pausing, "_LONGEST_PAUSE_SECONDS", 1000.0)
    servers.away = AWAY
    pause.start()
    servers.wait_for(2)
    pause.stop()  # returns: pytest's own time limit would tell
    assert not pause.is_over


def test_the_log_says_what_it_waits_for_once_and_shows_no_token(
    pause: Pause, servers: Servers, caplog: pytest.LogCaptureFixture
) -> None:
    pause.start()
    servers.away = AWAY
    pause.begin("m", AWAY)
    servers.wait_for(10)
    servers.away = ValueError("token-4711")
    servers.wait_for(20)
    servers.away = None
    wait_until(open_again(pause), "the end of the pause")
    said = [record.getMessage() for record in caplog.records]
    assert sum("Redis failed while being asked" in line for line in said) == 1
    assert sum("ValueError" in line for line in said) == 1
    assert "fetching events again" in said[-1]
    assert "token-4711" not in caplog.text
