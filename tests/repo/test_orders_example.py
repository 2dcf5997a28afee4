"""The worked example of docs/extending.md, taken from the page, on the built wheel in an empty environment."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from cachekeeper.devservers import Guardian, MongoServer, RedisServer
from cachekeeper.devservers.worker_process import WorkerProcess
from testkit.compose import ROOT
from testkit.parts import missing
from testkit.prose import blocks
from testkit.waiting import wait_until

PAGE = ROOT / "docs/extending.md"
PYTHON = [block for block in blocks(PAGE) if block.language == "python"]


@dataclass(frozen=True)
class Installation:
    """An environment with the wheel, and a directory with the package; nothing in it comes from the source tree."""

    python: Path
    directory: Path
    environment: dict[str, str]

    def run(self, *arguments: str, **more: str) -> str:
        done = subprocess.run(
            [str(self.python), *arguments],
            cwd=self.directory,
            env={**self.environment, **more},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


class Worker(WorkerProcess):
    """`celery -A cachekeeper worker` of the empty environment, in its directory."""

    def __init__(self, guardian: Guardian, installation: Installation, modules: str) -> None:
        super().__init__(guardian, {**installation.environment, "CACHEKEEPER_MODULES": modules})
        self._place = installation

    def _command(self) -> Sequence[str]:
        # `env -C` does not exist everywhere; a shell does.
        command = [str(self._place.python), "-m", "celery", "-A", self.app, "worker"]
        return ["/bin/sh", "-c", 'cd "$0" && exec "$@"', str(self._place.directory), *command]


@pytest.fixture
def installation(tmp_path: Path, redis_server: RedisServer, mongo_server: MongoServer, database: str) -> Installation:
    # The hatchling of these tests builds, and their pip installs: the environment needs neither.
    wheels, environment, work = tmp_path / "wheels", tmp_path / "environment", tmp_path / "work"
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(wheels)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, timeout=120)
    (wheel,) = wheels.glob("*.whl")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True, timeout=60)
    python = environment / "bin/python"
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--constraint"]
    done = subprocess.run(
        [*install, str(ROOT / "constraints.txt"), f"{wheel}[cli]"],
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    if done.returncode != 0:
        missing("pip", f"pip could not install the wheel into an empty environment: {done.stderr[-500:]}")

    (source,) = (block for block in PYTHON if block.mark == "file")
    module = work / source.argument
    module.parent.mkdir(parents=True)
    module.write_text(source.text, "utf-8")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("CACHEKEEPER_", "PYTHON"))}
    return Installation(
        python,
        work,
        {
            **kept,
            "CACHEKEEPER_REDIS_URL": redis_server.url,
            "CACHEKEEPER_MONGODB_URL": mongo_server.url_of(database),
            "CACHEKEEPER_BROKER_URL": redis_server.url_of(1),
        },
    )


@contextmanager
def working(guardian: Guardian, installation: Installation, modules: str) -> Iterator[None]:
    worker = Worker(guardian, installation, modules)
    worker.start()
    try:
        yield
    finally:
        worker.kill()


def test_the_package_is_as_short_as_the_page_says() -> None:
    (source,) = (block for block in PYTHON if block.mark == "file")
    assert len([line for line in source.text.splitlines() if line.strip()]) <= 30


# One test, so that the environment is made once: under pytest-xdist every worker process would make its own.
@pytest.mark.timeout(600)
def test_orders_alone_and_beside_the_shipped_views(
    installation: Installation, guardian: Guardian, redis_server: RedisServer, mongo_server: MongoServer, database: str
) -> None:
    where = installation.run(
        "-c", "import cachekeeper, orders; print(cachekeeper.__file__); print(orders.__file__)"
    ).split()
    assert [Path(path).is_relative_to(ROOT) for path in where] == [False, False]

    publish, read, test = (block for block in PYTHON if block.mark == "continues")
    assert installation.run("-c", test.text) == ""
    broken = test.text.replace('"paid", 3)]', '"paid", 4)]')
    with pytest.raises(AssertionError, match="AssertionError"):
        installation.run("-c", broken)

    with redis_server.client() as redis, mongo_server.client() as mongo:
        orders = mongo[database].orders
        views = "from cachekeeper import load_registry, load_settings; import json; "
        views += "print(json.dumps(sorted(load_registry(load_settings().modules).views)))"
        for modules, registered in (
            ("orders", ["order_status"]),
            ("producers,lookups,worker,orders", ["blocked", "order_status", "search", "session", "user_name"]),
        ):
            assert json.loads(installation.run("-c", views, CACHEKEEPER_MODULES=modules)) == registered
            redis.flushall()
            orders.replace_one({"_id": 1815}, {"status": "new", "version": 1}, upsert=True)
            with working(guardian, installation, modules):
                # Cached first, so that only the event can bring the change to the reader.
                assert installation.run("-c", read.text, CACHEKEEPER_MODULES=modules) == "new\n"
                assert redis.get("order:1815:status") == b"new"
                installation.run("-c", publish.text, CACHEKEEPER_MODULES=modules)
                wait_until(lambda: redis.get("order:1815:status") == b"paid", f"the event is applied with {modules}")
                assert installation.run("-c", read.text, CACHEKEEPER_MODULES=modules) == "paid\n"

        redis.flushall()
        command = str(installation.python.parent / "cachekeeper")
        installation.run(command, "warm", "order_status", CACHEKEEPER_MODULES="orders", PYTHONPATH=".")
        assert redis.get("order:1815:status") == b"paid"
