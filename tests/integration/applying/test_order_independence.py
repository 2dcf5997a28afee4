"""Every order of up to four events of one key, duplicates included, leaves the same behind, alone or in one batch.

On a real server, through `apply`: each case has a key of its own, so that thousands of them go in a few pipelines.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING, Any

import pytest

from cachekeeper.applying import batch as applying
from cachekeeper.applying.batch import apply
from cachekeeper.errors import CacheUnavailable, DamagedDocument, DatabaseUnavailable, InvalidId
from cachekeeper.model.commands import Block, Command, Expire, Invalidate, Persist, Write
from cachekeeper.model.views import Server
from cachekeeper.values.keys import meta_key
from lookups import BLOCKED, SESSION, USER_NAME, read_user
from lookups.sessions import END_SESSION
from testkit.limits import NO_MONGO, NO_REDIS, NOWHERE
from testkit.mutating import mutate
from testkit.shop import Shop

if TYPE_CHECKING:
    from cachekeeper.reading.keeper import Keeper


@cache
def later() -> datetime:
    """A deadline ahead: one for a whole test, and of its own time, since the run of all tests may outlast it."""
    return datetime.now(UTC) + timedelta(minutes=10)


@pytest.fixture(autouse=True)
def _a_deadline_of_its_own() -> None:
    later.cache_clear()


EVENTS: dict[str, Callable[[str], Command]] = {
    "1": lambda part: Write(USER_NAME, part, "name 1", 1),
    "2": lambda part: Write(USER_NAME, part, "name 2", 2),
    "3": lambda part: Write(USER_NAME, part, "name 3", 3),
    "i": lambda part: Invalidate(USER_NAME, part),
    "x": lambda part: Expire(USER_NAME, part),
    "l": lambda part: Expire(USER_NAME, part, later()),
}

# What a key and its metadata may be like before: the fields of M, and the value at K.
STATES: dict[str, tuple[bytes | None, dict[Any, Any]]] = {
    "nothing": (None, {}),
    "value, version 0": (b"name 0", {"v": "0"}),
    "value, version 2": (b"name 2", {"v": "2"}),
    "value, no version": (b"name 2", {}),
    "marker 2": (None, {"v": "2"}),
    "known absent": (None, {"ax": "99999999999999"}),
    "a load in flight": (None, {"l": "theirs", "lx": "99999999999999"}),
    "marker, load in flight": (None, {"v": "1", "l": "theirs", "lx": "99999999999999"}),
    "ended": (None, {"d": "1"}),
}


@dataclass(frozen=True)
class Left:
    """What is at K and beside it, as far as a reader can tell."""

    value: bytes | None
    life: str
    deadline: bytes | None
    lease: bytes | None
    absent: bytes | None


Case = tuple[str, tuple[str, ...]]
"""A state, and the events that come upon it, in order."""

Ends = list[tuple[Left, bytes | None]]
"""What each case left, and the version beside it."""


def prepare(shop: Shop, cases: Sequence[Case]) -> None:
    pipe = shop.redis.pipeline(transaction=False)
    for part, (state, _) in enumerate(cases):
        key = USER_NAME.template.key(str(part))
        value, fields = STATES[state]
        if value is not None:
            pipe.set(key, value, ex=3600)
        if fields:
            pipe.hset(meta_key(key), mapping=fields)
            pipe.expire(meta_key(key), 3600)
    pipe.execute()


def look(shop: Shop, count: int) -> Ends:
    pipe = shop.redis.pipeline(transaction=False)
    for part in range(count):
        key = USER_NAME.template.key(str(part))
        pipe.get(key)
        pipe.ttl(key)
        pipe.hmget(meta_key(key), "v", "d", "l", "ax")
    answers = iter(pipe.execute())
    found = []
    for value, ttl, (version, deadline, lease, absent) in zip(answers, answers, answers, strict=True):
        life = "none" if ttl == -2 else "for ever" if ttl == -1 else "to the deadline" if ttl <= 600 else "whole"
        found.append((Left(value, life, deadline, lease, absent), version))
    return found


def all_orders(longest: int) -> list[Case]:
    """Every state with every sequence of up to so many events: all orders of all of them, duplicates included."""
    sequences = [each for length in range(1, longest + 1) for each in itertools.product(EVENTS, repeat=length)]
    return [(state, sequence) for state in STATES for sequence in sequences]


def one_by_one(shop: Shop, keeper: Keeper, cases: Sequence[Case]) -> Ends:
    shop.flush()
    prepare(shop, cases)
    for turn in range(4):
        batch = [[EVENTS[events[turn]](str(part))] for part, (_, events) in enumerate(cases) if turn < len(events)]
        assert all(result.error is None for result in apply(keeper, batch))
    return look(shop, len(cases))


def in_one_batch(shop: Shop, keeper: Keeper, cases: Sequence[Case]) -> Ends:
    shop.flush()
    prepare(shop, cases)
    batch = [[EVENTS[event](str(part))] for part, (_, events) in enumerate(cases) for event in events]
    assert all(result.error is None for result in apply(keeper, batch))
    return look(shop, len(cases))


def order_makes_no_difference(shop: Shop, keeper: Keeper, *, longest: int) -> None:
    cases = all_orders(longest)
    seen: defaultdict[Case, set[Left]] = defaultdict(set)
    for way in (one_by_one(shop, keeper, cases), in_one_batch(shop, keeper, cases)):
        for (state, events), (left, version) in zip(cases, way, strict=True):
            seen[state, tuple(sorted(set(events)))].add(left)
            check(state, events, left, version)
    for events_of_a_state, lefts in seen.items():
        assert len(lefts) == 1, (events_of_a_state, lefts)


def check(state: str, events: Sequence[str], left: Left, version: bytes | None) -> None:
    """What must be true of the end, whatever the order."""
    case = (state, events, left, version)
    before, fields = STATES[state]
    writes = {int(event) for event in events if event.isdigit()}
    newest = max(writes, default=-1)
    over = "x" in events or state == "ended"
    if over or "i" in events:
        assert left.value is None, case
    if left.value is not None:
        # Never older than what the last event says: its payload, or what was there and is as new.
        assert left.value == f"name {max(newest, int(before[-1:]) if before else -1)}".encode(), case
    if writes and "i" not in events:
        assert version is not None, case
        assert int(version) >= newest, case
    if "i" in events or any(write > int(fields.get("v", -1)) for write in writes):
        assert (left.lease, left.absent) == (None, None), case  # nothing that began before may land, or be believed
    assert (left.deadline is not None) == (over or "l" in events), case
    if over:
        assert left.deadline in (b"0", b"1"), case
    if left.value is not None:
        assert left.life == ("to the deadline" if "l" in events else "whole"), case


def test_every_order_and_every_batch_leaves_the_same(shop: Shop) -> None:
    order_makes_no_difference(shop, shop.keeper(), longest=4)


@pytest.mark.parametrize(
    ("script", "good", "bad"),
    [
        ("_CHANGE", "if m[1] and tonumber(m[1]) >= tonumber(ARGV[1]) then return {'ignored'} end", ""),
        ("_CHANGE", "if left > 0 and m[1] and redis.call('EXISTS', KEYS[1]) == 1 then", "if left > 0 then"),
        ("_CHANGE", "redis.call('HDEL', KEYS[2], 'l', 'lx', 'ax')", ""),
        ("_CHANGE", "redis.call('HSET', KEYS[2], 'v', ARGV[1])\n", ""),
        ("_CHANGE", "local left = room(ARGV[3], m[2], ARGV[5])", "local left = tonumber(ARGV[3])"),
        ("_EXPIRE", "if before and tonumber(before) <= at then at = tonumber(before) end", ""),
        ("_INVALIDATE", "if redis.call('HEXISTS', KEYS[2], 'd') == 1 then", "if false then"),
        ("_INVALIDATE", "redis.call('DEL', KEYS[1])", ""),
    ],
    ids=[
        "any version is written",
        "payload over nothing",
        "change keeps lease and absence",
        "no marker",
        "change ignores the deadline",
        "latest deadline",
        "invalidate forgets the deadline",
        "invalidate keeps the value",
    ],
)
def test_known_bad_variants_depend_on_the_order(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, script: str, good: str, bad: str
) -> None:
    mutate(monkeypatch, script, good, bad)
    with pytest.raises(AssertionError):
        order_makes_no_difference(shop, shop.keeper(), longest=2)


def test_whatever_the_order_a_reader_then_has_the_truth(shop: Shop) -> None:
    """MongoDB is at version 3 when the events have drained; nobody reads anything else, hit or miss."""
    keeper = shop.keeper()
    cases: list[Case] = [("value, version 0", events) for events in itertools.permutations("123i")]
    shop.db.users.insert_many([{"_id": each, "name": "name 3", "version": 3} for each in range(len(cases))])
    one_by_one(shop, keeper, cases)
    for part, case in enumerate(cases):
        assert read_user(part, keeper=keeper) == "name 3", case
        assert read_user(part, keeper=keeper) == "name 3", case


# --- one event among others -----------------------------------------------------------------------------------------


def test_a_bad_event_leaves_its_neighbours_applied(shop: Shop) -> None:
    keeper = shop.keeper(id_types="session=uuid")
    for part in ("1", "2", "3"):
        shop.redis.set(f"user:{part}:name", "old", ex=60)
    results = apply(
        keeper,
        [
            [Invalidate(USER_NAME, "1")],
            [Write(USER_NAME, "2", ["no text"], 5)],
            [Persist(SESSION, "no uuid", END_SESSION), Expire(SESSION, "no uuid")],
            [Block(BLOCKED, "t1", None), Write(USER_NAME, "2", 7, 5)],
            [Invalidate(USER_NAME, "3")],
        ],
    )
    assert [type(result.error) for result in results] == [
        type(None),
        DamagedDocument,
        InvalidId,
        DamagedDocument,
        type(None),
    ]
    assert [shop.redis.get(f"user:{part}:name") for part in ("1", "2", "3")] == [None, b"old", None]
    assert shop.redis.exists("blocked:t1") == 0  # an event is applied whole, or not at all
    assert shop.db.blocked_tokens.count_documents({}) == 0
    assert shop.db.sessions.count_documents({}) == 0


def test_an_event_whose_persist_fails_is_left_out_and_its_neighbours_are_applied(shop: Shop) -> None:
    keeper = shop.keeper(watched=False, mongodb_url="mongodb://127.0.0.1:1/shop", **NO_MONGO)
    shop.redis.mset({"user:1:name": "old", "session:s1": "{}"})
    logout: list[Command] = [Persist(SESSION, "s1", END_SESSION), Expire(SESSION, "s1")]
    results = apply(keeper, [logout, [Invalidate(USER_NAME, "1")]])
    assert [type(result.error) for result in results] == [DatabaseUnavailable, type(None)]
    assert shop.redis.get("session:s1") == b"{}"
    assert shop.redis.get("user:1:name") is None


def test_without_redis_every_event_of_it_has_the_error_and_may_come_again(shop: Shop) -> None:
    batch: list[list[Command]] = [[Invalidate(USER_NAME, "1")], [Block(BLOCKED, "t1", None)], []]
    results = apply(shop.keeper(redis_url=NOWHERE, **NO_REDIS), batch)
    assert [type(result.error) for result in results] == [CacheUnavailable, CacheUnavailable, type(None)]
    assert shop.db.blocked_tokens.count_documents({"_id": "t1"}) == 1
    assert [result.error for result in apply(shop.keeper(), batch)] == [None] * 3
    assert shop.redis.get("blocked:t1") == b"true"


def test_outcomes_are_told_by_key(shop: Shop) -> None:
    keeper = shop.keeper()
    shop.db.users.insert_one({"_id": 1, "name": "old", "version": 1})
    read_user(1, keeper=keeper)
    batch: list[list[Command]] = [
        [Write(USER_NAME, "1", "new", 2)],
        [Write(USER_NAME, "1", "new", 2), Write(USER_NAME, "2", "x", 1)],
        [Invalidate(USER_NAME, "3")],
        [Write(USER_NAME, "4", "x", 1), Expire(USER_NAME, "4")],
    ]
    told = [{key: outcome.value for key, outcome in each.outcomes.items()} for each in apply(keeper, batch)]  # type: ignore[union-attr]  # all are enumerations here
    assert told == [
        {"user:1:name": "overwritten"},
        {"user:1:name": "overwritten", "user:2:name": "marked"},
        {"user:3:name": "invalidated"},
        {"user:4:name": "ended"},
    ]


# --- blocks ---------------------------------------------------------------------------------------------------------


def test_of_blocks_the_longest_stands_in_every_order(shop: Shop) -> None:
    now = datetime.now(UTC)
    lengths: list[datetime | None] = [now + timedelta(minutes=5), now + timedelta(hours=5), None]
    keeper = shop.keeper(block_leeway_seconds=0)
    orders = [each for count in (1, 2, 3) for each in itertools.product(lengths, repeat=count)]
    for way in ("one by one", "one batch"):
        shop.flush()
        shop.db.blocked_tokens.delete_many({})
        events = [[Block(BLOCKED, f"t{each}", until)] for each, order in enumerate(orders) for until in order]
        batches: list[Any] = [[event] for event in events] if way == "one by one" else [events]
        for batch in batches:
            assert all(result.error is None for result in apply(keeper, batch))
        for each, order in enumerate(orders):
            left = shop.redis.ttl(f"blocked:t{each}")
            stored = shop.db.blocked_tokens.find_one({"_id": f"t{each}"})
            assert stored is not None
            if None in order:
                assert left == -1, order
                assert stored["expires_at"] is None, order
            else:
                longest = max(until for until in order if until is not None)
                assert abs(left - (longest - now).total_seconds()) < 60, order
                assert abs(stored["expires_at"] - longest) < timedelta(milliseconds=1), order


def test_a_plan_that_forgets_a_server_is_seen(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sessions and blocks live on the security server, names on the cache: one batch reaches both."""
    keeper = shop.keeper(security_redis_url=shop.server.url_of(1))
    with shop.server.client(1) as security:
        apply(keeper, [[Block(BLOCKED, "t1", None), Expire(SESSION, "s1"), Write(USER_NAME, "1", "x", 1)]])
        assert sorted(security.keys("*")) == [b"blocked:t1", meta_key("session:s1").encode()]
        assert shop.redis.keys("*") == [meta_key("user:1:name").encode()]
        shop.flush()
        security.flushdb()
        monkeypatch.setattr(applying, "Server", [Server.CACHE])
        apply(keeper, [[Block(BLOCKED, "t1", None), Write(USER_NAME, "1", "x", 1)]])
        assert security.keys("*") == []
