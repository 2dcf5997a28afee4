"""`cachekeeper dev`: what it prints, what runs in it, and what is said of a start that fails."""

import json
import re
import signal
import stat
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pymongo
import pytest
import redis
from celery import Celery

from cachekeeper.broker.names import CONTROL_EXCHANGE
from cachekeeper.devservers import DevStack, FoundServer, ServerFailed, StackError
from cachekeeper.devservers.state import published, running_stacks
from producers import UserDeleted, outbox
from testkit.leftovers import CACHEKEEPER, ROOT, Program, ProgramDirectory, running
from testkit.waiting import wait_until
from tests.integration.devservers.dev_programs import DEV, READY, ask, fake_mongod, variables

pytestmark = pytest.mark.usefixtures("redis_found", "mongo_found")


def test_it_prints_what_another_shell_needs_and_nothing_else_on_standard_output(place: ProgramDirectory) -> None:
    with running(place, DEV) as dev:
        dev.wait_for(READY)
        found = variables(dev.output)
        assert set(found) == {
            "CACHEKEEPER_REDIS_URL",
            "CACHEKEEPER_SECURITY_REDIS_URL",
            "CACHEKEEPER_MONGODB_URL",
            "CACHEKEEPER_BROKER_URL",
        }
        policies = {}
        for name in ("CACHEKEEPER_REDIS_URL", "CACHEKEEPER_SECURITY_REDIS_URL", "CACHEKEEPER_BROKER_URL"):
            with redis.Redis.from_url(found[name]) as client:
                policies[name] = client.config_get("maxmemory-policy")["maxmemory-policy"]
        assert policies == {
            "CACHEKEEPER_REDIS_URL": "allkeys-lfu",
            "CACHEKEEPER_SECURITY_REDIS_URL": "noeviction",
            "CACHEKEEPER_BROKER_URL": "noeviction",
        }
        with pymongo.MongoClient[dict[str, object]](found["CACHEKEEPER_MONGODB_URL"]) as mongo:
            with mongo.start_session() as session, session.start_transaction():
                mongo.get_default_database()["things"].insert_one({"a": 1}, session=session)
            assert mongo.get_default_database()["things"].count_documents({}) == 1

        again = ask(place)
        assert again.returncode == 0
        assert variables(again.stdout) == found
        assert again.stderr == ""

        dev.send(signal.SIGINT)
        assert dev.end() == 0
        assert variables(dev.output) == found
    place.assert_empty()


def test_asking_for_a_stack_where_none_runs_is_an_error(place: ProgramDirectory) -> None:
    answer = ask(place)
    assert answer.returncode == 1
    assert answer.stdout == ""
    assert "no stack is running" in answer.stderr
    assert "`cachekeeper dev` starts one" in answer.stderr
    assert "Traceback" not in answer.stderr
    assert place.left() == []


def test_of_two_stacks_the_one_of_this_directory_answers_and_else_one_must_be_named(
    place: ProgramDirectory, tmp_path: Path
) -> None:
    elsewhere = (tmp_path / "another").resolve()
    elsewhere.mkdir()
    there = ["sh", "-c", 'cd "$0" && exec "$@"', str(elsewhere), *DEV]
    with running(place, DEV, "first") as first, running(place, DEV, "second") as second:
        first.wait_for(READY)
        second.wait_for(READY)
        by_age = sorted((first, second), key=lambda program: _started(place, program))
        answer = ask(place)
        assert (answer.returncode, answer.stdout) == (1, "")
        assert "Traceback" not in answer.stderr
        for program in by_age:
            assert f"--pid {program.process.pid}  started in {ROOT}" in answer.stderr
            named = ask(place, "--pid", str(program.process.pid))
            assert variables(named.stdout) == variables(program.output)

        with running(place, there, "third") as third:
            third.wait_for(READY)
            assert variables(ask(place, where=elsewhere).stdout) == variables(third.output)
            third.send(signal.SIGTERM)
            third.end()

        by_age[1].send(signal.SIGKILL)
        by_age[1].end()
        # Without waiting: the lock is gone with the process, whether or not the guardian has removed the file.
        assert variables(ask(place).stdout) == variables(by_age[0].output)
        assert ask(place, "--pid", str(by_age[1].process.pid)).returncode == 1
        only = ask(place, where=elsewhere)
        assert variables(only.stdout) == variables(by_age[0].output)
        assert f"was started in {ROOT}" in only.stderr


def _started(place: ProgramDirectory, program: Program) -> float:
    return next(stack.started for stack in running_stacks(place.path) if stack.pid == program.process.pid)


def test_with_everything_a_change_is_cached_whoever_makes_it(place: ProgramDirectory) -> None:
    """One by the outbox, one that only MongoDB hears of, one over HTTP; and all of them end together."""
    with running(place, [*CACHEKEEPER, "dev", "--stream", "--http", "0"]) as dev:
        found = variables(dev.wait_for(READY).output)
        (port,) = re.findall(r"HTTP door.* on 127\.0\.0\.1:(\d+)", dev.errors)
        with (
            pymongo.MongoClient[dict[str, Any]](found["CACHEKEEPER_MONGODB_URL"]) as mongo,
            redis.Redis.from_url(found["CACHEKEEPER_REDIS_URL"]) as cache,
        ):
            database = mongo.get_default_database()

            def goes(key: str, change: Callable[[], object]) -> None:
                cache.set(key, "old")
                change()
                wait_until(lambda: cache.get(key) != b"old", f"word of {key}")

            def by_the_outbox() -> None:
                with mongo.start_session() as session, session.start_transaction():
                    outbox.add(database, session, UserDeleted(user_id="1"))

            def over_http() -> None:
                event = {"specversion": "1.0", "id": "e", "source": "/test", "type": "user.deleted"}
                request = urllib.request.Request(
                    f"http://127.0.0.1:{port}/events",
                    json.dumps({**event, "data": {"user_id": "3"}}).encode(),
                    {
                        "Authorization": f"Bearer {found['CACHEKEEPER_HTTP_API_KEYS']}",
                        "Content-Type": "application/cloudevents+json",
                    },
                )
                with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310  # the URL is above
                    assert answer.status == 202

            goes("user:1:name", by_the_outbox)
            goes("user:2:name", lambda: database["users"].insert_one({"_id": 2, "name": "Ann"}))
            goes("user:3:name", over_http)
        dev.send(signal.SIGINT)
        assert dev.end() == 0
    place.assert_empty()


def test_nothing_is_left_of_a_failed_start(place: ProgramDirectory) -> None:
    mongod = fake_mongod(place, "echo what went wrong; exit 3")
    with running(place, [*DEV, "--mongod", str(mongod)]) as dev:
        assert dev.end() == 1
        assert "mongodb exited with status 3 while starting" in dev.errors
        assert "what went wrong" in dev.errors
        assert "Traceback" not in dev.errors
        assert dev.output == ""
        assert place.left() == [], "it has waited for its own end"


def test_a_program_that_is_none_is_named(place: ProgramDirectory) -> None:
    with running(place, [*DEV, "--mongod", "/nonexistent/mongod"]) as dev:
        assert dev.end() == 1
        assert "/nonexistent/mongod does not run on this system: No such file or directory" in dev.errors
        assert "docker compose up -d" in dev.errors
        assert place.left() == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=lambda number: number.name)
def test_a_data_directory_is_kept_and_nothing_else(place: ProgramDirectory, number: signal.Signals) -> None:
    kept = place.path / "kept"
    command = [*DEV, "--data", str(kept)]
    with running(place, command, "first") as first:
        found = variables(first.wait_for(READY).output)
        for name in ("CACHEKEEPER_REDIS_URL", "CACHEKEEPER_BROKER_URL"):
            with redis.Redis.from_url(found[name]) as client:
                client.set("name", name)
        with pymongo.MongoClient[dict[str, object]](found["CACHEKEEPER_MONGODB_URL"], w="majority") as mongo:
            mongo.get_default_database()["things"].insert_one({"a": 1})

        with running(place, command, "intruder") as intruder:
            assert intruder.end() == 1
            assert f"the data directory {kept} is in use by another stack" in intruder.errors

        first.send(number)
        first.end()
        place.assert_empty()
    with running(place, command, "second") as second:
        found = variables(second.wait_for(READY).output)
        for name in ("CACHEKEEPER_REDIS_URL", "CACHEKEEPER_BROKER_URL"):
            with redis.Redis.from_url(found[name]) as client:
                assert client.get("name") == name.encode()
        with pymongo.MongoClient[dict[str, object]](found["CACHEKEEPER_MONGODB_URL"]) as mongo:
            assert mongo.get_default_database()["things"].count_documents({}) == 1


def test_a_data_directory_that_cannot_be_made_is_an_error(place: ProgramDirectory) -> None:
    (place.path / "file").write_text("")
    with running(place, [*DEV, "--data", str(place.path / "file")]) as dev:
        assert dev.end() == 1
        assert "cannot be used" in dev.errors
        assert "Traceback" not in dev.errors


def test_only_a_private_file_of_a_living_process_is_believed(tmp_path: Path) -> None:
    directory = tmp_path / "cachekeeper-planted"
    directory.mkdir(mode=0o700)
    with published({"CACHEKEEPER_X": "1"}, directory):
        assert [stack.environment for stack in running_stacks(tmp_path)] == [{"CACHEKEEPER_X": "1"}]
        directory.chmod(0o755)
        assert running_stacks(tmp_path) == [], "somebody else may have put it there"
        directory.chmod(0o700)
        written = (directory / "running.json").read_text()
    assert running_stacks(tmp_path) == []
    (directory / "running.json").write_text(written)
    assert running_stacks(tmp_path) == [], "nobody holds its lock"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=lambda number: number.name)
def test_the_shipped_worker_is_part_of_it(place: ProgramDirectory, number: signal.Signals) -> None:
    with running(place, [*CACHEKEEPER, "dev", "--data", str(place.path / "kept")]) as dev:
        found = variables(dev.wait_for(READY).output)
        everything = "itself, its guardian, two Redis, one MongoDB, the worker, the relay"
        wait_until(lambda: len(place.processes()) == 7, everything)
        with Celery("asking", broker=found["CACHEKEEPER_BROKER_URL"], set_as_current=False) as asking:
            asking.conf.control_exchange = CONTROL_EXCHANGE
            # One that is slow just now is not heard in time, and is asked again.
            answers = wait_until(lambda: asking.control.inspect(timeout=5).active_queues() or {}, "an answer")
            (queues,) = answers.values()
        assert [queue["name"] for queue in queues] == ["cachekeeper"]
        dev.send(number)
        assert dev.end() == (0 if number == signal.SIGINT else -number)
        place.assert_empty()


def test_a_real_worker_is_waited_for_and_missed(redis_found: FoundServer, mongo_found: FoundServer) -> None:
    with DevStack(redis=redis_found, mongod=mongo_found, worker_app="tests.integration.devservers.stand_in") as stack:
        assert stack.worker is not None
        environment = psutil.Process(stack.worker.pid).environ()
        assert stack.environment.items() <= environment.items()
        stack.check()
        stack.worker.kill()
        with pytest.raises(ServerFailed, match="worker was killed by SIGKILL unexpectedly"):
            stack.check()


def test_a_worker_that_cannot_start_says_why() -> None:
    stack = DevStack(worker_app="no_such_module")
    with pytest.raises(ServerFailed, match="The module no_such_module was not found") as caught:
        stack.start()
    assert caught.value.name == "worker"
    assert not stack.directory.exists()


def test_a_stack_starts_once() -> None:
    stack = DevStack(worker=False)
    with pytest.raises(StackError, match="was not started"):
        stack.check()
    with stack:
        assert stat.S_IMODE(stack.directory.stat().st_mode) == 0o700
        with pytest.raises(StackError, match="was started before"):
            stack.start()
        assert all(server.alive for server in stack.servers)
    assert not any(server.alive for server in stack.servers)
    assert not stack.directory.exists()


def test_the_command_line_names_the_missing_extra(place: ProgramDirectory) -> None:
    hidden = "import sys; sys.modules['typer'] = None; from cachekeeper.cli import main; main()"
    with running(place, [sys.executable, "-c", hidden]) as program:
        assert program.end() == 1
        assert 'pip install "cachekeeper[cli]"' in program.errors
