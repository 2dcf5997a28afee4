"""The README's example, and every other block of Python in the docs, run as they stand, on real servers."""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping

import pytest

from cachekeeper import Keeper, Settings
from cachekeeper.devservers import Guardian, MongoServer, RedisServer
from cachekeeper.devservers.worker_process import WorkerProcess
from lookups import read_user
from producers import Publisher, UserUpdated
from testkit.compose import ROOT
from testkit.prose import PAGES, README, Block, blocks
from testkit.waiting import wait_until

(EXAMPLE,) = (block for block in blocks(README) if block.mark == "example")
PUBLISH = next(line for line in EXAMPLE.text.splitlines() if line.startswith("publish("))


@pytest.fixture
def environment(
    redis_server: RedisServer, mongo_server: MongoServer, database: str, monkeypatch: pytest.MonkeyPatch
) -> dict[str, str]:
    """The variables that lead to this test's servers; those of the person who runs the tests do not count."""
    for name in [name for name in os.environ if name.startswith("CACHEKEEPER_")]:
        monkeypatch.delenv(name)
    return {
        "CACHEKEEPER_REDIS_URL": redis_server.url,
        "CACHEKEEPER_MONGODB_URL": mongo_server.url_of(database),
        "CACHEKEEPER_BROKER_URL": redis_server.url_of(1),
    }


@pytest.fixture
def worker(guardian: Guardian, environment: dict[str, str]) -> Iterator[WorkerProcess]:
    worker = WorkerProcess(guardian, environment)
    worker.start()
    yield worker
    worker.kill()


@pytest.fixture
def readme_keeper(environment: dict[str, str]) -> Iterator[Keeper]:
    keeper = Keeper(_settings(environment))
    yield keeper
    keeper.close()


def _settings(environment: Mapping[str, str]) -> Settings:
    return Settings(
        redis_url=environment["CACHEKEEPER_REDIS_URL"],
        mongodb_url=environment["CACHEKEEPER_MONGODB_URL"],
        broker_url=environment["CACHEKEEPER_BROKER_URL"],
    )


def run(code: str, environment: Mapping[str, str]) -> str:
    """Run a block in a Python of its own, as a reader would who copies it; what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.usefixtures("worker")
def test_the_example_brings_its_change_to_every_reader(
    environment: dict[str, str],
    readme_keeper: Keeper,
    redis_server: RedisServer,
    database: str,
    mongo_server: MongoServer,
) -> None:
    publisher = Publisher(_settings(environment))
    with redis_server.client() as redis, mongo_server.client() as mongo:
        users = mongo[database].users
        users.insert_many([{"_id": 42, "name": "Ada", "version": 7}, {"_id": 43, "name": "Grace", "version": 1}])
        # Both are cached, so that without the worker both would stay.
        assert [read_user(42, keeper=readme_keeper), read_user(43, keeper=readme_keeper)] == ["Ada", "Grace"]
        assert redis.get("user:42:name") == b"Ada"

        # An example that forgets to publish must not pass; the second user's event shows that the worker is at work.
        assert PUBLISH in EXAMPLE.text
        assert run(EXAMPLE.text.replace(PUBLISH, ""), environment) == "Ada\n"
        users.update_one({"_id": 43}, {"$set": {"name": "Hedy", "version": 2}})
        publisher.publish(UserUpdated(user_id="43", name="Hedy", version=2))
        wait_until(lambda: redis.get("user:43:name") == b"Hedy", "the worker has applied the other user's event")
        assert read_user(42, keeper=readme_keeper) == "Ada"

        assert run(EXAMPLE.text, environment) in {"Ada\n", "Ada Lovelace\n"}  # before or after the worker
        wait_until(lambda: redis.get("user:42:name") == b"Ada Lovelace", "the worker has applied the example's event")
        assert read_user(42, keeper=readme_keeper) == "Ada Lovelace"
        assert users.find_one({"_id": 42}) == {"_id": 42, "name": "Ada Lovelace", "version": 9}
    publisher.close()


@pytest.mark.usefixtures("worker")
def test_the_example_runs_on_empty_servers_too(environment: dict[str, str], redis_server: RedisServer) -> None:
    assert run(EXAMPLE.text, environment) == "Ada Lovelace\n"
    with redis_server.client() as redis:
        wait_until(lambda: redis.get("user:42:name") == b"Ada Lovelace", "the name is cached")


def runnable() -> list[Block]:
    """The blocks that nothing else runs."""
    return [block for page in PAGES for block in blocks(page) if block.language == "python" and not block.mark]


@pytest.mark.parametrize("block", runnable(), ids=str)
def test_every_other_block_runs(block: Block, environment: dict[str, str]) -> None:
    run(block.text, environment)


def test_a_block_that_does_not_run_is_found(environment: dict[str, str]) -> None:
    with pytest.raises(AssertionError, match="ImportError"):
        run("from lookups import read_users", environment)


def test_blocks_are_found_with_their_marks() -> None:
    text = "```python\na\n```\n\n<!-- fragment: half a call -->\n```python\nb\n```\n\n```sh\nc\n```\n"
    found = [(block.language, block.text, block.mark, block.argument, block.line) for block in blocks(README, text)]
    assert found == [
        ("python", "a\n", "", "", 2),
        ("python", "b\n", "fragment", "half a call", 7),
        ("sh", "c\n", "", "", 11),
    ]
