"""The buffering publisher on a real broker: bounded, and nothing is lost without a word."""

from __future__ import annotations

import sys
import threading
import time
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Any, cast

import pytest

from cachekeeper.errors import BrokerUnavailable, BufferFull, InvalidEvent, SettingsError
from cachekeeper.publishing import at_exit as module
from cachekeeper.publishing.buffered import BufferedPublisher
from cachekeeper.publishing.event_buffer import _Locks
from cachekeeper.publishing.publisher import Publisher
from cachekeeper.publishing.wire_format import OutgoingMessage
from cachekeeper.settings import PublisherSettings
from testkit.patient_publishing import PUBLISH_SECONDS, give_patience
from testkit.waiting import wait_until
from tests.integration.publishing.buffered_events import arrived, events, messages

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cachekeeper.devservers import RedisServer
    from cachekeeper.model.events import Event

# Exact numbers of messages are told of a broker that is well.
pytestmark = pytest.mark.usefixtures("patient_publishing")

LIMIT = 1.0
"""Seconds of a publish while the test has taken the broker away."""

SECRET = "token-4711"
NEW_THREAD_SECONDS = 10.0
LONG = 3_600_000.0  # milliseconds: nothing goes by itself


@contextmanager
def buffering(
    broker: RedisServer,
    kind: type[BufferedPublisher] = BufferedPublisher,
    *,
    limit: float = PUBLISH_SECONDS,
    **options: Any,
) -> Iterator[BufferedPublisher]:
    """A buffer on this broker; what is left in it when the test ends is given up."""
    publisher = Publisher(PublisherSettings(broker_url=broker.url, publish_timeout_seconds=limit))
    made = kind(publisher, **options)
    try:
        yield made
    finally:
        with made._present().lock:
            made._waiting.clear()
            made._confirmed = made._taken
        made.close()
        publisher.close()


@contextmanager
def away(broker: RedisServer) -> Iterator[None]:
    """Hung: it takes connections and answers nothing."""
    broker.pause()
    try:
        yield
    finally:
        broker.resume()


# --- while the broker is well ----------------------------------------------------------------------------------------


def test_many_calls_make_few_messages(redis_server: RedisServer) -> None:
    with buffering(redis_server, max_milliseconds=LONG) as publisher:
        assert publisher.publish_many(events(1200)) == 1200
        # Each as soon as it is full. Not until it is in the queue: its confirmation comes a little later.
        wait_until(lambda: publisher.waiting == 200, "two full messages")
        assert [len(message) for message in messages(redis_server)] == [500, 500]
        publisher.flush()
        assert publisher.waiting == 0
        assert [len(message) for message in messages(redis_server)] == [500, 500, 200]
        assert arrived(redis_server) == list(range(1200))


def test_an_event_waits_for_others_no_longer_than_it_may(redis_server: RedisServer) -> None:
    with buffering(redis_server, max_milliseconds=50) as publisher:
        publisher.publish(events(1)[0])
        wait_until(lambda: arrived(redis_server) == [0], "the event")  # how long exactly, a unit test says


@pytest.mark.parametrize("ending", ["close", "with"])
def test_the_end_publishes_what_is_there(redis_server: RedisServer, ending: str) -> None:
    with buffering(redis_server, max_milliseconds=LONG) as publisher:
        if ending == "with":
            with publisher:
                publisher.publish_many(events(3))
        else:
            publisher.publish_many(events(3))
            publisher.close()
        assert messages(redis_server) == [[0, 1, 2]]
        assert publisher not in module._end.unfinished
        publisher.publish(events(1, 3)[0])  # a closed one has no buffer
        assert messages(redis_server) == [[0, 1, 2], [3]]
        publisher.close()


def test_threads_share_a_buffer(redis_server: RedisServer) -> None:
    with buffering(redis_server, max_events=20, max_milliseconds=1) as publisher:
        threads = [
            threading.Thread(target=publisher.publish_many, args=(events(200, 1000 * number),)) for number in range(8)
        ]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            publisher.flush()
        publisher.flush()
        found = arrived(redis_server)
        assert sorted(found) == sorted(1000 * number + user for number in range(8) for user in range(200))
        for number in range(8):  # each thread's in its order
            assert [user for user in found if user // 1000 == number] == list(range(1000 * number, 1000 * number + 200))


def test_what_is_wrong_is_said_at_once(redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with buffering(redis_server) as publisher, pytest.raises(InvalidEvent):
        publisher.publish(cast("Any", {"type": "user.deleted"}))
    monkeypatch.delenv("CACHEKEEPER_BROKER_URL", raising=False)
    nowhere = BufferedPublisher()
    with pytest.raises(SettingsError):
        nowhere.publish(events(1)[0])
    assert nowhere.waiting == 0
    for wrong in ({"max_events": 0}, {"max_milliseconds": -1}, {"max_milliseconds": float("nan")}):
        with pytest.raises(ValueError, match="max_events"):
            BufferedPublisher(**cast("Any", wrong))


# --- while it is away ------------------------------------------------------------------------------------------------


def take(publisher: BufferedPublisher, event: Event) -> None:
    """Publish until it is taken: each attempt that has failed meanwhile is told once, and then it was not."""
    for _ in range(100):
        try:
            publisher.publish(event)
        except BrokerUnavailable:
            continue
        return
    raise AssertionError("it is never taken")


def check_nothing_is_lost(broker: RedisServer, kind: type[BufferedPublisher]) -> None:
    """An outage of several attempts, in the background and by `flush`: all events arrive, in their order."""
    with buffering(broker, kind, limit=LIMIT, max_milliseconds=1) as publisher:
        with away(broker):
            for event in events(20):
                take(publisher, event)
            for _ in range(2):
                with pytest.raises(BrokerUnavailable):
                    publisher.flush()
        wait_until(lambda: not publisher.waiting, "an empty buffer")
        found = arrived(broker)
        # What a hung broker was sent and did not confirm in time is there twice.
        assert list(dict.fromkeys(found)) == list(range(20))


def test_nothing_is_lost_while_the_broker_hangs(own_redis: RedisServer) -> None:
    check_nothing_is_lost(own_redis, BufferedPublisher)


class DropsOnFailure(BufferedPublisher):
    """Takes events out of the buffer before they are confirmed."""

    def _send_one(self, locks: _Locks, last: int) -> bool:
        with locks.sending:
            with locks.lock:
                if self._confirmed >= last:
                    return False
                batch = [text for text, _ in islice(self._waiting, 500)]
                for _ in batch:
                    self._waiting.popleft()
                self._confirmed += len(batch)
            self._publisher.send(OutgoingMessage(batch))
            return True


def test_mutant_that_drops_on_failure(own_redis: RedisServer) -> None:
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        check_nothing_is_lost(own_redis, DropsOnFailure)


def refused(publisher: BufferedPublisher) -> float:
    """How long it took until an event was refused for want of room."""
    for _ in range(100):  # of its attempts meanwhile, each is told once
        started = time.monotonic()
        try:
            publisher.publish(events(1, 6)[0])
        except BufferFull:
            return time.monotonic() - started
        except BrokerUnavailable:
            continue
        break
    raise AssertionError("it took one more")


def check_bounded(broker: RedisServer, kind: type[BufferedPublisher]) -> None:
    """A full buffer takes no more: the caller waits, and is told within the limit; then all that was taken arrives."""
    with buffering(broker, kind, limit=LIMIT, max_events=5, max_milliseconds=LONG) as publisher:
        # The message under way is in the buffer too, until it is confirmed.
        with away(broker):
            publisher.publish_many(events(5))
            wait_until(lambda: publisher._error, "a failed attempt")
            with pytest.raises(BrokerUnavailable):
                publisher.publish(events(1, 5)[0])
            seconds = refused(publisher)
            assert LIMIT <= seconds < 30, "not for ever; how long exactly, a unit test says"
            assert publisher.waiting == 5
            give_patience(publisher._publisher, broker.url)  # the last attempt is one that must not fail
        publisher.flush()
        assert list(dict.fromkeys(arrived(broker))) == list(range(5))


def test_a_full_buffer_takes_no_more(own_redis: RedisServer) -> None:
    check_bounded(own_redis, BufferedPublisher)


class Unbounded(BufferedPublisher):
    """Takes whatever comes."""

    def _put(self, text: str, seconds: float) -> bool:
        self._max_events = len(self._waiting) + 1
        return super()._put(text, seconds)


def test_mutant_that_is_unbounded(own_redis: RedisServer) -> None:
    with pytest.raises(AssertionError):
        check_bounded(own_redis, Unbounded)


def test_a_caller_who_waits_for_room_goes_on_when_there_is_some(own_redis: RedisServer) -> None:
    publisher = Publisher(PublisherSettings(broker_url=own_redis.url, publish_timeout_seconds=20))
    with BufferedPublisher(publisher, max_events=3, max_milliseconds=LONG) as buffered:
        with away(own_redis):
            buffered.publish_many(events(3))
            late = threading.Thread(target=buffered.publish, args=(events(1, 3)[0],))
            late.start()
            wait_until(lambda: buffered._locks.room._waiters, "a caller who waits")  # type: ignore[attr-defined]
        late.join(20)
        assert not late.is_alive()
        buffered.flush()
        assert list(dict.fromkeys(arrived(own_redis))) == [0, 1, 2, 3]
    publisher.close()


def test_errors_of_the_background_are_reported_and_raised_once(
    own_redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[tuple[Exception, int]] = []
    with buffering(own_redis, limit=LIMIT, max_milliseconds=1, on_error=lambda *said: told.append(said)) as publisher:
        own_redis.kill()
        publisher.publish(events(1)[0])
        wait_until(lambda: told and publisher._error, "the error")
        assert isinstance(told[0][0], BrokerUnavailable)
        assert told[0][1] == 1
        assert "1 events wait in the buffer and will be retried: the broker did not confirm" in caplog.text
        with pytest.raises(BrokerUnavailable) as caught:
            publisher.publish(events(1, 1)[0])
        # It is raised to a caller first, and reported then.
        wait_until(lambda: any(caught.value is error for error, _ in told), "the report of the error that was raised")
        assert publisher.waiting == 1
        with pytest.raises(BrokerUnavailable):
            publisher.flush()
        with pytest.raises(BrokerUnavailable):
            publisher.close()
        assert publisher.waiting == 1
        assert publisher in module._end.unfinished  # the end of the process would try again
        assert publisher._thread is not None
        publisher._thread.join(30)  # an attempt of its own could be met by the start, and its event be there twice
        own_redis.start()
        give_patience(publisher._publisher, own_redis.url)
        publisher.close()
        assert arrived(own_redis) == [0]
        assert publisher not in module._end.unfinished


class Ending(BaseException):
    """Not an `Exception`, as what ends a greenlet or a test."""


FAULTS = (RuntimeError, SystemExit, KeyboardInterrupt, Ending)


def check_goes_on(
    broker: RedisServer, kind: type[BufferedPublisher], caplog: pytest.LogCaptureFixture, fault: type[BaseException]
) -> None:
    """An outage whose report fails is one like any other: what waits is published after it."""

    def fail(_error: Exception, _waiting: int) -> None:
        raise fault(SECRET)

    with buffering(broker, kind, limit=LIMIT, max_milliseconds=1, on_error=fail) as publisher:
        with away(broker):
            publisher.publish(events(1)[0])
            said = f"on_error of a BufferedPublisher raised an error: {fault.__name__}"
            wait_until(lambda: said in caplog.text, "the log")
        wait_until(lambda: not publisher.waiting, "an empty buffer")
    assert SECRET not in caplog.text


@pytest.mark.parametrize("fault", FAULTS)
def test_a_callback_that_fails_stops_nothing(
    own_redis: RedisServer, caplog: pytest.LogCaptureFixture, fault: type[BaseException]
) -> None:
    check_goes_on(own_redis, BufferedPublisher, caplog, fault)


def test_a_callback_that_fails_at_the_end_of_the_process_keeps_no_other_buffer(
    own_redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_error: Exception, _waiting: int) -> None:
        sys.exit(SECRET)

    with buffering(own_redis, limit=LIMIT, max_milliseconds=LONG, on_error=fail) as publisher:
        publisher.publish(events(1)[0])
        with away(own_redis):
            for _ in range(2):
                publisher.finish()
        assert caplog.text.count("1 events are lost: they were not published before the process ended") == 2
        assert caplog.text.count("on_error of a BufferedPublisher raised an error: SystemExit") == 1, "said once"
    assert SECRET not in caplog.text


class Dies(BufferedPublisher):
    """Its first thread ends, whatever it is that ends it."""

    def __init__(self, *given: Any, **options: Any) -> None:
        self.ended: list[threading.Thread] = []
        super().__init__(*given, **options)

    def _wait(self, locks: _Locks) -> bool:
        if not self.ended:
            self.ended.append(threading.current_thread())
            return False
        return super()._wait(locks)


class KeepsADeadThread(Dies):
    """Mutant: begins a thread only where there was none."""

    def _runs(self) -> bool:
        return self._thread is not None


def check_a_new_thread(broker: RedisServer, kind: type[Dies]) -> None:
    """A call after the end of the buffer's thread begins another one, and no more than one."""
    with buffering(broker, kind, max_milliseconds=1) as publisher:
        assert isinstance(publisher, Dies)
        publisher.publish(events(1)[0])
        wait_until(lambda: publisher.ended and not publisher.ended[0].is_alive(), "the end of the thread")
        several = [threading.Thread(target=publisher.publish, args=(one,)) for one in events(8, 1)]
        for thread in several:
            thread.start()
        for thread in several:
            thread.join()
        wait_until(lambda: not publisher.waiting, "an empty buffer", NEW_THREAD_SECONDS)
        assert sorted(arrived(broker)) == list(range(9))
        running = [each for each in threading.enumerate() if each.name == "cachekeeper-buffer"]
        wait_until(lambda: [each for each in running if each.is_alive()] == [publisher._thread], "one thread")


def test_a_thread_that_ended_is_followed_by_another(redis_server: RedisServer) -> None:
    check_a_new_thread(redis_server, Dies)


def test_mutant_that_keeps_a_dead_thread(redis_server: RedisServer) -> None:
    with pytest.raises(AssertionError, match="an empty buffer"):
        check_a_new_thread(redis_server, KeepsADeadThread)


def test_a_fault_that_is_no_outage_is_raised_and_loses_nothing(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError(SECRET)

    with buffering(redis_server, max_milliseconds=1) as publisher:
        with monkeypatch.context() as patch:
            patch.setattr(Publisher, "send", fail)
            publisher.publish(events(1)[0])
            wait_until(lambda: publisher._error, "the error")
            with pytest.raises(RuntimeError):
                publisher.publish(events(1, 1)[0])
        wait_until(lambda: arrived(redis_server) == [0], "the event")
    assert SECRET not in caplog.text
