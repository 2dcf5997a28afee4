"""What the tests of poison share: a message as a client sends it, and what has become of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from cachekeeper.broker.names import TASK
from cachekeeper.publishing.wire_format import task_body, task_headers
from producers import UserLoggedOut
from testkit.delivering import Site
from testkit.waiting import wait_until

if TYPE_CHECKING:
    from cachekeeper.devservers.worker_process import WorkerProcess

SOON = 30.0
EVENT = json.dumps(UserLoggedOut(token_id="poison").to_wire())
HEADERS = task_headers("m1", 1)
GOOD = task_body([EVENT])


_began: dict[Path, int] = {}  # how long a worker's log was when the test began


@pytest.fixture(autouse=True)
def nothing_left(request: pytest.FixtureRequest) -> None:
    """What one test has left, failed or not, is none of the next one's; a worker writes blocks again from MongoDB."""
    if "worker" not in request.fixturenames:
        return
    site: Site = request.getfixturevalue("site")
    log = request.getfixturevalue("worker").log
    _began[log] = log.stat().st_size
    site.db["dead_letters"].delete_many({})
    site.db["blocked_tokens"].delete_many({"_id": "poison"})
    site.client.delete("blocked:poison")


NO_TASK = f"it is not for the task {TASK}"
NO_TYPE = "its content type is not application/json"


def said(worker: WorkerProcess) -> str:
    """What it has logged in this test. To another's message kombu may well have logged a traceback."""
    return worker.log.read_bytes()[_began[worker.log] :].decode(errors="replace")


def lives_on(site: Site, worker: WorkerProcess, pid: int) -> None:
    """It is the same process, never lost its broker, works, and neither holds nor leaves anything."""
    site.settle()
    assert (worker.alive, worker.pid) == (True, pid)
    assert "Traceback" not in said(worker)
    assert "Connection to broker lost" not in said(worker)
    if not site.is_rabbit:
        wait_until(lambda: not site.held(), "nothing held", SOON)


def becomes_a_letter(site: Site, worker: WorkerProcess, pid: int, reason: str) -> dict[str, Any]:
    wait_until(lambda: site.letters or not worker.alive, "a dead letter", SOON)
    assert worker.alive, worker.log_tail()
    lives_on(site, worker, pid)
    letters = site.letters
    # Not delivered again and again.
    assert [(letter["reason"], letter["count"]) for letter in letters] == [(f"message: {reason}", 1)]
    assert not site.client.exists("blocked:poison")
    return letters[0]
