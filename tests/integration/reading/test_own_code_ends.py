"""What the code of a view raises: those who wait are told, and what ends a process or a task passes."""

from __future__ import annotations

import time
from typing import Any

import pytest

from cachekeeper.errors import ViewFailed
from cachekeeper.protocol import scripts
from testkit.gates import Gate, threads
from testkit.limits import LONG
from testkit.shop import Shop, put_user
from testkit.waiting import wait_until
from tests.integration.reading.own_code import QUICK, no_lease, view

# --- those who wait ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["unloadable", "unwritable", "unreadable"])
def test_those_who_wait_are_told_and_do_not_try_one_by_one(shop: Shop, arrivals: list[str], name: str) -> None:
    put_user(shop, name)
    keeper, own, first = shop.keeper(), view(), Gate()
    shop.reads.before.append(first)
    with threads() as go:
        reads = [go(keeper.read, own, 1) for _ in range(8)]
        first.wait_for_arrival()
        wait_until(lambda: arrivals.count("flight") == 7, "the others wait for its load", 10)
        first.open()
        for read in reads:
            with pytest.raises(ViewFailed):
                read.result(LONG)
    assert shop.reads.count == 1
    assert no_lease(shop)


def test_in_an_outage_too(shop: Shop, arrivals: list[str]) -> None:
    put_user(shop, "unloadable")
    shop.db.users.insert_one({"_id": 2, "name": "Bob"})
    away: dict[str, Any] = {"redis_url": "redis://127.0.0.1:1/0", "security_url": "redis://127.0.0.1:1/0"}
    keeper, own, first = shop.keeper(load_concurrency=1, **away), view(), Gate()
    shop.reads.before.append(first)
    with threads() as go:
        other = go(keeper.read, own, 2)
        first.wait_for_arrival()
        reads = [go(keeper.read, own, 1) for _ in range(5)]
        wait_until(lambda: arrivals.count("flight") == 4, "the others wait for one load", 10)
        first.open()
        assert other.result(LONG) == "Bob"
        for read in reads:
            with pytest.raises(ViewFailed):
                read.result(LONG)
    assert shop.reads.count == 2


# --- what ends a process, or a task -----------------------------------------------------------------------------------


class Ended(BaseException):
    """Such as a greenlet's end."""


ENDS = pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, GeneratorExit, Ended])


@ENDS
@pytest.mark.parametrize("name", ["unloadable", "unwritable", "unreadable"])
def test_what_ends_a_process_passes_and_the_lease_is_given_back(
    shop: Shop, kind: type[BaseException], name: str
) -> None:
    put_user(shop, name, 1)
    keeper = shop.keeper()
    with pytest.raises(kind):
        keeper.read(view(kind), 1)
    assert no_lease(shop)
    put_user(shop, "Ann", 2)
    began = time.monotonic()
    assert keeper.read(view(kind), 1) == "Ann"
    assert time.monotonic() - began < QUICK


@ENDS
@pytest.mark.parametrize("step", ["acquire", "fill"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_so_it_is_while_redis_is_asked(
    shop: Shop, kind: type[BaseException], step: str, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the script has run or not, nobody waits for the lease of one who is gone."""
    put_user(shop, "Ann", 1)
    keeper = shop.keeper()
    store = keeper.store(view().server)
    run = type(store).run
    original: scripts.Script = getattr(scripts, f"_{step.upper()}")

    ended: list[type[BaseException]] = []

    def interrupted(self: Any, wanted: Any) -> Any:
        if self is store and wanted.script is original and not ended:
            ended.append(kind)
            if when == "after":
                run(self, wanted)
            raise kind
        return run(self, wanted)

    monkeypatch.setattr(type(store), "run", interrupted)
    with pytest.raises(kind):
        keeper.read(view(), 1)
    assert no_lease(shop)
    assert keeper.read(view(), 1) == "Ann"


def test_those_who_wait_for_one_who_is_gone_load_themselves(shop: Shop, arrivals: list[str]) -> None:
    put_user(shop, "unloadable")
    keeper, own, first = shop.keeper(), view(KeyboardInterrupt), Gate()
    shop.reads.after.append(first)
    with threads() as go:
        one = go(keeper.read, own, 1)
        first.wait_for_arrival()
        other = go(keeper.read, own, 1)
        wait_until(lambda: "flight" in arrivals, "the other one waits for the load")
        put_user(shop, "Ann")
        first.open()
        with pytest.raises(KeyboardInterrupt):
            one.result(LONG)
        assert other.result(LONG) == "Ann"
