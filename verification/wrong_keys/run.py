"""Does an unread reply reach the next caller? Counts reads that were answered with another key's value.

A call is interrupted: an exception is raised at some line of the client's own code, as a signal handler raises it. The
reply arrives late, when the connection may be back in its pool. The next read is checked for the value of its own key.
redis-py's own client, made with its defaults, goes through the same in the same run.

    python -m verification wrong_keys
"""

from __future__ import annotations

import contextlib
import linecache
import random
import socket
import sys
import threading
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import redis
from celery.exceptions import SoftTimeLimitExceeded
from redis.exceptions import RedisClusterException, RedisError

import cachekeeper
from cachekeeper import make_redis_client
from cachekeeper.connections.redis_pool import pools_of
from cachekeeper.devservers import Guardian, RedisServer, find_redis
from testkit.report import at_most, plain, store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

READS = 200_000
KEYS = 16
_INTERRUPTED = 8  # one call in so many is interrupted
_LATE_SECONDS = 0.005
_PLACES = tuple(str(Path(str(module.__file__)).parent) for module in (redis, cachekeeper))

ERRORS = (KeyboardInterrupt, SoftTimeLimitExceeded, RuntimeError)
"""The exceptions to raise: Ctrl-C, Celery's soft limit, and one that a program's own signal handler may raise."""


class LateProxy:
    """A proxy before a server, which delays the replies that come while `late` is set.

    It holds such a reply until the client has sent more on that connection, or for five milliseconds.
    """

    def __init__(self, port: int) -> None:
        self._to = port
        self.late = False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []

    @property
    def url(self) -> str:
        """The URL of the proxy."""
        return f"redis://127.0.0.1:{self._listener.getsockname()[1]}/0"

    def __enter__(self) -> Self:
        self._spawn(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for one in list(self._open):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()

    def _spawn(self, target: Callable[..., None], *args: object) -> None:
        self._threads = [thread for thread in self._threads if thread.is_alive()]
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return  # closed
            server = socket.create_connection(("127.0.0.1", self._to))
            for one in (client, server):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._open.add(one)
            asked = threading.Event()
            self._spawn(self._pump, client, server, asked.set)
            self._spawn(self._pump, server, client, lambda asked=asked: self._hold(asked))

    def _hold(self, asked: threading.Event) -> None:
        if self.late:
            asked.clear()
            asked.wait(_LATE_SECONDS)

    def _pump(self, source: socket.socket, target: socket.socket, first: Callable[[], None]) -> None:
        with source, contextlib.suppress(OSError):
            while data := source.recv(65_536):
                first()
                target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)
        self._open.discard(source)


class Interrupter:
    """Raises an error in this thread at one line of a Redis client's code, and counts the lines.

    Args:
        line: the number of the line, of all lines that run, from 1; 0 to raise nothing and only count.
        error: the exception to raise.
    """

    def __init__(self, line: int, error: type[BaseException]) -> None:
        self.lines = 0
        self.raised = False
        self.place = ""
        self._line = line
        self._error = error
        self._before: Any = None
        self._seen: dict[FrameType, set[int]] = {}

    def __enter__(self) -> Self:
        self._before = sys.gettrace()
        sys.settrace(self._trace)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(self._before)
        self._seen.clear()

    def _trace(self, frame: FrameType, event: str, _: object) -> Any:
        if self.raised or not frame.f_code.co_filename.startswith(_PLACES):
            return None
        if event == "line" and not self._leaves_with(frame):
            self.lines += 1
            if self.lines >= self._line > 0 and not _in_finalizer(frame):
                self.raised = True
                self.place = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
                sys.settrace(None)
                raise self._error
        return self._trace

    def _leaves_with(self, frame: FrameType) -> bool:
        """Whether this line is the end of a `with`. There a tracer can raise before `__exit__`, but a signal cannot."""
        seen = self._seen.setdefault(frame, set())
        again = frame.f_lineno in seen
        seen.add(frame.f_lineno)
        return again and linecache.getline(frame.f_code.co_filename, frame.f_lineno).lstrip().startswith("with ")


def _in_finalizer(frame: FrameType | None) -> bool:
    """Whether this runs in a `__del__`, where Python discards exceptions."""
    while frame is not None and frame.f_code.co_name != "__del__":
        frame = frame.f_back
    return frame is not None


@dataclass
class Score:
    """The counts of a run.

    Attributes:
        reads: reads, after an interruption or without one.
        wrong: reads that returned another key's value.
        failed: reads that raised an error.
        broken: reads that raised another error than a `RedisError`: the interruption left an unusable connection.
        interrupted: calls in which an exception was raised.
        places: for each wrong read, the file and line at which the call before it was interrupted.
    """

    reads: int = 0
    wrong: int = 0
    failed: int = 0
    broken: int = 0
    interrupted: int = 0
    places: list[str] | None = None


def fill(client: Any) -> None:
    """Put a value at each key."""
    for key in range(KEYS):
        client.set(f"key:{key}", f"value:{key}")


def calls(client: Any) -> dict[str, Callable[[], object]]:
    """The calls to interrupt, one of each kind that reads replies."""

    def piped(*, transaction: bool) -> object:
        pipe = client.pipeline(transaction=transaction)
        for _ in range(3):
            pipe.get("key:0")
        return pipe.execute()

    return {
        "get": lambda: client.get("key:0"),
        "pipeline": lambda: piped(transaction=False),
        "transaction": lambda: piped(transaction=True),
        "script": lambda: client.eval("return redis.call('get', KEYS[1])", 1, "key:0"),
    }


def interrupt(
    call: Callable[[], object], proxy: LateProxy | None, line: int, error: type[BaseException]
) -> Interrupter:
    """Make one call with late replies, and raise an error at one of its lines."""
    with Interrupter(line, error) as interrupter:
        if proxy is not None:
            proxy.late = True
        with contextlib.suppress(error, RedisError, RedisClusterException):
            call()
    if proxy is not None:
        proxy.late = False
    return interrupter


def read(client: Any, key: int, score: Score, place: str) -> None:
    """Read one key, and check that the value is its own."""
    score.reads += 1
    try:
        found = client.get(f"key:{key}")
    except Exception as error:  # noqa: BLE001  # also a TypeError, where redis-py's pool finds a connection without a socket
        score.failed += 1
        score.broken += not isinstance(error, (RedisError, RedisClusterException))
        for pool in pools_of(client):
            pool.reset()  # redis-py's own pool fills up with connections that interrupted callers lost
        return
    if found != f"value:{key}".encode():
        score.wrong += 1
        score.places = [*(score.places or []), place]


def every_line(
    client: Any,
    proxy: LateProxy | None,
    call: Callable[[], object],
    error: type[BaseException],
    *,
    connected: bool = True,
    step: int = 1,
) -> Score:
    """Interrupt a call at each line in turn, and read other keys after each.

    Args:
        client: makes the call.
        proxy: the proxy between the client and the server, if there is one.
        call: one of `calls(client)`.
        error: the exception to raise.
        connected: whether the call finds an open connection. Otherwise it makes one.
        step: the distance between two interrupted lines; 1 for every line.
    """
    score = Score()
    for line in count(1, step):
        if not connected:
            for pool in pools_of(client):
                pool.disconnect()
        interrupter = interrupt(call, proxy, line, error)
        if not interrupter.raised:
            break
        score.interrupted += 1
        for key in (1, 2, 3):
            read(client, key, score, interrupter.place)
    return score


def play(client: Any, proxy: LateProxy, reads: int, seed: int) -> Score:
    """Read random keys, and now and then interrupt a call at a random line."""
    rng, score = random.Random(seed), Score()
    offered = list(calls(client).values())
    lengths = [interrupt(call, None, 0, RuntimeError).lines for call in offered]
    while score.reads < reads:
        place = ""
        if rng.randrange(_INTERRUPTED) == 0:
            which = rng.randrange(len(offered))
            error = rng.choice(ERRORS)
            interrupter = interrupt(offered[which], proxy, rng.randint(1, lengths[which]), error)
            score.interrupted += interrupter.raised
            place = interrupter.place
        read(client, rng.randrange(1, KEYS), score, place)
    return score


@contextlib.contextmanager
def contenders(url: str) -> Iterator[dict[str, Any]]:
    """Make the clients to compare: the client of this project, and redis-py's with its defaults."""
    made = {"cachekeeper": make_redis_client(url), "redis-py, its defaults": redis.Redis.from_url(url)}
    try:
        yield made
    finally:
        for client in made.values():
            client.close()


def main() -> bool:
    """Measure, and store the figures. Return whether all targets were held."""
    with Guardian() as guardian:
        server = RedisServer(guardian, find_redis())
        server.start()
        try:
            with LateProxy(server.port) as proxy, contenders(proxy.url) as clients:
                fill(clients["cachekeeper"])
                scores = {name: play(client, proxy, READS, seed=1) for name, client in clients.items()}
        finally:
            server.stop()
    ours = scores["cachekeeper"]
    figures = [at_most("reads answered with another key's value, cachekeeper", ours.wrong, 0)]
    for name, score in scores.items():
        if name != "cachekeeper":
            figures.append(plain(f"reads answered with another key's value, {name}", score.wrong, "reads"))
        figures.append(plain(f"reads, {name}", score.reads, "reads"))
        figures.append(plain(f"calls interrupted, {name}", score.interrupted, "calls"))
        figures.append(plain(f"reads that failed, {name}", score.failed, "reads"))
        figure = f"reads that failed with an error that is not a RedisError, {name}"
        figures.append(at_most(figure, score.broken, 0) if score is ours else plain(figure, score.broken, "reads"))
    return store("wrong_keys", figures, [server.found])
