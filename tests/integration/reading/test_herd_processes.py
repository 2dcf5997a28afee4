"""200 simultaneous misses from four processes: one read of MongoDB a lease, whatever happens to who holds it."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from cachekeeper.values.keys import meta_key
from lookups import USER_NAME
from testkit import herd_process
from testkit.herd_process import Seen, serve
from testkit.limits import PATIENT, SLACK
from testkit.shop import Shop, changed_user, meta, put_user
from testkit.waiting import wait_until

if TYPE_CHECKING:
    from multiprocessing.context import ForkServerProcess

PROCESSES, THREADS = 4, 50
ALL = PROCESSES * THREADS

LEASE = 50
UNHURRIED: dict[str, Any] = {**PATIENT, "lookup_timeout_seconds": 60, "lease_seconds": LEASE}
"""All have come long before the time of the first is up, or his lease."""

_fork = multiprocessing.get_context("forkserver")
_fork.set_forkserver_preload([herd_process.__name__])


class Member:
    """A process of the herd, from the outside."""

    def __init__(self, process: ForkServerProcess, pipe: Any) -> None:
        self.process = process
        self._pipe = pipe

    def do(self, name: str, *arguments: object) -> Any:
        """Let it call the method of that name; the answer."""
        self._pipe.send((name, *arguments))
        return self.answer()

    def answer(self) -> Any:
        assert self._pipe.poll(60), "a process of the herd does not answer"
        return self._pipe.recv()

    def seen(self) -> Seen:
        found: Seen = self.do("seen")
        return found

    def end(self) -> None:
        self._pipe.close()
        self.process.kill()
        self.process.join()
        self.process.close()


@contextmanager
def herd(
    shop: Shop,
    *,
    slow: float = 0.0,
    together: int = 0,
    overtaken: bool = False,
    mutant: str | None = None,
    **changes: Any,
) -> Iterator[list[Member]]:
    """Four processes with keepers of their own.

    `slow` is what each read of MongoDB takes, in seconds; the first ones wait until `together` of them are there;
    `overtaken`: it is out of date before it is over.
    """
    urls = {"redis_url": shop.server.url, "mongodb_url": shop.mongo.url_of(shop.name)}
    members = []
    try:
        for _ in range(PROCESSES):
            mine, its = _fork.Pipe()
            options: dict[str, Any] = {"slow": slow, "together": together, "overtaken": overtaken}
            options |= {"database": shop.name, "settings": {**urls, **UNHURRIED, **changes}}
            process = _fork.Process(target=serve, args=(its, options, mutant), daemon=True)
            process.start()
            its.close()
            members.append(Member(process, mine))
        for member in members:
            assert member.answer() == "ready"
        yield members
    finally:
        for member in members:
            member.end()


def all_look_up(members: list[Member], users: list[int] | None = None) -> None:
    for each, member in enumerate(members):
        member.do("look_up", [1] * THREADS if users is None else users[each * THREADS : (each + 1) * THREADS])


def all_done(members: list[Member], seconds: float = 60) -> list[Seen]:
    wait_until(lambda: all(member.do("is_done") for member in members), "every caller has an answer", seconds)
    return [member.seen() for member in members]


def reads(seen: list[Seen]) -> int:
    return sum(len(each.read) for each in seen)


# --- one read a lease -----------------------------------------------------------------------------------------------


def one_read(shop: Shop, mutant: str | None = None) -> None:
    put_user(shop, "Ann", 1)
    with herd(shop, mutant=mutant) as members:
        all_look_up(members)

        def all_have_come() -> bool:
            seen = [member.seen() for member in members]
            return sum(each.come for each in seen) == ALL or reads(seen) > 1

        wait_until(all_have_come, "all have come, or somebody else reads, too", 60)
        for member in members:
            member.do("let_it_go")
        seen = all_done(members)
    assert sum((each.answers for each in seen), start=type(seen[0].answers)()) == {"Ann": ALL}
    assert (reads(seen), sum(len(each.granted) for each in seen)) == (1, 1)


def test_two_hundred_misses_of_four_processes_cost_one_read(shop: Shop) -> None:
    one_read(shop)


def test_without_leases_they_cost_more(shop: Shop) -> None:
    with pytest.raises(AssertionError):
        one_read(shop, "no leases")


# --- the holder is killed -------------------------------------------------------------------------------------------


def end_soon(shop: Shop, held: Seen) -> float:
    """Move the end of the holder's lease to a second from now: when that is, on the monotonic clock."""
    before = time.monotonic()
    seconds, microseconds = shop.redis.time()
    after = time.monotonic()
    now = seconds * 1000 + microseconds // 1000
    left = int(meta(shop, USER_NAME.template, "1")[b"lx"]) - now
    assert after + left / 1000 >= held.granted[0] + LEASE - 0.01, "it is shorter than it should be"
    shop.redis.hset(meta_key(USER_NAME.template.key("1")), "lx", str(now + 1000))
    return before + 1


def holder_is_killed(shop: Shop, mutant: str | None = None) -> None:
    """Whoever reads dies in the middle of it; the others wait until its lease ends, and one of them reads."""
    put_user(shop, "Ann", 1)
    changed_user(shop.keeper(), "Ann", 1)  # the marker outlives the lease, and what M says of it
    with herd(shop, mutant=mutant) as members:
        all_look_up(members)

        def all_have_come() -> bool:
            seen = [member.seen() for member in members]
            return sum(each.come for each in seen) == ALL and reads(seen) > 0

        wait_until(all_have_come, "all have come, and one reads", 60)
        (holder,) = (member for member in members if member.seen().read)
        held = holder.seen()
        holder.process.kill()
        members.remove(holder)
        try:
            ends = end_soon(shop, held)
            wait_until(lambda: reads([member.seen() for member in members]), "another one reads", 60)
            for member in members:
                member.do("let_it_go")
            seen = all_done(members)
        finally:
            holder.end()
    assert sum(each.answers["Ann"] for each in seen) == ALL - THREADS
    assert (len(held.read), reads(seen)) == (1, 1), [each.read for each in seen]
    again = min(time for each in seen for time in each.read)
    assert again >= ends - 0.01, "before the lease has ended"  # Redis counts milliseconds
    assert shop.redis.get("user:1:name") == b"Ann"


def test_when_the_holder_is_killed_it_costs_one_more_after_its_lease(shop: Shop) -> None:
    holder_is_killed(shop)


def test_when_a_lease_that_ran_out_is_not_renewed_it_costs_more(shop: Shop) -> None:
    with pytest.raises(AssertionError, match=r"== \(1, 1\)"):
        holder_is_killed(shop, "leases are not renewed")


# --- invalidations faster than loads --------------------------------------------------------------------------------


def every_load_is_overtaken(
    shop: Shop, limit: float, limits: dict[str, Any], slack: float = SLACK, mutant: str | None = None
) -> None:
    """Each load takes 50 ms, and whatever it brings, the user has been invalidated meanwhile: no fill ever lands."""
    put_user(shop, "Ann")
    with herd(shop, slow=0.05, overtaken=True, mutant=mutant, lookup_timeout_seconds=limit, **limits) as members:
        for member in members:
            member.do("let_it_go")
        all_look_up(members)
        seen = all_done(members, limit + slack)
    assert sum((each.answers for each in seen), start=type(seen[0].answers)()) == {"Ann": ALL}
    assert max(each.slowest for each in seen) < limit + slack
    granted, uncached = sum(len(each.granted) for each in seen), sum(each.uncached for each in seen)
    assert granted <= reads(seen) <= granted + uncached
    assert shop.redis.get("user:1:name") is None


def test_when_invalidations_are_faster_than_loads_everybody_has_an_answer_in_time(shop: Shop) -> None:
    # Without the cap: on a machine that is slow, loads under lost leases would use it up, which is no matter of time.
    limits = {"redis_timeout_seconds": 2, "load_timeout_seconds": 5, "lease_seconds": 10, "load_concurrency": THREADS}
    every_load_is_overtaken(shop, 10, limits)


def test_who_waits_for_a_fill_that_lands_waits_for_ever(shop: Shop) -> None:
    # However long it is waited for: the shortest limits will do.
    limits = {"redis_timeout_seconds": 1, "load_timeout_seconds": 2, "lease_seconds": 5}
    with pytest.raises(AssertionError, match="still not: every caller has an answer"):
        every_load_is_overtaken(shop, 4.5, limits, slack=1, mutant="until it lands")


# --- a Redis that has just lost everything --------------------------------------------------------------------------

CAP = 5


def everything_is_lost(shop: Shop, mutant: str | None = None) -> None:
    """200 users are cached; FLUSHALL; all are looked up at once."""
    shop.db.users.insert_many([{"_id": each, "name": "Ann", "version": 1} for each in range(ALL)])
    with herd(shop, slow=0.02, together=CAP, mutant=mutant, load_concurrency=CAP) as members:
        for member in members:
            member.do("let_it_go")
        all_look_up(members, list(range(ALL)))
        all_done(members)
        assert len(shop.redis.keys("user:*:name")) == ALL
        shop.flush()
        all_look_up(members, list(range(ALL)))
        seen = all_done(members)
    assert [each.most_at_once for each in seen] == [CAP] * PROCESSES
    assert reads(seen) == 2 * ALL
    assert sum(each.answers["Ann"] for each in seen) == 2 * ALL


def test_after_a_flush_no_process_reads_more_at_once_than_the_cap(shop: Shop) -> None:
    everything_is_lost(shop)


def test_without_the_cap_they_all_read(shop: Shop) -> None:
    with pytest.raises(AssertionError, match=r"== \[5, 5, 5, 5\]"):
        everything_is_lost(shop, "no cap")
