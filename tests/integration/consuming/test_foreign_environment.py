"""A worker beside other projects: their variables and modules neither change nor end it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

import pytest
from celery.bin.celery import celery

from cachekeeper.consuming import celery_environment as environment
from cachekeeper.devservers import Guardian
from cachekeeper.devservers.worker_process import WorkerProcess
from cachekeeper.settings import PublisherSettings
from producers import Publisher, UserLoggedOut
from testkit.shop import Shop
from testkit.waiting import wait_until

FOREIGN = {
    "CELERY_APP": "nowhere",
    "CELERY_BROKER_URL": "redis://127.0.0.1:1/7",
    "CELERY_BROKER_READ_URL": "redis://127.0.0.1:1/7",
    "CELERY_BROKER_WRITE_URL": "redis://127.0.0.1:1/7",
    "CELERY_CONFIG_MODULE": "nowhere",
    "CELERY_LOADER": "nowhere:Loader",
    "CELERY_RESULT_BACKEND": "nowhere://127.0.0.1:1/7",
    "CELERY_WORKER_AUTOSCALE": "2,0",
    "CELERY_WORKER_POOL": "prefork",
    "CELERY_WORKER_QUEUES": "theirs",
}
MODULES = ("worker", "lookups", "producers", "celeryconfig", "tasks")
PREFIX = "CACHEKEEPER_"
ROOT = Path(__file__).parents[3]


class ElsewhereProcess(WorkerProcess):
    """A worker in another directory."""

    elsewhere: Path

    def _command(self) -> Sequence[str]:
        return ["sh", "-c", 'cd "$0" && exec "$@"', str(self.elsewhere), *super()._command()]


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """The directory of another project, whose modules must not be imported."""
    for name in MODULES:
        (tmp_path / f"{name}.py").write_text(f"raise SystemExit('{name} of another project')\n")
    return tmp_path


@pytest.fixture
def urls(shop: Shop) -> dict[str, str]:
    return {
        "CACHEKEEPER_REDIS_URL": shop.server.url,
        "CACHEKEEPER_MONGODB_URL": shop.mongo.url_of(shop.name),
        "CACHEKEEPER_BROKER_URL": shop.server.url_of(1),
    }


@pytest.fixture
def worker(guardian: Guardian, urls: Mapping[str, str], elsewhere: Path) -> Iterator[WorkerProcess]:
    worker = ElsewhereProcess(guardian, {**FOREIGN, **urls})
    worker.elsewhere = elsewhere
    worker.start()
    yield worker
    worker.stop()


def test_a_worker_applies_what_is_published_whatever_others_have_left(
    worker: WorkerProcess, shop: Shop, urls: Mapping[str, str]
) -> None:
    publisher = Publisher(PublisherSettings(broker_url=urls["CACHEKEEPER_BROKER_URL"]))
    publisher.publish(UserLoggedOut(token_id="t"))
    with shop.server.client() as client:
        wait_until(lambda: client.exists("blocked:t"), "the event applied")
    publisher.close()
    (said,) = [line for line in worker.log_tail(1000).splitlines() if "CELERY_" in line]
    names = ", ".join(sorted(name for name in FOREIGN if name != "CELERY_APP"))
    assert said.endswith(f"{names}: ignored; this worker reads only variables that begin with CACHEKEEPER_")
    assert "127.0.0.1:1/7" not in worker.log_tail(1000)


def test_what_the_command_celery_has_read_is_not_said_to_be_unread(tmp_path: Path, urls: Mapping[str, str]) -> None:
    read = {
        "CELERY_WORKDIR": str(tmp_path),
        "CELERY_QUIET": "1",
        "CELERY_SKIP_CHECKS": "1",
        "CELERY_NO_COLOR": "1",
    }
    theirs = {"CELERY_RESULT_BACKEND": "nowhere://127.0.0.1:1/7", "CELERY_REPORT_NOTHING": "1"}
    for given, said in ((read, None), ({**read, **theirs}, "CELERY_REPORT_NOTHING, CELERY_RESULT_BACKEND: ignored")):
        done = run(["-m", "celery", "-A", "cachekeeper", "report"], ROOT, **given, **urls)
        assert done.returncode == 0, done.stderr
        found = [line for line in done.stderr.splitlines() if "CELERY_" in line]
        assert len(found) == (said is not None), done.stderr
        assert said is None or found[0].startswith(said)


def test_each_option_of_the_command_celery_is_told_apart() -> None:
    """Celery reads those before it imports our application, each from a variable of its name."""
    options = {f"CELERY_{option.name.upper()}" for option in celery.params if option.name}
    in_vain = {"CELERY_BROKER", "CELERY_CONFIG", "CELERY_LOADER", "CELERY_RESULT_BACKEND"}
    assert options - in_vain == environment.READ_BY_CELERY


def run(words: Sequence[str], where: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    return subprocess.run(
        [sys.executable, *words],
        cwd=where,
        env={**kept, **variables},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_module_that_hides_ours_is_named_in_one_sentence(tmp_path: Path, urls: Mapping[str, str]) -> None:
    (tmp_path / "lookups.py").write_text("")
    code = "import lookups, cachekeeper; cachekeeper.load_registry(('producers', 'lookups', 'worker'))"
    done = run(["-c", f"import sys; sys.path.insert(0, '.')\n{code}"], tmp_path, **urls)
    said = done.stderr.strip().splitlines()[-1]
    assert "the module 'lookups' of this process is" in said
    assert "lookups.py, which hides the one of cachekeeper: rename it" in said
    done = run(["-m", "celery", "-A", "cachekeeper", "report"], tmp_path, CACHEKEEPER_MODULES="lookups", **urls)
    assert "Traceback" not in done.stderr
    (said,) = done.stderr.strip().splitlines()
    assert "module 'lookups' (" in said
    assert "lookups.py) has no function register(registry)" in said


@pytest.mark.parametrize("options", [("--autoscale=2,0",), ("--autoscale", "8,2"), ("-P", "processes"), ("-Pgevent",)])
def test_an_option_that_does_not_fit_ends_it_in_one_line(
    tmp_path: Path, urls: Mapping[str, str], options: Sequence[str]
) -> None:
    done = run(["-m", "celery", "-A", "cachekeeper", "worker", *options], tmp_path, **urls)
    assert done.returncode == 1
    # Celery warns whoever is root, before it.
    *_, said = done.stderr.strip().splitlines()
    assert said.startswith("run the worker with")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "options",
    [
        ("-Q", "other"),
        ("-Qcachekeeper,other",),
        ("--queues=other, cachekeeper",),
        ("-Q", "cachekeeper,"),
        ("-X", "cachekeeper"),
        ("--exclude-queues=other,cachekeeper",),
        ("-Q", "cachekeeper", "-X", "cachekeeper"),
        ("-Q", "other", "-X", "other"),
    ],
)
def test_queues_that_do_not_fit_end_it_in_one_line(
    tmp_path: Path, urls: Mapping[str, str], options: Sequence[str]
) -> None:
    done = run(["-m", "celery", "-A", "cachekeeper", "worker", *options], tmp_path, **urls)
    assert done.returncode == 1
    *_, said = done.stderr.strip().splitlines()
    assert said == "run the worker without -Q and -X: it consumes only the queue cachekeeper"
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("options", [("-Q", "cachekeeper"), ("-X", "other")])
def test_queues_that_fit(guardian: Guardian, urls: Mapping[str, str], shop: Shop, options: Sequence[str]) -> None:
    class Told(WorkerProcess):
        def _command(self) -> Sequence[str]:
            return [*super()._command(), *options]

    worker = Told(guardian, urls)
    worker.start()
    publisher = Publisher(PublisherSettings(broker_url=urls["CACHEKEEPER_BROKER_URL"]))
    publisher.publish(UserLoggedOut(token_id="t"))
    with shop.server.client() as client:
        wait_until(lambda: client.exists("blocked:t"), "the event applied")
    publisher.close()
    worker.stop()


@pytest.mark.parametrize("pool", ["gevent", "eventlet"])
def test_a_pool_that_celery_imports_by_itself(tmp_path: Path, urls: Mapping[str, str], pool: str) -> None:
    """Where its package is not installed, the last line is Celery's: docs/operations/workers.md says so."""
    done = run(["-m", "celery", "-A", "cachekeeper", "worker", "-P", pool], tmp_path, **urls)
    assert done.returncode == 1
    *_, said = done.stderr.strip().splitlines()
    if find_spec(pool) is None:
        assert said == f"ModuleNotFoundError: No module named '{pool}'"
    else:
        assert said.startswith("run the worker with")
        assert "Traceback" not in done.stderr


def test_what_reads_loads_no_celery(tmp_path: Path) -> None:
    code = (
        "import sys, cachekeeper, lookups\n"
        "found = {'celery', 'kombu', 'billiard', 'click', 'cachekeeper.celery'} & set(sys.modules)\n"
        "assert not found, found\n"
        "assert not hasattr(cachekeeper, 'celery')\n"
    )
    done = run(["-c", code], tmp_path)
    assert done.returncode == 0, done.stderr
