"""`cachekeeper warm`: what it says, how it ends, and that it goes on where it was."""

import contextlib
import os
import pty
import re
import signal
import subprocess
import sys

import pytest
import redis

from cachekeeper.devservers import MongoServer, RedisServer
from testkit.leftovers import CACHEKEEPER, ROOT
from testkit.tokens import NONCE, NOWHERE_REDIS, READY
from testkit.users import names

USERS = 500
LINE = r"user_name: \d+ of about 500 documents, [\d,]+/s(, about [\d,]+ s left)?\n"


# In the background of a shell the tests have SIGINT ignored, and so would what they start.
HEARING = "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"


class Command:
    """The command on this test's servers."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.environment = environment

    def started(self, *arguments: str, stderr: int, **environment: str) -> subprocess.Popen[bytes]:
        """The command under way."""
        return subprocess.Popen(
            [sys.executable, "-c", HEARING, *CACHEKEEPER, "warm", *arguments],
            env={**self.environment, **environment},
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
        )

    def __call__(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*CACHEKEEPER, "warm", *arguments],
            env={**self.environment, **environment},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )


@pytest.fixture
def command(redis_server: RedisServer, mongo_server: MongoServer, database: str) -> Command:
    with mongo_server.client() as client:
        client[database]["users"].insert_many([{"_id": at, "name": f"user {at}"} for at in range(USERS)])
        client[database]["blocked_tokens"].insert_one({"_id": "secret-token", "expires_at": None})
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("CACHEKEEPER_")},
        "CACHEKEEPER_REDIS_URL": redis_server.url,
        "CACHEKEEPER_MONGODB_URL": mongo_server.url_of(database),
        "CACHEKEEPER_MODULES": "lookups",
    }
    return Command(environment)


def test_it_fills_a_view_and_says_what_became_of_it(command: Command, client: redis.Redis) -> None:
    client.set("user:7:name", "there")
    ran = command("user_name")
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == f"user_name: 500 documents\n{'499':>12} filled\n{'1':>12} there already\n"
    *before, last = ran.stderr.splitlines(keepends=True)
    assert re.fullmatch(r"user_name: 500 of about 500 documents, [\d,]+/s\n", last), "a plain line"
    assert all(re.fullmatch(LINE, line) for line in before), "so are those before it, where it took longer"
    assert len(names(client)) == USERS


def test_it_makes_a_blocklist_ready(command: Command, client: redis.Redis) -> None:
    client.set(NONCE, "a worker's", px=300)  # it waits for it
    ran = command("blocked")
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == "blocked: 1 documents, ready\n"
    assert client.exists(READY, "blocked:secret-token") == 2


def test_a_server_that_may_evict_cannot_be_ready(command: Command, client: redis.Redis) -> None:
    client.config_set("maxmemory-policy", "allkeys-lfu")
    try:
        ran = command("blocked")
    finally:
        client.config_set("maxmemory-policy", "noeviction")
    assert ran.returncode == 1
    assert "maxmemory-policy is not noeviction" in ran.stderr
    assert client.exists(READY) == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["search"], "VIEW: search cannot be warmed: the texts of future searches are unknown"),
        (["nothing"], "unknown view 'nothing'; use one of: blocked, search, session, user_name"),
    ],
)
def test_what_cannot_be_warmed_is_a_message(command: Command, arguments: list[str], says: str) -> None:
    ran = command(*arguments)
    assert ran.returncode == 1
    assert says in ran.stderr
    assert "Traceback" not in ran.stderr


@pytest.mark.parametrize("view", ["user_name", "blocked"])
def test_an_outage_is_a_message(command: Command, view: str) -> None:
    ran = command(view, CACHEKEEPER_REDIS_URL=NOWHERE_REDIS)
    assert ran.returncode == 1
    assert "cachekeeper: Redis failed while" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_ctrl_c_ends_it_and_the_same_command_goes_on(command: Command, client: redis.Redis) -> None:
    with command.started("user_name", "--rate", "40", "--concurrency", "1", stderr=subprocess.PIPE) as program:
        assert program.stderr is not None
        # The first line comes so early, on a machine that stands still, that nobody knows yet how long it will take.
        lines = iter(program.stderr.readline, b"")
        for line in map(bytes.decode, lines):
            assert re.fullmatch(LINE, line)
            if line.endswith(" s left\n"):
                break
        else:
            pytest.fail("it has ended, and never said how much is left")
        program.send_signal(signal.SIGINT)
        said = program.stderr.read().decode()
        assert program.wait(60) == 130
    match = re.search(r"interrupted after (\d+) documents; run the same command to continue", said)
    assert match is not None, said
    done = int(match[1])
    assert 0 < done < USERS
    assert len(names(client)) >= done
    assert "Traceback" not in said
    ran = command("user_name")
    assert ran.returncode == 0, ran.stderr
    assert f"continues after the first {done} documents" in ran.stderr
    assert len(names(client)) == USERS


def test_a_terminal_gets_a_bar_with_rate_and_time_left(command: Command) -> None:
    ours, theirs = pty.openpty()
    with command.started("user_name", "--rate", "200", stderr=theirs, TERM="xterm", COLUMNS="100") as program:
        os.close(theirs)
        said = b""
        with contextlib.suppress(OSError):  # EIO is how Linux says that the other end is closed
            while read := os.read(ours, 4096):
                said += read
        os.close(ours)
        assert program.wait(60) == 0
    text = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", said.decode())
    assert re.search(r"user_name \S+ +[1-4]\d\d/500", text), "on the way"
    match = re.search(r"500/500 ([\d,]+)/s 0:00:00", text)
    assert match is not None, "at the end"
    assert int(match[1].replace(",", "")) < 5 * 200, "the speed of this run"
    assert "of about" not in text
