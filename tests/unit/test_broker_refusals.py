"""How long a worker waits before it connects again."""

import random
import time

import pytest
from redis.exceptions import BusyLoadingError, NoPermissionError, ReadOnlyError, ResponseError

from cachekeeper.broker.refusals import ReconnectPause, refusal


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


class Said(Exception):
    """An error of RabbitMQ."""

    def __init__(self, text: str, code: int = 406) -> None:
        self.reply_text, self.reply_code = text, code


@pytest.mark.usefixtures("clock")
def test_a_cause_is_said_once_until_another_comes(caplog: pytest.LogCaptureFixture) -> None:
    pause = ReconnectPause(lambda: None)
    for text in ("one", "one", "two", "two", "one"):
        pause.failed(Said(text))
    assert [record.message.split(":")[2].split(";")[0].strip() for record in caplog.records] == ["one", "two", "one"]


def test_an_outage_is_no_refusal() -> None:
    assert refusal(OSError("connection refused")) is None
    assert refusal(ValueError()) is None
    assert refusal(BusyLoadingError("Redis is loading the dataset in memory")) is None
    assert refusal(ResponseError("no such key")) is None
    assert refusal(ResponseError("BUSY Redis is busy running a script.")) is None


def test_a_refusal_without_a_line_of_its_own_is_said_by_its_code() -> None:
    assert refusal(ResponseError("NEWCODE with somebody's words")) == (
        "Redis refuses: it refuses commands (NEWCODE); see its configuration and its log"
    )


LIMIT = "raise that limit in RabbitMQ"
DELETE = "delete that queue or exchange"
OF_RABBIT: list[tuple[int, str, str]] = [
    (
        405,
        "RESOURCE_LOCKED - cannot obtain exclusive access to locked queue 'cachekeeper' in vhost '/'",
        "end that conn",
    ),
    (506, "RESOURCE_ERROR", "short of memory, disk or processes"),
    (540, "NOT_IMPLEMENTED - queue type", "has no quorum queues"),
    (541, "INTERNAL_ERROR", "see its log"),
    (530, "NOT_ALLOWED - vhost elsewhere not found", "create the vhost"),
    (530, "NOT_ALLOWED - connection refused for user 'shop': user connection limit (0) is reached", LIMIT),
    (530, "NOT_ALLOWED - access to vhost '/' refused for user 'shop': connection limit (0) is reached", LIMIT),
    (530, "NOT_ALLOWED - number of channels opened (2) has reached the negotiated channel_max (1)", LIMIT),
    (
        530,
        "NOT_ALLOWED - number of channels opened for user 'shop' has reached the maximum allowed limit of (1)",
        LIMIT,
    ),
    (406, "PRECONDITION_FAILED - cannot declare queue 'cachekeeper': queue limit in vhost '/' (0) is reached", LIMIT),
    (406, "PRECONDITION_FAILED - inequivalent arg 'x-delivery-limit' for queue 'cachekeeper' in vhost '/'", DELETE),
    (406, "PRECONDITION_FAILED - inequivalent arg 'x-max' for queue 'limit is reached' in vhost '/'", DELETE),
    (406, "PRECONDITION_FAILED - message size 9 is larger than configured max size 5", "raise max_message_size"),
    (
        406,
        "PRECONDITION_FAILED - delivery acknowledgement on channel 1 timed out. Timeout value used",
        "raise consumer_t",
    ),
    (403, "ACCESS_REFUSED - access to queue 'cachekeeper' in vhost '/a b' refused for user 'it'", "-p '/a b' it cache"),
    (403, "ACCESS_REFUSED - operation not permitted on the default exchange", "-p VHOST USER cachekeeper"),
]


@pytest.mark.parametrize(("code", "text", "cure"), OF_RABBIT)
def test_the_cure_is_that_of_the_cause(code: int, text: str, cure: str) -> None:
    said = refusal(Said(text, code))
    assert said is not None
    assert said.startswith(f"RabbitMQ refuses: {text}; ")
    assert cure in said


NO_KEY, NO_COMMAND, NO_CHANNEL = "a key of cachekeeper", "the command LPUSH", "a channel"
PIPELINE = "Command # 1 (LPUSH cachekeeper secret-of-a-command or key) of pipeline caused error: "


@pytest.mark.parametrize("before", ["", PIPELINE])
@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("No permissions to access a key", NO_KEY),
        ("this user has no permissions to access one of the keys used as arguments", NO_KEY),
        ("User shop has no permissions to run the 'lpush' command", NO_COMMAND),
        ("this user has no permissions to run the 'lpush' command or its subcommand", NO_COMMAND),
        ("No permissions to access a channel", NO_CHANNEL),
    ],
)
def test_a_right_to_a_key_is_told_from_one_to_a_command(before: str, text: str, what: str) -> None:
    said = refusal(NoPermissionError(before + text))
    assert said is not None
    assert f"has no permission for {what}; " in said
    assert "secret" not in said


def test_what_is_refused_behind_another_error() -> None:
    """A refused acknowledgement is raised as a lost connection."""
    error = ConnectionError("the broker refused an answer")
    error.__cause__ = ReadOnlyError("You can't write against a read only replica.")
    assert "name the primary" in str(refusal(error))
