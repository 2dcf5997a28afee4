"""The buffering publisher when its process ends, in every way in which one may: nothing is lost without a word."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from cachekeeper.delivery import ending as module
from cachekeeper.delivery.buffered import BufferedPublisher
from tests.real.buffered_events import arrived, messages
from tests.real.leftovers import ROOT
from tests.real.patient_publishing import IN_A_CHILD, PUBLISH_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cachekeeper.embedded import RedisServer

PROGRAM = (
    IN_A_CHILD
    + """
import atexit, multiprocessing, os, signal, sys, threading, time
from cachekeeper.delivery.buffered import BufferedPublisher
from producers import UserDeleted

buffered = BufferedPublisher(max_milliseconds=3_600_000, on_error=lambda error, n: print(type(error).__name__, n))

def fill(count, first=0):
    for user in range(first, first + count):
        buffered.publish(UserDeleted(user_id=str(user)))

def wait():
    print("ready", flush=True)
    be_there()

def be_there():
    # Not `signal.pause`: it sleeps for ever where the signal came just before, and Python has not seen it yet.
    while True:
        time.sleep(0.01)
"""
)
# The signal comes while `publish` holds the lock: the event is not in the buffer yet, and the call is sure to go on.
INSIDE = """
from collections import deque

class Interrupted(deque):
    def append(self, item):
        if buffered._taken == 699:
            print("ready", flush=True)
            while signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
                time.sleep(0.01)
        super().append(item)

buffered._waiting = Interrupted()
fill(700)
be_there()
"""
ENDINGS: dict[str, tuple[str, int]] = {
    "the end of the program": ("fill(700)", 0),
    "sys.exit": ("fill(700); sys.exit(3)", 3),
    "an exception": ("fill(700); 1 / 0", 1),
    "sys.exit with the events of a thread": (
        "t = threading.Thread(target=fill, args=(700,)); t.start(); t.join(); sys.exit(3)",
        3,
    ),
    "a function of atexit that publishes": ("atexit.register(fill, 200, 500); fill(500)", 0),
    "a child of multiprocessing": (
        "p = multiprocessing.get_context('fork').Process(target=fill, args=(700,)); p.start(); p.join()",
        0,
    ),
    "SIGTERM": ("fill(700); wait()", -signal.SIGTERM),
    "SIGTERM with a handler of one's own": (
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(5)); fill(700); wait()",
        5,
    ),
    "SIGTERM in the middle of a call": (INSIDE, -signal.SIGTERM),
}


@contextmanager
def run(broker: RedisServer, code: str, seconds: float = PUBLISH_SECONDS) -> Iterator[subprocess.Popen[str]]:
    settings = {"CACHEKEEPER_BROKER_URL": broker.url, "CACHEKEEPER_PUBLISH_TIMEOUT_SECONDS": str(seconds)}
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM + code],
        env={**os.environ, **settings},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()  # where the test has failed


@pytest.mark.parametrize("ending", ENDINGS)
def test_the_end_of_a_process_publishes_what_is_there(redis_server: RedisServer, ending: str) -> None:
    code, status = ENDINGS[ending]
    with run(redis_server, code) as process:
        if "SIGTERM" in ending:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
        assert process.returncode == status
    assert arrived(redis_server) == list(range(700))


def test_mutant_without_an_end(redis_server: RedisServer) -> None:
    code = "from cachekeeper.delivery.ending import _end; atexit.unregister(_end.on_exit); fill(700)"
    with run(redis_server, code) as process:
        process.communicate(timeout=60)
        assert process.returncode == 0
    assert len(arrived(redis_server)) <= 500  # the full message at most


@pytest.mark.parametrize("ending", ["fill(3)", "fill(3); wait()"])
def test_events_that_cannot_be_published_at_the_end_are_told(own_redis: RedisServer, ending: str) -> None:
    own_redis.pause()
    with run(own_redis, ending, seconds=2) as process:
        if "wait" in ending:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            process.send_signal(signal.SIGTERM)
        started = time.monotonic()
        out, err = process.communicate(timeout=60)
        assert "3 events were not published before the process ended: the broker did not confirm" in err
        assert process.returncode == (-signal.SIGTERM if "wait" in ending else 0)
        assert time.monotonic() - started < 20
        if "wait" not in ending:
            assert out == "BrokerUnavailable 3\n"


def test_a_forked_child_starts_with_nothing(redis_server: RedisServer) -> None:
    # The parent's lock is held at the fork by a thread that the child does not have.
    code = """
fill(3)
buffered._sending.acquire()
if os.fork() == 0:
    print(buffered.waiting, flush=True)
    fill(2, 10)
    sys.exit(0)
os.wait()
buffered._sending.release()
"""
    with run(redis_server, code) as process:
        out, err = process.communicate(timeout=60)
        assert (out, process.returncode) == ("0\n", 0), err
    assert messages(redis_server) == [[10, 11], [0, 1, 2]]


def test_a_program_that_handles_sigterm_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def own(*_: object) -> None:
        raise AssertionError

    installed: list[Callable[..., object]] = []
    monkeypatch.setattr(signal, "signal", lambda _number, handler: installed.append(handler))
    before = signal.getsignal(signal.SIGTERM)
    for handler, expected in ((own, []), (signal.SIG_IGN, []), (signal.SIG_DFL, [module._end.on_sigterm])):
        installed.clear()
        monkeypatch.setattr(signal, "getsignal", lambda _number, handler=handler: handler)
        BufferedPublisher()
        assert installed == expected
    installed.clear()
    BufferedPublisher(flush_on_sigterm=False)
    elsewhere = threading.Thread(target=BufferedPublisher)
    elsewhere.start()
    elsewhere.join()
    assert installed == []
    monkeypatch.undo()
    assert signal.getsignal(signal.SIGTERM) == before
