"""The buffering publisher when its process ends, in every way in which one may: nothing is lost without a word."""

from __future__ import annotations

import re
import signal
import threading
import time
from typing import TYPE_CHECKING

import pytest

from cachekeeper.publishing import at_exit as module
from cachekeeper.publishing.buffered import BufferedPublisher
from testkit.leftovers import ROOT
from tests.integration.publishing.buffered_events import arrived, messages
from tests.integration.publishing.buffered_programs import is_ready, run

if TYPE_CHECKING:
    from collections.abc import Callable

    from cachekeeper.devservers import RedisServer

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
EXECV = "os.execv(sys.executable, [sys.executable, '-c', ''])"
ENDINGS: dict[str, tuple[str, int | None]] = {
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
    "a buffer that another thread made": (
        """
def make():
    global buffered
    buffered = BufferedPublisher(max_milliseconds=3_600_000)
    fill(700)
t = threading.Thread(target=make); t.start(); t.join(); sys.exit(3)
""",
        3,
    ),
    # Without a status: CPython ends by SIGINT, or with 1 where a function of `atexit` has run code in between.
    "SIGINT": ("fill(700); signal.raise_signal(signal.SIGINT)", None),
    "execv after close": (f"fill(700); buffered.close(); {EXECV}", 0),
    "os._exit after close": ("fill(700); buffered.close(); os._exit(4)", 4),
    "no thread to be had": ("threading.stack_size(1 << 46); fill(700); assert not buffered.waiting; os._exit(4)", 4),
    "SIGHUP with the handler of the docs": (
        "signal.signal(signal.SIGHUP, lambda *_: sys.exit(5)); fill(700); signal.raise_signal(signal.SIGHUP)",
        5,
    ),
    "SIGTERM": ("fill(700); wait()", -signal.SIGTERM),
    "SIGTERM with a handler of one's own": (
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(5)); fill(700); wait()",
        5,
    ),
    "SIGTERM in the middle of a call": (INSIDE, -signal.SIGTERM),
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_the_end_of_a_process_publishes_what_is_there(redis_server: RedisServer, ending: str) -> None:
    code, status = ENDINGS[ending]
    with run(redis_server, code, options="flush_on_sigterm=True") as process:
        if "SIGTERM" in ending:
            assert is_ready(process)
            process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
        assert status in (process.returncode, None)
    assert arrived(redis_server) == list(range(700))


# As the docs say. Who wants none of these calls `close` first, handles the signal, or asks for `flush_on_sigterm`.
LOSSY: dict[str, tuple[str, int]] = {
    "SIGTERM": ("signal.raise_signal(signal.SIGTERM)", -signal.SIGTERM),
    # Under nohup it would be ignored.
    "SIGHUP": ("signal.signal(signal.SIGHUP, signal.SIG_DFL); signal.raise_signal(signal.SIGHUP)", -signal.SIGHUP),
    "SIGKILL": ("signal.raise_signal(signal.SIGKILL)", -signal.SIGKILL),
    "os._exit": ("os._exit(4)", 4),
    "execv": (EXECV, 0),
}


@pytest.mark.parametrize("ending", LOSSY)
def test_the_endings_that_lose_what_is_there_are_those_of_the_docs(redis_server: RedisServer, ending: str) -> None:
    code, status = LOSSY[ending]
    with run(redis_server, f"fill(3); {code}") as process:
        process.communicate(timeout=60)
        assert process.returncode == status
    assert arrived(redis_server) == []
    assert f"`{ending}`" in section(), "the docs name it"


def section() -> str:
    return (ROOT / "docs/operations/buffer.md").read_text("utf-8")


def test_a_server_that_sends_itself_the_signal_again_publishes_in_its_lifespan(redis_server: RedisServer) -> None:
    # uvicorn handles SIGTERM, ends in order, and then sends it to itself with the default handler: `atexit` never runs.
    (recipe,) = re.findall(r"```python\n(.*?)```", section(), re.DOTALL)
    serve = "\nimport uvicorn\nuvicorn.run(app, port=0, log_config=None)\n"
    started = recipe.replace("        yield\n", "        fill(3)\n        print('ready', flush=True)\n        yield\n")
    assert started != recipe
    with run(redis_server, started.replace("BufferedPublisher()", "buffered") + serve) as process:
        assert is_ready(process)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
        assert process.returncode in (-signal.SIGTERM, 0), err
    assert arrived(redis_server) == [0, 1, 2]


def test_mutant_without_an_end(redis_server: RedisServer) -> None:
    code = "from cachekeeper.publishing.at_exit import _end; atexit.unregister(_end.on_exit); fill(700)"
    with run(redis_server, code) as process:
        process.communicate(timeout=60)
        assert process.returncode == 0
    assert len(arrived(redis_server)) <= 500  # the full message at most


@pytest.mark.parametrize("ending", ["fill(3)", "fill(3); wait()"])
def test_events_that_cannot_be_published_at_the_end_are_told(own_redis: RedisServer, ending: str) -> None:
    own_redis.pause()
    with run(own_redis, ending, seconds=2, options="flush_on_sigterm=True") as process:
        if "wait" in ending:
            assert is_ready(process)
            process.send_signal(signal.SIGTERM)
        started = time.monotonic()
        out, err = process.communicate(timeout=60)
        assert "3 events are lost: they were not published before the process ended (the broker did not confirm" in err
        assert process.returncode == (-signal.SIGTERM if "wait" in ending else 0)
        assert time.monotonic() - started < 20
        if "wait" not in ending:
            assert out == "BrokerUnavailable 3\n"


def test_a_forked_child_starts_with_nothing(redis_server: RedisServer) -> None:
    # The parent's lock is held at the fork by a thread that the child does not have.
    code = """
fill(3)
sending = buffered._locks.sending
sending.acquire()
if os.fork() == 0:
    print(buffered.waiting, flush=True)
    fill(2, 10)
    sys.exit(0)
os.wait()
sending.release()
"""
    with run(redis_server, code) as process:
        out, err = process.communicate(timeout=60)
        assert (out, process.returncode) == ("0\n", 0), err
    assert messages(redis_server) == [[10, 11], [0, 1, 2]]


def test_sigterm_is_handled_only_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def own(*_: object) -> None:
        raise AssertionError

    installed: list[Callable[..., object]] = []
    monkeypatch.setattr(signal, "signal", lambda _number, handler: installed.append(handler))
    before = signal.getsignal(signal.SIGTERM)
    for handler, expected in ((own, []), (signal.SIG_IGN, []), (signal.SIG_DFL, [module._end.on_sigterm])):
        installed.clear()
        monkeypatch.setattr(signal, "getsignal", lambda _number, handler=handler: handler)
        BufferedPublisher()
        assert installed == [], "a library takes no signals by itself"
        BufferedPublisher(flush_on_sigterm=True)
        assert installed == expected
    monkeypatch.undo()
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_handler_that_cannot_be_installed_is_refused() -> None:
    refused: list[str] = []

    def make() -> None:
        BufferedPublisher()
        try:
            BufferedPublisher(flush_on_sigterm=True)
        except ValueError as error:
            refused.append(str(error))

    before = signal.getsignal(signal.SIGTERM)
    assert before is signal.SIG_DFL
    elsewhere = threading.Thread(target=make)
    elsewhere.start()
    elsewhere.join()
    (text,) = refused
    assert text.startswith("flush_on_sigterm: Python installs signal handlers in the main thread only")
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_child_of_a_process_that_ends_is_not_ending_itself() -> None:
    end = module._End()
    end.exiting = end.terminated = True
    end.after_fork()
    assert (end.exiting, end.terminated) == (False, False)
