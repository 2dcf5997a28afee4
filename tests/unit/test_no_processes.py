"""The guard over unit tests: `conftest.py` beside this file."""

import asyncio
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from cachekeeper.devservers import Guardian

PROCESSES: dict[str, Callable[[], object]] = {
    "Popen": lambda: subprocess.run([sys.executable, "-V"], check=True),
    "fork": lambda: os.fork() or os._exit(1),
    "posix_spawn": lambda: os.posix_spawn(sys.executable, [sys.executable, "-V"], {}),
    "system": lambda: os.system("exit"),  # noqa: S605  (refused before a shell starts)
}
SOCKETS: dict[str, Callable[[], object]] = {
    "a connection": lambda: socket.create_connection(("127.0.0.1", 9), timeout=1),
    "a socket": socket.socket,
    "a name": lambda: socket.getaddrinfo("localhost", 9),
    "a UNIX socket": lambda: socket.socket(socket.AF_UNIX).connect("/nowhere"),
}


EARLIER = ThreadPoolExecutor(1)
"""As a client that another test has left: its thread is there before a unit test begins."""
EARLIER.submit(threading.get_ident).result(20)


@pytest.mark.parametrize("start", PROCESSES.values(), ids=PROCESSES)
def test_a_unit_test_starts_no_process(start: Callable[[], object]) -> None:
    with pytest.raises(pytest.fail.Exception, match="starts no process"):
        start()


@pytest.mark.filterwarnings("ignore:unclosed")
@pytest.mark.parametrize("open_one", SOCKETS.values(), ids=SOCKETS)
def test_a_unit_test_opens_no_socket(open_one: Callable[[], object]) -> None:
    with pytest.raises(pytest.fail.Exception, match="opens no socket"):
        open_one()


def test_nor_do_the_threads_that_it_starts() -> None:
    with ThreadPoolExecutor(1) as pool, pytest.raises(pytest.fail.Exception, match="starts no process"):
        pool.submit(PROCESSES["Popen"]).result(20)


def test_a_thread_that_was_there_before_may_open_one() -> None:
    with EARLIER.submit(socket.socket).result(20) as opened:
        assert opened.fileno() > 0


def test_nor_does_the_guardian_of_the_servers() -> None:
    with pytest.raises(pytest.fail.Exception, match="starts no process"), Guardian():
        pass


def test_an_event_loop_is_none_of_these() -> None:
    assert asyncio.run(asyncio.sleep(0, "slept")) == "slept"
