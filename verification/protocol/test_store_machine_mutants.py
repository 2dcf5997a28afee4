"""Wrong scripts, each noticed in long sequences of steps (`store_machine.py`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from cachekeeper.protocol import Store
from verification.protocol.store_machine import holds
from verification.protocol.test_store_mutants import put_in

if TYPE_CHECKING:
    from cachekeeper.devservers import RedisServer

MUTANTS = {
    "acquire takes a live lease": (
        "acquire",
        "if m[1] and m[1] ~= ARGV[1] and tonumber(m[2]) > now then",
        "if false then",
    ),
    "acquire ignores a known absence": ("acquire", "if m[3] and not refresh", "if false and not refresh"),
    "blind fill": ("fill", "if m[1] ~= ARGV[1] then return {'lost'} end", ""),
    "fill over a newer version": ("fill", "tonumber(ARGV[4]) < tonumber(m[2])", "false"),
    "fill without a version keeps the old one": ("fill", "redis.call('HDEL', KEYS[2], 'v')", ""),
    "fill of nothing leaves a value": ("fill", "redis.call('DEL', KEYS[1])\n  redis.call('HDEL'", "redis.call('HDEL'"),
    "fill past a deadline": ("fill", "room(ARGV[5], m[3], ARGV[7])", "room(ARGV[5], nil, ARGV[7])"),
    "fill over what others wrote": ("fill", "if ARGV[8] == '1' and", "if false and"),
    "release of another's lease": ("release", "if redis.call('HGET', KEYS[1], 'l') ~= ARGV[1]", "if false"),
    "change over any version": ("change", "if m[1] and tonumber", "if false and tonumber"),
    "versions are text": ("change", "tonumber(m[1]) >= tonumber(ARGV[1])", "m[1] >= ARGV[1]"),
    "change leaves no marker": ("change", "redis.call('HSET', KEYS[2], 'v', ARGV[1])", ""),
    "change spares the lease": ("change", "'HDEL', KEYS[2], 'l', 'lx', 'ax'", "'HDEL', KEYS[2], 'ax'"),
    "payload over nothing": ("change", "and redis.call('EXISTS', KEYS[1]) == 1", ""),
    "invalidate spares the lease": ("invalidate", "'v', 'l', 'lx', 'ax'", "'v', 'ax'"),
    "invalidate forgets the deadline": ("invalidate", "if redis.call('HEXISTS', KEYS[2], 'd') == 1", "if false"),
    "the later deadline": ("expire", "if before and tonumber(before) <= at", "if false"),
    "a read past the deadline": ("read_until", "if d and tonumber(d) <= clock()", "if false"),
    "metadata ends first": ("change", "keep(KEYS[2], math.max(left, tonumber(ARGV[4])))", ""),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_wrong_script_is_noticed(name: str, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    script, good, bad = MUTANTS[name]
    put_in(script, good, bad, monkeypatch)
    with redis_server.client() as client, pytest.raises(AssertionError):
        holds(client, examples=500, shrink=False)  # most are found in the first few


def test_one_that_does_not_mend_is_noticed(redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    def leave(*_: Any) -> None:
        """Mend nothing."""

    monkeypatch.setattr(Store, "_mend", leave)
    with redis_server.client() as client, pytest.raises(Exception, match="Redis failed while running"):
        holds(client, examples=500, shrink=False)  # most are found in the first few
