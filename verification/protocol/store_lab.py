"""One key and its metadata on a real server: run steps on them, and look at the result."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar, cast

from cachekeeper.protocol import Store, Value, scripts
from cachekeeper.protocol.outcomes import Acquired
from cachekeeper.values.keys import meta_key
from testkit.waiting import wait_until

if TYPE_CHECKING:
    from redis import Redis

Outcome = TypeVar("Outcome")

K = "user:7:name"
M = meta_key(K)
LEASE = 50_000
TTL = 600_000
MARKER = 900_000
NEGATIVE = 30_000
KEEP = 200_000
LATER = 100_000
SLACK = 5_000  # subtracted from a TTL, for a machine that is paused for a moment


class StoreLab:
    """Steps on `K`, with times in milliseconds that are far enough apart to be distinguished."""

    def __init__(self, client: Redis) -> None:
        self.client = client
        self.store = Store(client)

    def run(self, step: scripts.Step[Outcome]) -> Outcome:
        return self.store.run(step)

    def acquire(self, nonce: str = "mine", *, lease_ms: int = LEASE, refresh: bool = False) -> object:
        return self.run(scripts.acquire(K, nonce, lease_ms=lease_ms, refresh=refresh))

    def fill(
        self,
        raw: bytes = b"Ada",
        version: int | None = 1,
        *,
        nonce: str = "mine",
        ends: int | None = None,
        ttl_ms: int = TTL,
        marker_ms: int = MARKER,
    ) -> object:
        return self.run(scripts.fill(K, nonce, Value(raw, version, ends), ttl_ms=ttl_ms, marker_ms=marker_ms))

    def fill_absent(self, *, nonce: str = "mine", ttl_ms: int = NEGATIVE) -> object:
        return self.run(scripts.fill_absent(K, nonce, ttl_ms=ttl_ms))

    def change(
        self,
        version: int,
        raw: bytes = b"Grace",
        *,
        ends: int | None = None,
        ttl_ms: int = TTL,
        marker_ms: int = MARKER,
    ) -> object:
        return self.run(scripts.change(K, Value(raw, version, ends), ttl_ms=ttl_ms, marker_ms=marker_ms))

    def expire(self, at_ms: int, *, keep_ms: int = KEEP) -> object:
        return self.run(scripts.expire(K, at_ms=at_ms, keep_ms=keep_ms))

    def cached(self, raw: bytes = b"Ada", version: int | None = 1) -> None:
        """Put a value at K, as a reader does."""
        assert self.acquire("of the one who filled") is Acquired.GRANTED
        self.fill(raw, version, nonce="of the one who filled")
        assert self.value == raw

    def now(self) -> int:
        """Milliseconds since 1970, on the server's clock."""
        seconds, micros = self.client.time()
        return seconds * 1000 + micros // 1000

    def wait_past(self, at_ms: int) -> None:
        wait_until(lambda: self.now() > at_ms, "the server's clock is past that time")

    @property
    def value(self) -> bytes | None:
        return cast("bytes | None", self.client.get(K))

    @property
    def meta(self) -> dict[bytes, bytes]:
        return cast("dict[bytes, bytes]", self.client.hgetall(M))

    def ttl(self, key: str = K) -> int:
        """Return the TTL in milliseconds; -1 if there is none, -2 if there is no key."""
        return self.client.pttl(key)


def about(found: int, wanted: int) -> bool:
    """Return whether a TTL is the one that was set a moment ago."""
    return wanted - SLACK <= found <= wanted


FOREIGN = ("list", "hash", "set", "zset", "stream")


def put_foreign(lab: StoreLab, key: str, kind: str) -> None:
    """Put another Redis type at a key."""
    match kind:
        case "list":
            lab.client.rpush(key, "x")
        case "hash":
            lab.client.hset(key, "x", "y")
        case "set":
            lab.client.sadd(key, "x")
        case "zset":
            lab.client.zadd(key, {"x": 1})
        case "stream":
            lab.client.xadd(key, {"x": "y"})
