"""What the holders of a full pool do decides what a waiter is told: the pool is full, or Redis does not answer."""

from __future__ import annotations

import gc
import threading
from typing import TYPE_CHECKING, Any

import pytest
import redis

from cachekeeper.connections.redis_connections import CountingConnection
from cachekeeper.connections.redis_pool import PoolFull, WaitingPool
from testkit.gates import threads
from testkit.limits import LONG
from testkit.taps import RedisTap, Words

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cachekeeper.devservers import RedisServer

LIMIT = 1.0
"""The time limit of one reply, in seconds."""


@pytest.fixture
def tap(redis_server: RedisServer) -> Iterator[RedisTap]:
    with RedisTap(redis_server) as tap:
        yield tap


@pytest.fixture
def pool(tap: RedisTap) -> Iterator[WaitingPool]:
    """Of one connection. Its callers wait for longer than a reply may take."""
    pool = WaitingPool.from_url(tap.url, max_connections=1, wait_seconds=2.5 * LIMIT, socket_timeout=LIMIT)
    yield pool
    pool.disconnect()


def late(ends: threading.Event, seconds: float) -> Callable[[Words], None]:
    """A hook of a tap: each answer comes so much later, until the end."""

    def after(_: Words) -> None:
        ends.wait(seconds)

    return after


def is_answered(connection: Any, tap: RedisTap, ends: threading.Event) -> None:
    """Many replies, each in good time; all together take longer than one may."""
    tap.after = late(ends, LIMIT / 20)
    while not ends.is_set():
        connection.send_command("PING")
        connection.read_response()


def owes_nothing(_connection: Any, _tap: RedisTap, ends: threading.Event) -> None:
    """As in a block that watches a key, or where a program has lost the connection."""
    ends.wait(LONG)


def subscribes(connection: Any, tap: RedisTap, ends: threading.Event) -> None:
    """A subscriber waits for messages, and its replies are among them."""
    connection.send_command("SUBSCRIBE", "news")
    connection.read_response()
    tap.after = late(ends, LONG)
    connection.send_command("PING")
    ends.wait(LONG)


def has_not_read(connection: Any, _tap: RedisTap, ends: threading.Event) -> None:
    """As a thread that gets no CPU: the reply has arrived."""
    connection.send_command("PING")
    ends.wait(LONG)


def has_failed(connection: Any, _tap: RedisTap, ends: threading.Event) -> None:
    """As a transaction that was broken off, and which its program keeps."""
    connection.send_command("PING")
    connection.disconnect()
    ends.wait(LONG)


HOLDERS = {
    is_answered: "replies",
    owes_nothing: "awaits_reply",
    subscribes: "awaits_reply",
    has_failed: "awaits_reply",
    has_not_read: "has_unread",
}
"""How a connection is held, and the property that tells."""

MUTANTS: dict[str, Any] = {"replies": 0, "awaits_reply": True, "has_unread": False}


def outcome(pool: WaitingPool, tap: RedisTap, hold: Callable[..., None]) -> BaseException | None:
    """How a caller ends who waits while another thread holds the one connection."""
    ends = threading.Event()
    holds = threading.Event()

    def holder() -> None:
        connection = pool.get_connection()
        holds.set()
        try:
            hold(connection, tap, ends)
        finally:
            pool.release(connection)

    with threads(2) as go:
        held = go(holder)
        assert holds.wait(LONG)
        found = go(pool.get_connection).exception(LONG)
        ends.set()
        held.result(LONG)
    return found


@pytest.mark.parametrize("hold", HOLDERS)
def test_a_full_pool_is_no_outage_whatever_its_holders_do(
    pool: WaitingPool, tap: RedisTap, hold: Callable[..., None]
) -> None:
    assert isinstance(outcome(pool, tap, hold), PoolFull)


@pytest.mark.parametrize("hold", HOLDERS)
def test_the_property_that_tells_it_is_needed(
    pool: WaitingPool, tap: RedisTap, hold: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    mutant = MUTANTS[HOLDERS[hold]]
    monkeypatch.setattr(CountingConnection, HOLDERS[hold], property(lambda _: mutant))
    if hold is not has_not_read:  # each is tried alone
        monkeypatch.setattr(CountingConnection, "has_unread", property(lambda _: False))
    assert isinstance(outcome(pool, tap, hold), redis.TimeoutError)


@pytest.mark.parametrize("connected", [True, False])
def test_a_stopped_server_is_an_outage_at_once(own_redis: RedisServer, *, connected: bool) -> None:
    pool = WaitingPool.from_url(own_redis.url, max_connections=2, wait_seconds=LONG, socket_timeout=0.3)
    with redis.Redis(connection_pool=pool) as client, threads(8) as go:
        if connected:
            client.ping()
        own_redis.pause()
        try:
            calls = [go(client.get, "a") for _ in range(8)]
            found = [call.exception(LONG / 2) for call in calls]
        finally:
            own_redis.resume()
        assert {type(each) for each in found} == {redis.TimeoutError}
        assert client.ping()
    pool.disconnect()


def test_a_holder_that_needs_longer_than_a_reply_may_take_delays_only(pool: WaitingPool, tap: RedisTap) -> None:
    pool._wait_seconds = LONG
    with redis.Redis(connection_pool=pool) as client, threads(2) as go:
        pipe = client.pipeline(transaction=False)
        for _ in range(30):
            pipe.ping()
        under_way = threading.Event()
        tap.before = lambda _: under_way.set()
        tap.after = late(threading.Event(), LIMIT / 20)
        piped = go(pipe.execute)
        assert under_way.wait(LONG)
        assert client.ping()
        assert piped.result(LONG) == [True] * 30


def twice_released(pool: WaitingPool) -> tuple[Any, Any]:
    """What two callers hold at once, after this thread gave its connection back a second time.

    this: Pipeline.reset releases c · a signal raises before the pipeline forgets c
    B:    takes c
    this: the block of the pipeline ends, and releases c again
    C:    takes a connection
    """
    pool._wait_seconds = 0.2
    released, done = threading.Event(), threading.Event()
    connection = pool.get_connection()
    pool.release(connection)

    def second() -> Any:
        taken = pool.get_connection()
        taken.send_command("ECHO", "second")
        released.set()
        assert done.wait(LONG)
        assert taken.read_response() == b"second"
        pool.release(taken)
        return taken

    with threads(2) as go:
        holds = go(second)
        assert released.wait(LONG)
        pool.release(connection)
        try:
            third = go(pool.get_connection).result(LONG)
        except PoolFull:
            third = None
        done.set()
        return (holds.result(LONG) if holds.exception(LONG) is None else connection), third


def test_a_second_release_does_not_take_the_connection_from_its_next_caller(pool: WaitingPool) -> None:
    taken, third = twice_released(pool)
    assert third is None
    assert pool.get_connection() is taken, "its own caller gave it back"
    pool.release(taken)


def test_without_the_lessee_it_has_two_callers(pool: WaitingPool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cachekeeper.connections.redis_pool.get_ident", lambda: 1)
    taken, third = twice_released(pool)
    assert third is taken


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collector")
def test_a_connection_that_another_thread_gives_back_is_replaced(pool: WaitingPool) -> None:
    with redis.Redis(connection_pool=pool) as client, threads() as go:
        pubsub: Any = client.pubsub()
        pubsub.subscribe(news=lambda _: None)
        listener = pubsub.run_in_thread(sleep_time=0.01)
        listener.stop()
        listener.join(LONG)
        assert client.ping()

        watching = client.pipeline()
        watching.watch("a")
        go(watching.reset).result(LONG)
        assert client.ping()

        forgotten = [client.pipeline()]
        forgotten[0].watch("a")
        go(forgotten.clear).result(LONG)  # the pipeline's finaliser gives it back
        assert client.ping()
    assert len(pool._made) == 1
