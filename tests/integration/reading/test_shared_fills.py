"""Keys that others write, too: what they wrote while we loaded is newer than what we loaded."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from cachekeeper.model.sources import ABSENT
from cachekeeper.protocol import Store, Value, scripts
from cachekeeper.protocol.outcomes import Acquired, Filled
from cachekeeper.upkeep.warming import warm_view
from lookups import SESSION, read_session, save_session
from testkit.gates import Gate, threads
from testkit.limits import LONG

if TYPE_CHECKING:
    from testkit.shop import Shop

KEY = "session:s"
THEIRS = json.dumps({"theirs": True})


@pytest.fixture(params=["absent", "versioned", "unversioned"])
def fill(request: pytest.FixtureRequest) -> scripts.Step[object]:
    """What a reader brings, as a session's reader does."""
    if request.param == "absent":
        return scripts.fill_absent(KEY, "n", ttl_ms=1000, spare=True)
    version = 5 if request.param == "versioned" else None
    return scripts.fill(KEY, "n", Value(b"{}", version), ttl_ms=1000, marker_ms=1000, spare=True)


def overtaken(shop: Shop, fill: scripts.Step[object]) -> tuple[object, bytes | None]:
    """acquire · their SET NX · our fill: how the fill ended, and what lies there."""
    store = Store(shop.redis)
    assert store.run(scripts.acquire(KEY, "n", lease_ms=10_000)) is Acquired.GRANTED
    assert shop.redis.set(KEY, THEIRS, ex=1800, nx=True)
    outcome = store.run(fill)
    found = shop.redis.get(KEY)
    assert found is None or isinstance(found, bytes)
    return outcome, found


def test_a_fill_does_not_overtake_what_others_wrote(shop: Shop, fill: scripts.Step[object]) -> None:
    assert overtaken(shop, fill) == (Filled.LEASE_LOST, THEIRS.encode())
    assert shop.redis.hgetall("{session:s}:meta") == {}


def test_without_sparing_their_login_would_be_lost(shop: Shop) -> None:
    for mutant in (
        scripts.fill_absent(KEY, "n", ttl_ms=1000),
        scripts.fill(KEY, "n", Value(b"{}", 5), ttl_ms=1000, marker_ms=1000),
    ):
        shop.flush()
        assert overtaken(shop, mutant)[1] != THEIRS.encode()


def test_a_login_elsewhere_survives_a_read_that_found_nothing(shop: Shop) -> None:
    keeper, gate = shop.keeper(), Gate()
    shop.reads.after.append(gate)
    with threads() as go:
        reading = go(read_session, "s", keeper=keeper)
        gate.wait_for_arrival()  # MongoDB has said: absent
        shop.redis.set(KEY, THEIRS, ex=1800, nx=True)
        gate.open()
        assert reading.result(LONG) is None  # it began before the login
    assert read_session("s", keeper=keeper) == {"theirs": True}


def test_warming_spares_them_too(shop: Shop) -> None:
    keeper, gate = shop.keeper(), Gate()
    save_session("s", {"ours": True}, keeper=keeper)
    shop.flush()
    shop.reads.reset()
    # The first read walks the collection, the second loads under the leases.
    shop.reads.after.extend([Gate(), gate])
    shop.reads.after[0].open()
    with threads() as go:
        warming = go(warm_view, keeper, SESSION)
        gate.wait_for_arrival()
        shop.redis.set(KEY, THEIRS, ex=1800, nx=True)
        gate.open()
        warming.result(LONG)
    assert shop.redis.get(KEY) == THEIRS.encode()
    assert keeper.read(SESSION, "s") is not ABSENT
