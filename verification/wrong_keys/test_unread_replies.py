"""A reply that its caller did not read never reaches the next caller, wherever the call was interrupted.

Exceptions are raised at every line of the client's code in turn, and by real signals while a server is slow.
"""

import contextlib
import gc
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import wraps
from pathlib import Path
from types import FrameType
from typing import Any, ParamSpec, Self

import pytest
import redis
from celery.exceptions import SoftTimeLimitExceeded
from redis._parsers import _RESP2Parser
from redis.backoff import NoBackoff
from redis.retry import Retry

from cachekeeper import make_redis_client
from cachekeeper.connections import redis_connections as connections
from cachekeeper.connections.redis_clients import connect_redis
from cachekeeper.connections.redis_connections import (
    CountingConnection,
    CountingSSLConnection,
    CountingUnixConnection,
)
from cachekeeper.connections.redis_pool import WaitingPool
from cachekeeper.devservers import FoundServer, Guardian, RedisServer
from cachekeeper.protocol import LazyCluster, Store
from testkit.taps import RedisTap, Words
from verification.wrong_keys.run import ERRORS, LateProxy, calls, contenders, every_line, fill, play

# Python closes a socket that an exception left without an owner, and warns about it.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

KINDS = ("get", "pipeline", "transaction", "script")
P = ParamSpec("P")


def leaving_nothing(test: Callable[P, None]) -> Callable[P, None]:
    """Run a test that raises exceptions where no signal could, so that it leaves nothing to the tests after it.

    It runs in a generator, which has a stack of handled exceptions of its own: if a tracer raises within an `except`
    clause, CPython 3.11 forgets that the clause has ended. Its error would be the context of every later error of the
    thread, and the lookups of later tests would warn of it.

    After such an error a pool of redis-py may still hold its lock. The garbage collector closes the pool, and needs the
    lock for it. It may run in any thread, such as one of the proxy, and there it would wait forever. So it does not run
    meanwhile, and afterwards such a pool gets a new lock.
    """

    @wraps(test)
    def run(*args: P.args, **options: P.kwargs) -> None:
        def running() -> Iterator[None]:
            test(*args, **options)
            yield

        gc.disable()
        try:
            for _ in running():
                pass
        finally:
            for pool in locked_pools():
                pool._lock = threading.RLock()
            gc.enable()
        assert sys.exception() is None

    return run


def locked_pools() -> list[redis.ConnectionPool]:
    """The pools whose lock another thread cannot take."""

    def can_take(lock: Any) -> bool:
        taken: bool = lock.acquire(blocking=False)
        if taken:
            lock.release()
        return taken

    # `isinstance` would ask the proxies among the objects for what they stand for, which may no longer exist.
    pools = [each for each in gc.get_objects() if issubclass(type(each), redis.ConnectionPool)]
    with ThreadPoolExecutor(1) as other:
        return [each for each in pools if not other.submit(can_take, each._lock).result()]


@pytest.mark.parametrize("guard", [leaving_nothing, lambda test: test], ids=["as it is", "without it"])
def test_no_pool_stays_locked(guard: Callable[[Callable[[], None]], Callable[[], None]]) -> None:
    pool = redis.ConnectionPool()

    def interrupted() -> None:
        pool._lock.acquire()

    guard(interrupted)()
    assert locked_pools() == ([] if guard is leaving_nothing else [pool])
    pool._lock = threading.RLock()


@pytest.fixture
def proxy(redis_server: RedisServer) -> Iterator[LateProxy]:
    with redis_server.client() as client, LateProxy(redis_server.port) as proxy:
        fill(client)
        yield proxy


@contextlib.contextmanager
def client_of(url: str, **options: Any) -> Iterator[redis.Redis]:
    with redis.Redis(connection_pool=WaitingPool.from_url(url, socket_timeout=5, **options)) as client:
        yield client
        client.connection_pool.disconnect()


@pytest.mark.parametrize("kind", KINDS)
@leaving_nothing
def test_an_exception_at_any_line_of_a_call(proxy: LateProxy, kind: str) -> None:
    step = 1 if kind == "get" else 4
    with client_of(proxy.url, retry=Retry(NoBackoff(), 0)) as client:
        score = every_line(client, proxy, calls(client)[kind], KeyboardInterrupt, step=step)
        assert (score.wrong, score.failed, score.places) == (0, 0, None)
        assert score.interrupted > 30


@pytest.mark.parametrize("error", ERRORS)
@leaving_nothing
def test_with_the_parser_of_redis_py(proxy: LateProxy, error: type[BaseException]) -> None:
    with client_of(proxy.url, parser_class=_RESP2Parser, retry=Retry(NoBackoff(), 0)) as client:
        score = every_line(client, proxy, calls(client)["pipeline"], error, step=5)
        assert (score.wrong, score.failed, score.places) == (0, 0, None)
        assert score.interrupted > 50


@leaving_nothing
def test_an_exception_at_any_line_of_connecting(redis_server: RedisServer) -> None:
    # If the handshake ended before SELECT, the next caller would read another database.
    with redis_server.client(1) as client:
        fill(client)
    with (
        LateProxy(redis_server.port) as proxy,
        client_of(proxy.url.replace("/0", "/1"), client_name="shop", retry=Retry(NoBackoff(), 0)) as client,
    ):
        score = every_line(client, proxy, calls(client)["get"], KeyboardInterrupt, connected=False, step=4)
        assert (score.wrong, score.failed, score.places) == (0, 0, None)
        assert score.interrupted > 60


@leaving_nothing
def test_any_of_it_at_random_and_redis_py_beside_it(proxy: LateProxy) -> None:
    with contenders(proxy.url) as clients:
        scores = {name: play(client, proxy, 1000, seed=3) for name, client in clients.items()}
    assert scores["cachekeeper"].wrong == scores["cachekeeper"].failed == 0
    assert scores["redis-py, its defaults"].wrong > 0
    assert min(score.interrupted for score in scores.values()) > 60


@leaving_nothing
def test_resp2_alone_does_not_close_it(proxy: LateProxy) -> None:
    with redis.Redis.from_url(proxy.url, protocol=2) as client:
        assert every_line(client, proxy, calls(client)["get"], KeyboardInterrupt).wrong > 0


@leaving_nothing
def test_nor_does_the_pool_without_the_count(proxy: LateProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections._CountsCommands, "owes_replies", False)
    with client_of(proxy.url, retry=Retry(NoBackoff(), 0)) as client:
        assert every_line(client, proxy, calls(client)["get"], KeyboardInterrupt).wrong > 0


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("pool_class", [redis.ConnectionPool, redis.BlockingConnectionPool, WaitingPool])
def test_a_connection_that_goes_back_unread(
    proxy: LateProxy, pool_class: type[redis.ConnectionPool], *, late: bool
) -> None:
    pool = pool_class.from_url(proxy.url, connection_class=CountingConnection, max_connections=1)
    taken: Any = pool.get_connection()
    proxy.late = late
    taken.send_command("GET", "key:0")
    pool.release(taken)
    again: Any = pool.get_connection()
    proxy.late = False
    assert again is taken
    again.send_command("GET", "key:1")
    assert again.read_response() == b"value:1"
    pool.release(again)
    pool.disconnect()


def test_it_is_closed_before_it_goes_back(redis_server: RedisServer) -> None:
    pool = WaitingPool.from_url(redis_server.url)
    taken = pool.get_connection()
    taken.send_packed_command(taken.pack_commands([("GET", "a"), ("GET", "b")]))
    assert taken.read_response() is None
    pool.release(taken)
    assert not taken.is_open
    with redis.Redis(connection_pool=pool) as client:
        with pytest.raises(redis.ResponseError):
            client.execute_command("NO_SUCH_COMMAND")
        assert taken.is_open  # an error is a reply, too
        assert taken.lessee is None
    pool.disconnect()


class Raises:
    """Installs a signal handler that raises while a command runs, as a program's own handler may."""

    def __init__(self, error: type[BaseException]) -> None:
        self.error = error
        self._before: Any = None

    def __enter__(self) -> Self:
        self._before = signal.signal(signal.SIGUSR1, self._raise)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGUSR1, self._before)

    def _raise(self, _number: int, _frame: FrameType | None) -> None:
        raise self.error


@pytest.mark.parametrize("error", [KeyboardInterrupt, SoftTimeLimitExceeded, RuntimeError, redis.ResponseError])
def test_a_signal_while_the_reply_is_awaited(redis_server: RedisServer, error: type[BaseException]) -> None:
    asked_again = threading.Event()

    def before(words: Words) -> None:
        if words[:2] == [b"GET", b"key:0"]:
            os.kill(os.getpid(), signal.SIGUSR1)  # the caller already waits for the reply, or is about to
        elif words[0] == b"GET":
            asked_again.set()

    def after(words: Words) -> None:
        if words[:2] == [b"GET", b"key:0"]:
            asked_again.wait(5)

    with (
        Raises(error),
        RedisTap(redis_server) as tap,
        client_of(tap.url, retry=Retry(NoBackoff(), 0)) as client,
    ):
        fill(client)
        tap.before, tap.after = before, after
        with pytest.raises(error):
            client.get("key:0")
        assert [client.get(f"key:{key}") for key in (1, 2, 3)] == [b"value:1", b"value:2", b"value:3"]


def test_a_reply_that_is_later_than_the_time_limit(redis_server: RedisServer) -> None:
    asked_again = threading.Event()

    def after(words: Words) -> None:
        if words[:2] == [b"GET", b"key:0"]:
            asked_again.wait(5)

    with RedisTap(redis_server) as tap, make_redis_client(tap.url, timeout_seconds=0.2) as client:
        fill(client)
        tap.after = after
        with pytest.raises(redis.TimeoutError):
            client.get("key:0")
        tap.before = lambda _: asked_again.set()
        assert [client.get(f"key:{key}") for key in (1, 2, 3)] == [b"value:1", b"value:2", b"value:3"]


@leaving_nothing
def test_every_node_of_a_cluster(cluster: RedisServer) -> None:
    with cluster.client() as direct, LateProxy(cluster.port) as proxy:
        direct.config_set("cluster-announce-port", proxy.url.rpartition(":")[2].partition("/")[0])
        with make_redis_client(proxy.url.replace("redis:", "redis+cluster:"), timeout_seconds=5) as client:
            fill(client)
            for kind, step in (("get", 3), ("pipeline", 15)):
                call = calls(client)["get"] if kind == "get" else lambda: piped(client)
                score = every_line(client, proxy, call, KeyboardInterrupt, step=step)
                assert (score.wrong, score.failed, score.places) == (0, 0, None)
                assert score.interrupted > 20


def piped(client: Any) -> object:
    pipe = client.pipeline(transaction=False)
    for _ in range(3):
        pipe.get("key:0")
    return pipe.execute()


def test_what_the_keeper_makes(cluster: RedisServer) -> None:
    for url, made in (
        ("redis://127.0.0.1:1", CountingConnection),
        ("rediss://127.0.0.1:1", CountingSSLConnection),
        ("unix:///nowhere", CountingUnixConnection),
    ):
        client: Any = connect_redis(url, 1)
        assert (client.connection_pool.connection_class, client.connection_pool.get_protocol()) == (made, 2)
        assert client.connection_pool.make_connection().get_protocol() == 2
    late = connect_redis(cluster.url.replace("redis:", "redis+cluster:"), 5)
    assert isinstance(late, LazyCluster)
    nodes: Any = Store(late).client
    assert nodes.set("key", "value")
    for node in nodes.get_nodes():
        assert type(node.redis_connection.connection_pool) is WaitingPool
        assert node.redis_connection.connection_pool.connection_class is CountingConnection
    late.close()


@leaving_nothing
def test_over_a_unix_socket(guardian: Guardian, redis_found: FoundServer, tmp_path: Path) -> None:
    server = RedisServer(guardian, redis_found, config={"unixsocket": str(tmp_path / "redis.sock")})
    server.start()
    with make_redis_client(f"unix://{tmp_path}/redis.sock") as client:
        fill(client)
        score = every_line(client, None, calls(client)["get"], KeyboardInterrupt, step=3)
        assert (score.wrong, score.failed) == (0, 0)
    server.kill()


def test_a_subscriber_keeps_its_connection(redis_server: RedisServer) -> None:
    # A subscriber sends commands before it reads their replies, and connects in between. A client that closed the
    # connection there, because of unread replies, would make the subscriber start again forever.
    with (
        client_of(redis_server.url) as client,
        client.pubsub() as pubsub,  # type: ignore[no-untyped-call]  # redis-py does not annotate it
    ):
        pubsub.subscribe("news", "weather")
        assert [pubsub.parse_response()[0] for _ in range(2)] == [b"subscribe"] * 2
        client.publish("news", "rain")
        assert pubsub.parse_response() == [b"message", b"news", b"rain"]


@pytest.mark.parametrize("option", ["protocol=3", "decode_responses=true", "retry_on_timeout=true"])
def test_options_that_would_make_it_unsafe_are_refused(option: str) -> None:
    with pytest.raises(ValueError, match=option.partition("=")[0]):
        make_redis_client(f"redis://127.0.0.1?{option}")
