"""What waits for a thread is dealt with together, half of it at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import pytest

from cachekeeper.consuming.message_batcher import MessageBatcher
from cachekeeper.consuming.processor import Verdict
from testkit.counting import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Processor:
    """Notes what it was given; may do something meanwhile."""

    def __init__(self) -> None:
        self.batches: list[tuple[str, ...]] = []
        self.meanwhile: list[Callable[[], None]] = []

    def process(self, messages: list[str]) -> Iterator[tuple[int, Verdict]]:
        self.batches.append(tuple(messages))
        for at in range(len(messages)):
            if self.meanwhile:
                self.meanwhile.pop(0)()
            yield at, Verdict.DONE


class Request:
    """A message, as far as the batcher knows it."""

    def __init__(self, message: str, events: int = 1) -> None:
        self.read, self.events = message, events
        self.said: list[object] = []

    def on_accepted(self, _pid: int, _at: float) -> None:
        self.said.append("accepted")

    def settle(self, verdict: Verdict, _seconds: float) -> None:
        self.said.append(verdict)


class Pool:
    """Threads that run when the test says so."""

    limit = 2

    def __init__(self) -> None:
        self.started: list[Callable[[], None]] = []

    def apply_async(self, target: Callable[[], None], callback: object) -> None:
        assert callable(callback)  # Celery's pools call it with what the target returned
        self.started.append(target)


def made(sizes: list[int]) -> tuple[MessageBatcher, Pool, Processor, list[Request]]:
    """Messages of so many events each, handed over while every thread is busy elsewhere."""
    pool, processor = Pool(), Processor()
    batcher = MessageBatcher(pool, cast("Any", processor))
    requests = [Request(str(at), size) for at, size in enumerate(sizes)]
    for request in requests:
        batcher.add(cast("Any", request))
    return batcher, pool, processor, requests


def test_a_message_that_comes_alone_is_dealt_with_at_once() -> None:
    _, pool, processor, (request,) = made([1])
    pool.started[0]()
    assert processor.batches == [("0",)]
    assert request.said == ["accepted", Verdict.DONE]


def test_no_more_threads_than_the_pool_has() -> None:
    assert len(made([1] * 9)[1].started) == Pool.limit


def test_whoever_is_free_takes_half_of_what_waits() -> None:
    _, pool, processor, requests = made([1] * 8)
    pool.started[0]()
    assert processor.batches == [("0", "1", "2", "3"), ("4", "5"), ("6",), ("7",)]
    assert all(request.said == ["accepted", Verdict.DONE] for request in requests)
    pool.started[1]()  # finds nothing left
    assert len(processor.batches) == 4


def test_messages_of_many_events_share_no_batch() -> None:
    _, pool, processor, _ = made([300, 300, 100, 100, 1, 1, 1, 1])
    pool.started[0]()
    assert processor.batches[:2] == [("0",), ("1", "2", "3")]


def test_a_thread_that_has_ended_is_started_again() -> None:
    batcher, pool, processor, _ = made([1])
    pool.started[0]()
    batcher.add(cast("Any", Request("later")))
    assert len(pool.started) == 2
    pool.started[1]()
    assert processor.batches[-1] == ("later",)


def test_what_comes_meanwhile_is_taken_by_the_same_thread() -> None:
    batcher, pool, processor, _ = made([1])
    processor.meanwhile.append(lambda: batcher.add(cast("Any", Request("meanwhile"))))
    pool.started[0]()
    assert processor.batches == [("0",), ("meanwhile",)]


def test_a_thread_that_is_torn_out_gives_its_messages_back_and_its_place_up() -> None:
    batcher, pool, processor, requests = made([1, 1])

    def torn() -> None:
        raise SystemExit

    processor.meanwhile.append(torn)
    with counted() as counts, pytest.raises(SystemExit):
        pool.started[0]()
    assert counts["thread_ended"] == 1
    assert requests[0].said == ["accepted", Verdict.AWAY]
    pool.started[1]()
    assert requests[1].said == ["accepted", Verdict.DONE]
    batcher.add(cast("Any", Request("later")))
    assert len(pool.started) == 3


def test_what_was_dealt_with_before_a_thread_is_torn_out_is_acknowledged() -> None:
    batcher, pool, processor, _ = made([1])
    requests = [Request(str(at)) for at in range(4)]

    def more_come() -> None:
        for request in requests:
            batcher.add(cast("Any", request))

    def torn() -> None:
        raise SystemExit

    processor.meanwhile += [more_come, lambda: None, torn]
    with pytest.raises(SystemExit):
        pool.started[0]()
    assert processor.batches[1] == ("0", "1")
    assert [each.said for each in requests[:2]] == [["accepted", Verdict.DONE], ["accepted", Verdict.AWAY]]
