"""The reader on every server, in sequences of everything that may happen to one user: `reader_machine.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from cachekeeper.applying import batch as applying
from cachekeeper.protocol.outcomes import LeaseTaken
from cachekeeper.reading import core, effects
from cachekeeper.reading.singleflight import LeasedFlights
from cachekeeper.reading.sync import _Lookup
from testkit.mutating import mutate
from tests.integration.reading.reader_machine import finds, holds

if TYPE_CHECKING:
    from cachekeeper.devservers import RedisServer


def test_no_reader_is_told_the_past_and_nothing_old_stays(any_redis: RedisServer) -> None:
    holds(any_redis)


# A known-bad variant is searched for until it is found: on a busy machine that takes longer than a test may.
pytestmark = pytest.mark.timeout(900)

SCRIPTS = {
    "blind fill": ("_FILL", "if m[1] ~= ARGV[1] then return {'lost'} end", ""),
    "payload over nothing": ("_CHANGE", "and m[1] and redis.call('EXISTS', KEYS[1]) == 1 then", "then"),
    "payload over any version": ("_CHANGE", "if m[1] and tonumber(m[1]) >= tonumber(ARGV[1])", "if false"),
    "change spares lease and absence": ("_CHANGE", "redis.call('HDEL', KEYS[2], 'l', 'lx', 'ax')", ""),
    "invalidate spares the lease": ("_INVALIDATE", "('DEL', KEYS[2])", "('HDEL', KEYS[2], 'v', 'ax')"),
    "invalidate spares the value": ("_INVALIDATE", "redis.call('DEL', KEYS[1])", ""),
    "the end spares the value": ("_EXPIRE", "redis.call('DEL', KEYS[1])", ""),
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_wrong_script_is_noticed(name: str, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    mutate(monkeypatch, *SCRIPTS[name])
    with pytest.raises(AssertionError):
        finds(redis_server)


def test_a_nonce_that_is_counted_is_noticed(redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The counter is Redis's, and begins anew with it."""

    def end(self: LeasedFlights, nonce: str) -> None:
        """Of two flights under one nonce the second has none to forget; that is not what is to be noticed."""
        flight = self._flights.pop(nonce, None)
        if flight is not None and not flight.landed:
            flight.land()

    with redis_server.client() as client:
        monkeypatch.setattr(core, "new_nonce", lambda: str(client.incr("counter")))
        monkeypatch.setattr(LeasedFlights, "end", end)
        with pytest.raises(AssertionError, match=r"stale: |stuck: "):
            finds(redis_server)


def test_joining_any_load_of_the_key_is_noticed(redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The usual single flight: whoever misses joins whatever load of this process is in the air."""
    acquire = _Lookup._acquire

    def joining(self: _Lookup, effect: effects.Acquire) -> object:
        answer = acquire(self, effect)
        others = [nonce for nonce in self._reader.leased._flights if nonce != effect.nonce]
        return LeaseTaken(others[0], 1000) if others else answer

    monkeypatch.setattr(_Lookup, "_acquire", joining)
    with pytest.raises(AssertionError):
        finds(redis_server)


def test_coalescing_that_keeps_the_last_of_a_batch_is_noticed(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = applying._Change.add

    def last(self: applying._Change, command: Any, result: Any) -> None:
        self._invalidate, self._write = False, None
        add(self, command, result)

    monkeypatch.setattr(applying._Change, "add", last)
    with pytest.raises(AssertionError):
        finds(redis_server)
