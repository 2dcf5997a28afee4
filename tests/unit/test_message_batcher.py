"""What waits for a thread is dealt with together, half of it at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import pytest

from cachekeeper.consuming.consumer import Lots
from testkit.shop import counted

if TYPE_CHECKING:
    from collections.abc import Callable


class Task:
    """Notes what it was called with; may do something meanwhile."""

    def __init__(self) -> None:
        self.lots: list[tuple[str, ...]] = []
        self.meanwhile: list[Callable[[], None]] = []

    def run(self, *jobs: str) -> None:
        self.lots.append(jobs)
        if self.meanwhile:
            self.meanwhile.pop(0)()


class Request:
    """A message, as far as lots know it."""

    def __init__(self, job: str, task: Task, events: int = 1) -> None:
        self.job, self.task, self.events = job, task, events
        self.said: list[str] = []

    def on_accepted(self, _pid: int, _at: float) -> None:
        self.said.append("accepted")

    def on_success(self, _result: object) -> None:
        self.said.append("done")


class Pool:
    """Threads that run when the test says so."""

    limit = 2

    def __init__(self) -> None:
        self.started: list[Callable[[], None]] = []

    def apply_async(self, target: Callable[[], None], callback: object) -> None:
        assert callable(callback)  # Celery's pools call it with what the target returned
        self.started.append(target)


def made(sizes: list[int]) -> tuple[Lots, Pool, Task, list[Request]]:
    """Messages of so many events each, handed over while every thread is busy elsewhere."""
    pool, task = Pool(), Task()
    lots = Lots(pool)
    requests = [Request(str(at), task, size) for at, size in enumerate(sizes)]
    for request in requests:
        lots.add(cast("Any", request))
    return lots, pool, task, requests


def test_a_message_that_comes_alone_is_dealt_with_at_once() -> None:
    _, pool, task, (request,) = made([1])
    pool.started[0]()
    assert task.lots == [("0",)]
    assert request.said == ["accepted", "done"]


def test_no_more_threads_than_the_pool_has() -> None:
    assert len(made([1] * 9)[1].started) == Pool.limit


def test_whoever_is_free_takes_half_of_what_waits() -> None:
    _, pool, task, requests = made([1] * 8)
    pool.started[0]()
    assert task.lots == [("0", "1", "2", "3"), ("4", "5"), ("6",), ("7",)]
    assert all(request.said == ["accepted", "done"] for request in requests)
    pool.started[1]()  # finds nothing left
    assert len(task.lots) == 4


def test_messages_of_many_events_share_no_lot() -> None:
    _, pool, task, _ = made([300, 300, 100, 100, 1, 1, 1, 1])
    pool.started[0]()
    assert task.lots[:2] == [("0",), ("1", "2", "3")]


def test_a_thread_that_has_ended_is_started_again() -> None:
    lots, pool, task, _ = made([1])
    pool.started[0]()
    lots.add(cast("Any", Request("later", task)))
    assert len(pool.started) == 2
    pool.started[1]()
    assert task.lots[-1] == ("later",)


def test_what_comes_meanwhile_is_taken_by_the_same_thread() -> None:
    lots, pool, task, _ = made([1])
    task.meanwhile.append(lambda: lots.add(cast("Any", Request("meanwhile", task))))
    pool.started[0]()
    assert task.lots == [("0",), ("meanwhile",)]


def test_a_thread_that_is_torn_out_gives_its_messages_back_and_its_place_up() -> None:
    lots, pool, task, requests = made([1, 1])

    def torn() -> None:
        raise SystemExit

    task.meanwhile.append(torn)
    with counted() as counts, pytest.raises(SystemExit):
        pool.started[0]()
    assert counts["thread_ended"] == 1
    assert requests[0].said == ["accepted", "done"]  # which puts it back: its job does not say that it is done
    pool.started[1]()
    assert requests[1].said == ["accepted", "done"]
    lots.add(cast("Any", Request("later", task)))
    assert len(pool.started) == 3
