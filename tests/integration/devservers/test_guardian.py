"""Nothing outlives the process that started it. Each test kills one at some moment, and looks."""

import os
import signal

import psutil
import pytest

from cachekeeper.devservers import FoundServer, Guardian, RedisServer, ServerFailed
from testkit.leftovers import ProgramDirectory, running, script
from testkit.waiting import wait_until

START = """
import os, signal
from cachekeeper.devservers import Guardian, RedisServer, find_redis
{before}
guardian = Guardian()
server = RedisServer(guardian, find_redis())
print("begun")
server.start()
{after}
print("ready")
signal.pause()
"""


def program(*, before: str = "", after: str = "") -> list[str]:
    """A program that starts a Redis and waits to be killed."""
    return script(START.format(before=before, after=after))


pytestmark = pytest.mark.usefixtures("redis_found")


def test_sigkill_leaves_nothing(place: ProgramDirectory) -> None:
    with running(place, program()) as parent:
        parent.wait_for("ready")
        assert len(place.processes()) == 3, "itself, its guardian, the server"
        parent.send(signal.SIGKILL)
        parent.end()
        place.assert_empty()


MUTANTS = {
    "it is told nothing": "Guardian._tell = lambda *_: None",
    "it is told of no group": "tell = Guardian._tell; Guardian._tell = "
    "lambda self, verb, *more: None if verb == 'group' else tell(self, verb, *more)",
    "it is told of no path": "tell = Guardian._tell; Guardian._tell = "
    "lambda self, verb, *more: None if verb == 'path' else tell(self, verb, *more)",
}


@pytest.mark.parametrize("mutant", MUTANTS.values(), ids=MUTANTS.keys())
def test_without_the_guardian_something_is_left(place: ProgramDirectory, mutant: str) -> None:
    """The tests of this file would notice."""
    with running(place, program(before=mutant)) as parent:
        parent.wait_for("ready").send(signal.SIGKILL)
        parent.end()
        wait_until(lambda: not place.guardians(), "the guardian has done what it will do")
        assert place.left()
        with pytest.raises(AssertionError, match="still not: nothing left"):
            wait_until(lambda: not place.left(), "nothing left", 1)


@pytest.mark.parametrize("milliseconds", range(1, 61, 5))
def test_death_leaves_nothing_at_any_moment_of_a_start(place: ProgramDirectory, milliseconds: int) -> None:
    # An alarm that the program has set itself, since this process is too slow to hit one moment of another. Unhandled
    # it kills as SIGKILL does: no line of Python runs any more.
    alarm = f"signal.setitimer(signal.ITIMER_REAL, {milliseconds / 1000})"
    with running(place, program(before=alarm, after="while True: server.restart()")) as parent:
        assert parent.end() == -signal.SIGALRM
        place.assert_empty()


UNTOLD = """
import os
from pathlib import Path
from cachekeeper.devservers import Guardian, guardian as module
tell = Guardian._tell
Guardian._tell = lambda self, verb, *more: os.kill(os.getpid(), 9) if verb == "group" else tell(self, verb, *more)
{mutation}
Guardian().spawn(["/bin/sleep", "600"], log=Path("/dev/null"))
"""


def test_a_child_that_the_guardian_was_not_told_of_ends_by_itself(place: ProgramDirectory) -> None:
    """The parent dies between the start of a child and its word to the guardian."""
    with running(place, script(UNTOLD.format(mutation=""))) as parent:
        assert parent.end() == -signal.SIGKILL
        place.assert_empty()


def test_a_child_that_does_not_wait_for_the_word_is_left(place: ProgramDirectory) -> None:
    """The mutant of the test above."""
    mutation = "module._LAUNCH = 'exec \"$@\" </dev/null'"
    with running(place, script(UNTOLD.format(mutation=mutation))) as parent:
        assert parent.end() == -signal.SIGKILL
        wait_until(lambda: not place.guardians(), "the guardian has done what it will do")
        assert len(place.processes()) == 1, "the child"


def test_a_stopped_child_and_its_own_children_die_too(place: ProgramDirectory) -> None:
    more = (
        "from pathlib import Path\n"
        "guardian.spawn(['/bin/sh', '-c', 'sleep 600 & sleep 600 & wait'], log=server.directory / 'more.log')\n"
        "server.pause()"
    )
    with running(place, program(after=more)) as parent:
        parent.wait_for("ready")
        wait_until(lambda: len(place.processes()) == 6, "parent, guardian, server, shell and two that sleep")
        parent.send(signal.SIGKILL)
        parent.end()
        place.assert_empty()


def test_a_fork_of_the_parent_does_not_keep_the_servers_alive(place: ProgramDirectory) -> None:
    """It holds a copy of the pipe's writing end, so that the pipe does not end with the parent."""
    fork = (
        "if os.fork() == 0:\n"
        "    guardian.close()\n"  # not the fork's to end
        "    signal.pause()"
    )
    with running(place, program(after=fork)) as parent:
        parent.wait_for("ready")
        assert len(place.processes()) == 4, "itself, its fork, the guardian, the server"
        parent.send(signal.SIGKILL)
        parent.end()
        wait_until(lambda: len(place.processes()) == 1, "only the fork is left")
        assert not list(place.path.glob("cachekeeper-*"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_the_guardian_survives_what_may_be_sent_to_everybody(place: ProgramDirectory, number: signal.Signals) -> None:
    with running(place, program()) as parent:
        parent.wait_for("ready")
        (guardian,) = place.guardians()
        assert os.getsid(guardian.pid) == guardian.pid, "the terminal's signals do not reach it"
        # It goes there once it has said which signals it ignores. The parent, which waits for the server only, may be
        # ready before the guardian's interpreter is.
        wait_until(lambda: guardian.cwd() == "/", "a guardian that is on guard")
        guardian.send_signal(number)
        parent.send(signal.SIGKILL)
        parent.end()
        place.assert_empty()


def test_an_orderly_end_leaves_nothing_either(redis_found: FoundServer) -> None:
    with Guardian() as guardian:
        server = RedisServer(guardian, redis_found)
        server.start()
        file = server.directory.parent / f"{server.directory.name}.file"
        file.write_text("")
        guardian.remove_at_end(file)
        process = psutil.Process(server.pid)
    assert not process.is_running()
    assert not server.directory.exists()
    assert not file.exists()
    assert not psutil.pid_exists(guardian.pid)
    guardian.close()


def test_a_killed_guardian_is_missed_and_replaced(redis_found: FoundServer) -> None:
    guardian = Guardian()
    server = RedisServer(guardian, redis_found)
    server.start()
    os.kill(guardian.pid, signal.SIGKILL)
    wait_until(lambda: not guardian.alive, "the guardian is dead")
    with pytest.raises(ServerFailed, match="the guardian process is gone"):
        RedisServer(guardian, redis_found)
    guardian.close()
    assert not server.alive
    assert not server.directory.exists()


def test_a_killed_server_is_forgotten(redis_found: FoundServer) -> None:
    """Its number may be somebody else's when the guardian cleans up."""
    with Guardian() as guardian:
        server = RedisServer(guardian, redis_found)
        server.start()
        assert guardian._told.groups == {server.pid}
        server.kill()
        assert guardian._told.groups == set()
