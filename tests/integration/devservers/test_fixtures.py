"""The fixtures themselves: pytest runs pytest."""

import signal
import sys

import pytest

from cachekeeper.devservers import FoundServer
from testkit.leftovers import ProgramDirectory, running
from testkit.waiting import wait_until

INNER = """
import os, pathlib, signal
def test_one(redis_server):
    with redis_server.client() as client:
        assert client.dbsize() == 0
        client.set("left", 1)
    if "WAIT" in os.environ:
        pathlib.Path(os.environ["TMPDIR"], "waiting").touch()
        signal.pause()
def test_two(redis_server):
    with redis_server.client() as client:
        assert client.dbsize() == 0
"""


def pytest_command(place: ProgramDirectory, *arguments: str) -> list[str]:
    inner = place.path / "test_inner.py"
    inner.write_text(INNER)
    plain = ["-c", "/dev/null", "--rootdir", str(place.path), "-p", "no:cacheprovider", "-p", "testkit.servers_plugin"]
    return [sys.executable, "-m", "pytest", "-v", *plain, *arguments, str(inner)]


@pytest.mark.parametrize("arguments", [[], ["-n", "2"]], ids=["alone", "xdist"])
def test_the_closing_report_says_what_the_tests_ran_against(
    place: ProgramDirectory, redis_found: FoundServer, arguments: list[str]
) -> None:
    with running(place, pytest_command(place, *arguments)) as inner:
        assert inner.end() == 0, inner.output
        report = inner.output.partition("ran against")[2].splitlines()
        assert report[1] == str(redis_found)
        assert "2 passed" in report[-1]
    place.assert_empty()


def test_the_closing_report_says_so_where_no_server_was_wanted(place: ProgramDirectory) -> None:
    with running(place, pytest_command(place, "-k", "nothing has this name")) as inner:
        inner.end()
        assert "none: no test that ran wanted a server" in inner.output


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
@pytest.mark.parametrize("arguments", [[], ["-n", "1"]], ids=["alone", "xdist"])
def test_no_server_outlives_pytest(place: ProgramDirectory, number: signal.Signals, arguments: list[str]) -> None:
    command = ["env", "WAIT=1", *pytest_command(place, *arguments)]
    with running(place, command) as inner:
        wait_until((place.path / "waiting").exists, "a test runs, with a server")
        assert place.left()
        inner.send(number)
        inner.end()
        place.assert_empty()
