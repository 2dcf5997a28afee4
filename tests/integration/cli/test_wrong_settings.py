"""A program with settings that are wrong ends at once, and names each of them."""

import os
import subprocess
import sys

import pytest

from cachekeeper.settings import PREFIX
from testkit.compose import ROOT

GOOD = {
    "REDIS_URL": "redis://cache",
    "MONGODB_URL": "mongodb://db/shop",
    "BROKER_URL": "amqp://me:secret@broker//",
}


def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Python with these variables and no others of ours."""
    kept = {name: value for name, value in os.environ.items() if not name.upper().startswith(PREFIX)}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**kept, **{PREFIX + name: value for name, value in variables.items()}},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def celery_worker(app: str = "cachekeeper", **variables: str) -> subprocess.CompletedProcess[str]:
    """`celery -A cachekeeper worker`."""
    return run("-m", "celery", "-A", app, "worker", **variables)


def test_the_old_name_finds_the_same_application() -> None:
    """Where `worker` is ours."""
    done = celery_worker("worker", **{**GOOD, "REDIS_URL": "cache"})
    assert (done.returncode, done.stderr) == (1, celery_worker(**{**GOOD, "REDIS_URL": "cache"}).stderr)
    assert PREFIX + "REDIS_URL" in done.stderr


@pytest.mark.parametrize(
    ("variables", "faults"),
    [
        ({}, ["REDIS_URL", "MONGODB_URL", "BROKER_URL"]),
        ({**GOOD, "REDIS_URL": "cache", "LEASE_SECONDS": "soon"}, ["REDIS_URL", "LEASE_SECONDS"]),
        ({**GOOD, "MONGODB_URL": "mongodb://db", "BROKER_URL": "kafka://x"}, ["MONGODB_URL", "BROKER_URL"]),
        ({**GOOD, "MODULES": "lookups,nothing_here"}, ["MODULES"]),
        ({**GOOD, "MODULES": "worker,producers"}, ["handler on_user_updated"]),
    ],
    ids=["none", "wrong", "two more", "no module", "modules that do not fit"],
)
def test_wrong_settings_end_it_at_once_by_name_and_without_a_traceback(
    variables: dict[str, str], faults: list[str]
) -> None:
    done = celery_worker(**variables)
    assert done.returncode not in {0, None}
    assert "Traceback" not in done.stdout + done.stderr
    for fault in faults:
        assert (fault if " " in fault else PREFIX + fault) in done.stderr
    for name in {"REDIS_URL", "MONGODB_URL", "BROKER_URL"} - set(faults):
        assert PREFIX + name not in done.stderr
    assert "secret" not in done.stdout + done.stderr


COMMAND = "from cachekeeper.cli import main; main()"
ENTRIES = {
    "the worker": ["-m", "celery", "-A", "worker", "worker"],
    "warm": ["-c", COMMAND, "warm", "user_name"],
    "stream": ["-c", COMMAND, "stream"],
}


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("url", ["mongodb://127.0.0.1:1/shop", "mongodb://127.0.0.1:1/"], ids=["alone", "with another"])
def test_a_view_that_only_a_setting_knows(entry: str, url: str) -> None:
    ended = run(
        *ENTRIES[entry],
        REDIS_URL="redis://127.0.0.1:1",
        BROKER_URL="redis://127.0.0.1:1",
        MONGODB_URL=url,
        ID_TYPES="user_nmae=objectid",
    )
    assert ended.returncode == 1
    assert "CACHEKEEPER_ID_TYPES: not a view with an id type: user_nmae; use one of: session, user_name" in ended.stderr
    assert ("CACHEKEEPER_MONGODB_URL: must name its database" in ended.stderr) is url.endswith("/")
    assert "Traceback" not in ended.stderr
