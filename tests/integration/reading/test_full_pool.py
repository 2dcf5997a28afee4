"""More callers than connections: they wait, and a full pool is never taken for a Redis that is away."""

from __future__ import annotations

import gc
import os
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from cachekeeper import CacheOverloaded, Unavailable
from cachekeeper.connections.redis_pool import PoolFull, WaitingPool, waiting_until
from cachekeeper.consuming.messages import EventMessage
from cachekeeper.consuming.processor import Processor, Verdict
from cachekeeper.model.views import Server
from cachekeeper.protocol import cache_errors, scripts
from cachekeeper.reading.breaker import Breaker
from lookups import USER_NAME, read_session, read_user, save_session
from testkit.counting import counted
from testkit.delivering import REGISTRY
from testkit.gates import threads
from testkit.limits import LONG, NO_REDIS
from testkit.shop import Shop, answers_in_time
from testkit.verdicts import verdicts
from testkit.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cachekeeper.devservers import RedisServer

THREADS = 12


@pytest.fixture
def pool(redis_server: RedisServer) -> Iterator[WaitingPool]:
    """Of one connection."""
    pool = WaitingPool.from_url(redis_server.url, max_connections=1, wait_seconds=LONG)
    yield pool
    pool.disconnect()


def saves(shop: Shop, each_saves: int, monkeypatch: pytest.MonkeyPatch) -> tuple[int, dict[str, int]]:
    """How many saves and reads by twelve threads over four connections failed, and what was counted.

    Redis stands still until somebody has found the pool full.
    """
    found_full = threading.Event()
    wait = WaitingPool._wait

    def telling(pool: WaitingPool, waiter: Any) -> Any:
        found_full.set()
        return wait(pool, waiter)

    monkeypatch.setattr(WaitingPool, "_wait", telling)
    keeper = shop.keeper(redis_url=f"{shop.server.url}?max_connections=4", watched=False)
    shop.db.users.insert_many([{"_id": each, "name": "Ann"} for each in range(100, 100 + THREADS)])

    def one(number: int) -> int:
        failed = 0
        for each in range(each_saves):
            try:
                save_session(f"s{number}", {"count": each}, keeper=keeper)
                assert read_session(f"s{number}", keeper=keeper) == {"count": each}
                assert read_user(100 + number, keeper=keeper) == "Ann"
            except Unavailable:
                failed += 1
        return failed

    save_session("s", {}, keeper=keeper)  # the first call asks the server what it is; the others wait for that
    with counted() as seen, threads(THREADS) as go:
        shop.server.pause()
        try:
            calls = [go(one, number) for number in range(THREADS)]
            assert found_full.wait(LONG)
        finally:
            shop.server.resume()
        failed = sum(call.result(LONG) for call in calls)
    return failed, seen


def test_every_caller_waits(stocked: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    failed, seen = saves(stocked, 20, monkeypatch)
    assert failed == 0
    assert (seen["cache_unavailable"], seen["cache_overloaded"], seen["uncached_load"]) == (0, 0, 0)


def test_redis_py_s_own_pool_is_found_out(stocked: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WaitingPool, "_wait", _refuse)
    failed, _ = saves(stocked, 1, monkeypatch)  # a second read would wait for a lease that could not be given up
    assert failed > 0


def _refuse(*_: object) -> None:
    raise PoolFull("Too many connections")


def worker(shop: Shop, **changes: Any) -> Processor:
    url = f"{shop.server.url}?max_connections=2"
    delivery = Processor(shop.settings(redis_url=url, broker_url=shop.server.url_of(1), **changes), REGISTRY)
    delivery.pause._over = True  # as after a first attempt; no thread of its own is wanted
    return delivery


def messages(count: int) -> list[EventMessage]:
    return [
        EventMessage(f"m{each}", [{"type": "user.updated", "user_id": str(each), "name": "Ann", "version": 2}])
        for each in range(count)
    ]


def test_a_worker_waits(stocked: Shop) -> None:
    delivery = worker(stocked)
    with counted() as seen, threads(THREADS) as go:
        calls = [go(verdicts, delivery, [message]) for message in messages(120)]
        said = [call.result(LONG) for call in calls]
    delivery.keeper.close()
    assert said == [[Verdict.DONE]] * 120
    assert (seen["gate_shut"], seen["message_put_back"], seen["cache_overloaded"]) == (0, 0, 0)


def test_a_worker_that_waited_in_vain_goes_on(stocked: Shop) -> None:
    delivery = worker(stocked, **NO_REDIS)
    source: Any = delivery.keeper.store(Server.CACHE).source
    taken = [source.connection_pool.get_connection() for _ in range(2)]
    (message,) = messages(1)
    with counted() as seen:
        assert verdicts(delivery, [message]) == [Verdict.AWAY]  # it comes again
    assert (seen["message_put_back"], seen["gate_shut"]) == (1, 1)  # not fetched again at once: it costs a delivery
    for connection in taken:
        source.connection_pool.release(connection)
    delivery.pause._try()
    assert delivery.pause.is_over
    assert delivery.pause.strikes(message.id) == 0
    assert verdicts(delivery, [message]) == [Verdict.DONE]
    delivery.keeper.close()


def test_a_full_pool_makes_no_dead_letter(stocked: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pool is full at both attempts, and free at the probe between them."""
    delivery = worker(stocked, **NO_REDIS)
    source: Any = delivery.keeper.store(Server.CACHE).source
    taken = [source.connection_pool.get_connection() for _ in range(2)]
    monkeypatch.setattr(delivery, "_probe", lambda: None)
    source.connection_pool._wait_seconds = source.connection_pool._stall_seconds / 4
    (message,) = messages(1)
    delivery.pause._strikes[message.id] = delivery.pause.STRIKES
    assert verdicts(delivery, [message]) == [Verdict.AWAY]
    assert stocked.db.dead_letters.count_documents({}) == 0
    for connection in taken:
        source.connection_pool.release(connection)
    delivery.pause._try()
    assert verdicts(delivery, [message]) == [Verdict.DONE]
    assert stocked.db.dead_letters.count_documents({}) == 0
    delivery.keeper.close()


def test_a_lookup_that_waited_in_vain_asks_mongodb_and_then_redis_again(stocked: Shop) -> None:
    keeper = stocked.keeper(redis_url=f"{stocked.server.url}?max_connections=1", **NO_REDIS, watched=False)
    answers_in_time(keeper)
    pool: Any = keeper.store(Server.CACHE).client.connection_pool
    taken = pool.get_connection()
    with counted() as seen:
        assert read_user(1, keeper=keeper) == "Ann"
    assert (seen["cache_overloaded"], seen["cache_unavailable"]) == (1, 0)
    pool.release(taken)
    with counted() as seen:
        assert read_user(1, keeper=keeper) == "Ann"
    assert seen["load"] == 0, "the breaker is closed"


def test_a_full_pool_of_redis_py_is_no_outage_either() -> None:
    breaker = Breaker(60)
    with pytest.raises(CacheOverloaded, match="max_connections") as raised, cache_errors("reading"):
        raise redis.MaxConnectionsError("Too many connections")
    breaker.failed(raised.value)
    assert breaker.allows()
    breaker.failed(redis.MaxConnectionsError("Too many connections"))
    assert breaker.allows()


def test_nor_is_a_full_blocking_pool_of_redis_py(stocked: Shop) -> None:
    pool: Any = redis.BlockingConnectionPool.from_url(
        stocked.server.url, max_connections=1, timeout=0.1, protocol=2, retry=Retry(NoBackoff(), 0)
    )
    with redis.Redis(connection_pool=pool) as client:
        keeper = stocked.keeper(cache=client, watched=False)
        answers_in_time(keeper)
        taken = pool.get_connection()
        with counted() as seen:
            assert read_user(1, keeper=keeper) == "Ann"
            with pytest.raises(CacheOverloaded, match="max_connections"):
                keeper.store(Server.CACHE).run(scripts.invalidate(USER_NAME.template.key("1")))
        assert (seen["cache_overloaded"], seen["cache_unavailable"]) == (1, 0)
        pool.release(taken)
        with counted() as seen:
            assert read_user(1, keeper=keeper) == "Ann"
        assert seen["load"] == 0, "the breaker is closed"
    pool.disconnect()


def test_who_came_first_is_served_first(pool: WaitingPool) -> None:
    taken = pool.get_connection()
    served: list[int] = []

    def wait(number: int) -> None:
        connection = pool.get_connection()
        served.append(number)
        pool.release(connection)

    with threads(4) as go:
        calls = []
        for number in range(4):
            calls.append(go(wait, number))
            wait_until(lambda number=number: len(pool._waiters) == number + 1, "it waits")  # type: ignore[misc]
        pool.release(taken)
        for call in calls:
            call.result(LONG)
    assert served == [0, 1, 2, 3]


def test_the_wait_has_an_end(pool: WaitingPool) -> None:
    taken = pool.get_connection()
    with pytest.raises(PoolFull, match="all 1 connections"), waiting_until(time.monotonic() + 0.05):
        pool.get_connection()
    assert not pool._waiters
    pool.release(taken)
    pool.release(taken)  # once more than it was taken
    assert pool.get_connection() is taken
    with pytest.raises(PoolFull), waiting_until(time.monotonic()):
        pool.get_connection()
    pool.release(taken)


def test_who_waits_for_a_redis_that_hangs_is_told_so(own_redis: RedisServer) -> None:
    pool = WaitingPool.from_url(own_redis.url, max_connections=1, wait_seconds=LONG, socket_timeout=0.2)
    with redis.Redis(connection_pool=pool) as client:
        client.ping()
        own_redis.pause()
        began = time.monotonic()
        with threads() as go:
            for call in [go(client.get, "a") for _ in range(8)]:
                with pytest.raises(redis.TimeoutError):
                    call.result(LONG)
        assert time.monotonic() - began < LONG / 2
        own_redis.resume()
        assert client.ping()
    pool.disconnect()


def test_a_connection_that_was_lost_in_use_is_replaced(pool: WaitingPool) -> None:
    lost = pool.get_connection()
    with threads() as go:
        waits = go(pool.get_connection)
        wait_until(lambda: pool._waiters, "it waits")
        lost.disconnect()
        del lost
        gc.collect()
        found = waits.result(LONG)
    pool.release(found)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # to fork beside threads is what is tried here
def test_a_forked_child_has_connections_of_its_own(pool: WaitingPool) -> None:
    taken = pool.get_connection()
    holds, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        with pool._lock:
            holds.set()
            go_on.wait(LONG)

    holder = threading.Thread(target=hold)
    holder.start()
    assert holds.wait(LONG)
    if (child := os.fork()) == 0:  # another thread holds the lock, and all connections are in use
        with redis.Redis(connection_pool=pool) as client:
            os._exit(0 if client.ping() else 1)
    go_on.set()
    holder.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    taken.send_command("PING")
    assert taken.read_response() == b"PONG"
    pool.release(taken)
