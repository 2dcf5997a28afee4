"""A unit test starts no process and uses no network: it fails where it tries.

An audit hook sees every way into it, in C code too. It cannot be taken back, so it stays in this process and refuses
only while a unit test is set up or called.
"""

import socket
import sys
import threading
from collections.abc import Generator

import pytest

PROCESSES = frozenset(
    {"os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.system", "pty.spawn", "subprocess.Popen"}
)
NETWORK = frozenset(
    {"socket.bind", "socket.connect", "socket.getaddrinfo", "socket.gethostbyaddr", "socket.gethostbyname"}
)

_guarded: frozenset[int] | None = None
"""While a unit test runs: the threads that were there before it, except the one that runs it.

They are those of other tests' clients, which may connect whenever they like.
"""


def _refuse(event: str, args: tuple[object, ...]) -> None:
    if _guarded is None or threading.get_ident() in _guarded:
        return
    if event in PROCESSES:
        pytest.fail(f"a unit test starts no process: {event}")
    # A pair of UNIX sockets is how an event loop wakes itself.
    if event in NETWORK or (event == "socket.__new__" and args[1] != socket.AF_UNIX):
        pytest.fail(f"a unit test opens no socket: {event}")


sys.addaudithook(_refuse)


def _guard() -> Generator[None, object, object]:
    global _guarded  # noqa: PLW0603  (an audit hook belongs to the process, so does what it refuses)
    _guarded = frozenset(thread.ident or 0 for thread in threading.enumerate()) - {threading.get_ident()}
    try:
        return (yield)
    finally:
        _guarded = None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup() -> Generator[None, object, object]:
    """Refuse while fixtures are made: a server's would start it."""
    return (yield from _guard())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None, object, object]:
    """Refuse while the test runs. Its teardown may end what earlier tests of this process have started."""
    return (yield from _guard())
