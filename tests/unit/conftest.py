"""A unit test starts no process and uses no network: it fails where it tries.

An audit hook sees every way into it, in C code too. It cannot be taken back, so it stays in this process and refuses
only while a unit test is set up or called.
"""

import socket
import sys
import threading
from collections.abc import Generator
from unittest import mock
from weakref import WeakSet

import pytest

PROCESSES = frozenset(
    {"os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.system", "pty.spawn", "subprocess.Popen"}
)
NETWORK = frozenset(
    {"socket.bind", "socket.connect", "socket.getaddrinfo", "socket.gethostbyaddr", "socket.gethostbyname"}
)

_test: int | None = None
"""The thread that runs a unit test, while one runs."""
_threads: WeakSet[threading.Thread] = WeakSet()
"""Those that unit tests have started. Others belong to clients of other tests, which may connect at any time."""


def _is_ours() -> bool:
    return threading.get_ident() == _test or threading.current_thread() in _threads


def _refuse(event: str, args: tuple[object, ...]) -> None:
    if _test is None:
        return
    if event in PROCESSES and _is_ours():
        pytest.fail(f"a unit test starts no process: {event}")
    # A pair of UNIX sockets is how an event loop wakes itself.
    if (event in NETWORK or (event == "socket.__new__" and args[1] != socket.AF_UNIX)) and _is_ours():
        pytest.fail(f"a unit test opens no socket: {event}")


sys.addaudithook(_refuse)
_start_thread = threading.Thread.start


def _noted(thread: threading.Thread) -> None:
    if _is_ours():
        _threads.add(thread)
    _start_thread(thread)


def _guard() -> Generator[None, object, object]:
    global _test  # noqa: PLW0603  (an audit hook belongs to the process, so does what it refuses)
    _test = threading.get_ident()
    try:
        with mock.patch.object(threading.Thread, "start", _noted):  # before Python 3.12 no event tells of a thread
            return (yield)
    finally:
        _test = None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup() -> Generator[None, object, object]:
    """Refuse while fixtures are made: a server's would start it."""
    return (yield from _guard())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None, object, object]:
    """Refuse while the test runs. Its teardown may end what earlier tests of this process have started."""
    return (yield from _guard())
