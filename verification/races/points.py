"""Points at which a client can be held: at its reads of MongoDB, and on the wire to Redis. Nothing here sleeps.

The points have names in the cases. *After the miss*: before the read of MongoDB. *After the database read*: MongoDB has
answered, and the client has not seen the answer. *Before the fill*: the write to Redis is about to be sent.
"""

from __future__ import annotations

import threading
from collections import Counter
from typing import TYPE_CHECKING, Any

from testkit.gates import Gate
from testkit.limits import LONG
from testkit.taps import RedisTap

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Callable
    from concurrent.futures import Future

    from cachekeeper.devservers import RedisServer
    from testkit.taps import Words

_SETTING_UP = frozenset({"AUTH", "CLIENT", "HELLO", "PING", "SELECT"})
_POLLS = 3  # a lock is asked for once, a script once more with its source; a client that asks three times is waiting


class News:
    """A signal that a client arrived at a gate, sent a command, or is done. Every waiting thread then looks again."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._points: list[Point] = []

    def add(self, point: Point) -> None:
        """Add a point at which a client may be held."""
        self._points.append(point)

    def open_all(self) -> None:
        """Open all points."""
        for point in self._points:
            point.open()

    def tell(self) -> None:
        """Wake all waiting threads."""
        with self._changed:
            self._changed.notify_all()

    def wait_for(self, reached: Callable[[], bool], what: str) -> None:
        """Wait until `reached` returns True. It is called again at each signal."""
        with self._changed:
            assert self._changed.wait_for(reached, LONG), f"waited {LONG:g} s without success for {what}"


class Point(Gate):
    """A gate that signals arrivals, and can be removed before a client has arrived."""

    def __init__(self, news: News) -> None:
        super().__init__()
        news.add(self)
        self._news = news
        self._place: deque[Gate] | None = None

    def at(self, place: deque[Gate]) -> Point:
        """Put the point at `place`: it stops the next client there."""
        self._place = place
        place.append(self)
        return self

    def stop(self) -> None:
        """Stop the arriving client, which calls this."""
        self._reached.set()
        self._news.tell()
        super().stop()

    def open(self) -> None:
        """Let the held client go on. No other client is stopped."""
        if self._place is not None and self in self._place:
            self._place.remove(self)
        super().open()


class Wire(RedisTap):
    """The connections of one client to Redis: each command can be held before it is sent, or after it is answered."""

    def __init__(self, server: RedisServer, news: News) -> None:
        super().__init__(server)
        self._news = news
        self._lock = threading.Lock()
        self._held: dict[str, list[tuple[Callable[[Words], bool], Point]]] = {"before": [], "after": []}
        self._asked: Counter[tuple[str, bytes]] = Counter()
        self._joined = False
        self.before = lambda words: self._pass("before", words)
        self.after = lambda words: self._pass("after", words)

    def hold(self, when: str, which: Callable[[Words], bool]) -> Point:
        """Hold the first command for which `which` is true, `before` it is sent or `after` it is answered."""
        point = Point(self._news)
        with self._lock:
            self._held[when].append((which, point))
        return point

    def look_away(self) -> None:
        """Forget the commands so far: `waits` then looks only at later ones."""
        with self._lock:
            self._asked.clear()
            self._joined = False

    def note_join(self) -> None:
        """Note that the client waits for a call of its own process, which the wire cannot show."""
        self._joined = True
        self._news.tell()

    @property
    def waits(self) -> bool:
        """Whether the client sends the same command again and again: it waits for another client."""
        with self._lock:
            return self._joined or max(self._asked.values(), default=0) >= _POLLS

    def _pass(self, when: str, words: Words) -> None:
        name = words[0].decode().upper()
        if name in _SETTING_UP:
            return
        with self._lock:
            if when == "before" and name not in {"GET", "EXISTS"}:
                self._asked[name, _subject(words)] += 1
            found = next((held for held in self._held[when] if held[0](words)), None)
            if found is not None:
                self._held[when].remove(found)
        self._news.tell()
        if found is not None:
            found[1].stop()


def _subject(words: Words) -> bytes:
    """Return the key of a command; for a script call, the script and its key."""
    if words[0].upper().startswith(b"EVAL"):
        return b" ".join((words[1], *words[3:4]))
    return b"".join(words[1:2])


def names(key: str) -> Callable[[Words], bool]:
    """Match commands that name the key or a key that belongs to it, except `GET` and `EXISTS`."""
    wanted = key.encode()
    return lambda words: words[0].upper() not in {b"GET", b"EXISTS"} and any(wanted in word for word in words[1:])


class Call:
    """A client's call in flight, in a thread of its own."""

    def __init__(self, future: Future[Any], wire: Wire, news: News) -> None:
        self._future = future
        self._wire = wire
        self._news = news
        future.add_done_callback(lambda _: news.tell())

    def settle(self, *points: Point) -> None:
        """Wait until it is done, is held at one of the points, or waits for another client."""
        self._news.wait_for(
            lambda: self._future.done() or self._wire.waits or any(point.reached for point in points), "a call"
        )

    def arrive(self, point: Point) -> None:
        """Wait until it is held at the point. A call that ends without getting there is an error of the case."""
        self._news.wait_for(lambda: self._future.done() or point.reached, "the arrival at a point")
        assert point.reached, "the call ended before it reached the point"

    def result(self) -> Any:
        """Return its result, or raise its exception."""
        return self._future.result(LONG)
