"""`cachekeeper stream --check` in each state of the change stream, with processes that are killed, hang and stop."""

from __future__ import annotations

import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from testkit.limits import LONG
from testkit.waiting import wait_until
from tests.integration.relays.stream_lab import StreamLab
from tests.integration.relays.test_change_stream_faults import stream_command

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator


def checked(lab: StreamLab) -> tuple[int, str]:
    """The exit status of `cachekeeper stream --check`, and what it says."""
    asking = stream_command(lab.shop.mongo.url_of(lab.shop.name), "--check")
    _, said = asking.communicate(timeout=LONG)
    return asking.returncode, said


NO_LEADER = (1, "cachekeeper: no process leads the change stream: start `cachekeeper stream`\n")
NO_SIGN_OF_LIFE = (
    1,
    (
        "cachekeeper: no sign of life from the leader of the change stream for 5 s: "
        "it was killed, hangs, or waits for MongoDB; check that process and MongoDB\n"
    ),
)


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (None, NO_LEADER),
        ({"leader": "somebody", "until": {"$add": ["$$NOW", 60_000]}}, NO_SIGN_OF_LIFE),  # killed a moment ago
        ({"leader": "somebody", "until": {"$add": ["$$NOW", -1]}}, NO_LEADER),  # killed long ago
        ({"leader": None, "until": {"$add": ["$$NOW", 60_000]}}, NO_LEADER),  # stopped
    ],
    ids=["never started", "no sign of life", "lease over", "stepped down"],
)
def test_the_check_fails_without_a_live_leader(
    stream_lab: StreamLab, state: dict[str, Any] | None, expected: tuple[int, str]
) -> None:
    if state is not None:
        stream_lab.db["change_streams"].update_one({"_id": "events"}, [{"$set": state}], upsert=True)
    assert checked(stream_lab) == expected


@contextmanager
def leading(lab: StreamLab) -> Iterator[subprocess.Popen[str]]:
    """`cachekeeper stream`, which leads and has nothing to do."""
    running = stream_command(lab.shop.mongo.url_of(lab.shop.name))
    try:
        wait_until(lambda: lab.db["outbox"].count_documents({}) >= 4, "a first start")
        yield running
    finally:
        running.kill()
        running.communicate()


def lengthen_lease(lab: StreamLab, **changes: str) -> None:
    """Let the lease outlast a check on a slow machine."""
    lab.db["change_streams"].update_one({}, [{"$set": {"until": {"$add": ["$$NOW", 60_000]}, **changes}}])


def has_lease(lab: StreamLab) -> bool:
    """What a check that trusts the lease would say."""
    return bool(lab.db["change_streams"].find_one({"leader": {"$ne": None}, "$expr": {"$gt": ["$until", "$$NOW"]}}))


def test_the_check_of_a_stream_that_is_killed(stream_lab: StreamLab) -> None:
    """A lease that has not ended is no sign of life: only a renewal is."""
    with leading(stream_lab) as running:
        assert checked(stream_lab) == (0, "")
        running.kill()
        running.wait()
        # MongoDB may still have its last renewal to do, which would shorten the lease, but not that of another leader.
        lengthen_lease(stream_lab, leader="killed")
        assert checked(stream_lab) == NO_SIGN_OF_LIFE
        assert has_lease(stream_lab)  # a check that trusts the lease would have passed


def test_the_check_of_a_stream_that_hangs_and_goes_on(stream_lab: StreamLab) -> None:
    with leading(stream_lab) as running:
        running.send_signal(signal.SIGSTOP)
        lengthen_lease(stream_lab)
        assert checked(stream_lab) == NO_SIGN_OF_LIFE
        running.send_signal(signal.SIGCONT)
        assert checked(stream_lab) == (0, "")


def test_the_check_of_a_stream_that_is_stopped(stream_lab: StreamLab) -> None:
    """It has given its lease back, so that the check need not wait for a sign of life."""
    with leading(stream_lab) as running:
        running.send_signal(signal.SIGTERM)
        running.wait(LONG)
        assert checked(stream_lab) == NO_LEADER
