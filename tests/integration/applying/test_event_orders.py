"""The order of events changes nothing in the cache: through the handlers, duplicates and batches included.

Of one user: every sequence of up to four events, and every order of three versions with any two more, duplicates
among them. Of several kinds together: every order of five sets of five events, chosen ones, not all there are.
Each comes one by one, in one batch, and in two.

`test_order_independence.py` does it for the commands of one key, from every state of it. Here the events themselves
come, of all four kinds, as a worker is given them. Each case has ids and names of its own, so that hundreds of them
go in a few calls of `apply`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from cachekeeper.applying import batch as applying
from cachekeeper.applying.batch import apply
from cachekeeper.model.events import Event
from cachekeeper.model.registry import load_registry
from cachekeeper.values.keys import meta_key
from producers import ProductChanged, UserDeleted, UserLoggedOut, UserUpdated
from testkit.mutating import mutate
from testkit.shop import Shop

if TYPE_CHECKING:
    from cachekeeper.reading.keeper import Keeper

REGISTRY = load_registry(["producers", "lookups", "worker"])


@dataclass(frozen=True)
class Case:
    """Events, in the order in which they come, about things that only this case knows."""

    number: int
    events: tuple[str, ...]

    def event(self, name: str, now: datetime) -> Event:  # noqa: PLR0911  # a table
        n = self.number
        lamp, desk = f"Lamp{n}x", f"Desk{n}x"
        match name:
            case "version 1" | "version 2" | "version 3":
                return UserUpdated(user_id=f"u{n}", name=f"name {name[-1]}", version=int(name[-1]))
            case "no version":
                return UserUpdated(user_id=f"u{n}", name="nobody knows when")
            case "deleted":
                return UserDeleted(user_id=f"u{n}")
            case "logout":
                soon = now + timedelta(minutes=10)
                return UserLoggedOut(session_id=f"s{n}", token_id=f"t{n}", token_expires_at=soon)
            case "token for long":
                return UserLoggedOut(token_id=f"t{n}", token_expires_at=now + timedelta(hours=10))
            case "token for ever":
                return UserLoggedOut(token_id=f"t{n}")
            case "renamed":
                return ProductChanged(product_id=f"p{n}", name=desk, previous_name=lamp)
            case "new price":
                return ProductChanged(product_id=f"p{n}", name=desk, previous_name=desk)
            case "sold out":
                return ProductChanged(product_id=f"p{n}", deleted=True, previous_name=desk)
        raise ValueError(name)


@dataclass(frozen=True)
class End:
    """What a case leaves, as far as anybody can tell who reads afterwards."""

    name: bytes | None
    session: tuple[bool, bool, bool]  # at its key; a deadline beside it; ended in MongoDB
    token: tuple[str, str]  # how long, in Redis and in MongoDB
    searches: tuple[str, ...]  # still cached
    filling: bool  # whether the load of a search that finds the lamp may still land


def expected(events: Iterable[str]) -> End:
    events = set(events)
    versions = [event for event in events if event.startswith("version")]
    logout = "logout" in events
    longest = "for ever" if "token for ever" in events else "long" if "token for long" in events else "soon"
    lasts = longest if longest != "soon" or logout else "none"
    gone = {"lamp", "desk"} if "renamed" in events else {"desk"} if {"new price", "sold out"} & events else set()
    unknown = {"no version", "deleted"} & events
    return End(
        name=None if unknown else max(versions, default="name 0").replace("version", "name").encode(),
        session=(not logout, logout, logout),
        token=(lasts, lasts),
        searches=tuple(text for text in ("lamp", "desk", "chair") if text not in gone),
        filling="renamed" not in events,
    )


def prepare(shop: Shop, cases: Sequence[Case], now: datetime) -> None:
    """A name, a session and searches are cached, and one search is being loaded."""
    shop.flush()
    pipe = shop.redis.pipeline(transaction=False)
    for case in cases:
        n = case.number
        pipe.set(f"user:u{n}:name", "name 0", ex=3600)
        pipe.hset(meta_key(f"user:u{n}:name"), "v", 0)
        pipe.set(f"session:s{n}", "{}", ex=1800)
        for text in ("lamp", "desk", "chair"):
            pipe.set(f"search:{text}{n}x", "[]", ex=600)
        pipe.hset(meta_key(f"search:amp{n}x"), mapping={"l": "theirs", "lx": "99999999999999"})
    pipe.execute()
    for collection in ("sessions", "blocked_tokens"):
        shop.db[collection].delete_many({})
    live = {"data": {}, "version": 1, "expires_at": now + timedelta(minutes=30)}
    shop.db.sessions.insert_many([{"_id": f"s{case.number}", **live} for case in cases])


def look(shop: Shop, cases: Sequence[Case], now: datetime) -> list[End]:
    pipe = shop.redis.pipeline(transaction=False)
    for case in cases:
        n = case.number
        pipe.get(f"user:u{n}:name")
        pipe.exists(f"session:s{n}")
        pipe.hexists(meta_key(f"session:s{n}"), "d")
        pipe.ttl(f"blocked:t{n}")
        pipe.mget([f"search:{text}{n}x" for text in ("lamp", "desk", "chair")])
        pipe.hexists(meta_key(f"search:amp{n}x"), "l")
    answers = iter(pipe.execute())
    sessions = {each["_id"]: each for each in shop.db.sessions.find()}
    tokens = {each["_id"]: each for each in shop.db.blocked_tokens.find()}
    found = []
    for case in cases:
        name, session, deadline, ttl, searches, filling = itertools.islice(answers, 6)
        ended = sessions[f"s{case.number}"].get("ended_at") is not None
        token = tokens.get(f"t{case.number}")
        there = "none" if token is None else lasts(_left(token, now))
        cached = tuple(text for text, value in zip(("lamp", "desk", "chair"), searches, strict=True) if value)
        found.append(
            End(name, (bool(session), deadline, ended), (lasts(None if ttl == -1 else ttl), there), cached, filling)
        )
    return found


def _left(token: dict[str, Any], now: datetime) -> float | None:
    return None if token["expires_at"] is None else (token["expires_at"] - now).total_seconds()


def lasts(seconds: float | None) -> str:
    return "for ever" if seconds is None else "none" if seconds < 0 else "soon" if seconds < 3600 else "long"


Way = Callable[[Sequence[str]], list[Sequence[str]]]
WAYS: dict[str, Way] = {
    "one by one": lambda events: [[event] for event in events],
    "one batch": lambda events: [events],
    "two batches": lambda events: [events[:2], events[2:]],
}


def all_end_alike(shop: Shop, orders: Iterable[tuple[str, ...]]) -> None:
    """Whatever the order, and however it is cut into batches."""
    keeper = shop.keeper()
    cases = [Case(number, events) for number, events in enumerate(orders)]
    for name, way in WAYS.items():
        now = datetime.now(UTC)
        prepare(shop, cases, now)
        deliver(keeper, cases, way, now)
        for case, end in zip(cases, look(shop, cases, now), strict=True):
            assert end == expected(case.events), (name, case.events)


def deliver(keeper: Keeper, cases: Sequence[Case], way: Way, now: datetime) -> None:
    """The first batch of every case, then the second of every case, and so on."""
    for parts in itertools.zip_longest(*(way(case.events) for case in cases), fillvalue=()):
        batch = [
            REGISTRY.commands(case.event(event, now)) for case, part in zip(cases, parts, strict=True) for event in part
        ]
        assert [result.error for result in apply(keeper, batch)] == [None] * len(batch)


def permutations(*multisets: Sequence[str]) -> list[tuple[str, ...]]:
    """Every order of each, once."""
    return [order for events in multisets for order in dict.fromkeys(itertools.permutations(events))]


USER = ("version 1", "version 2", "version 3", "no version", "deleted")


def test_events_of_a_user(shop: Shop) -> None:
    """Every sequence of up to four, which are all orders of all of them with all duplicates; and all orders of five."""
    sequences = [each for length in range(1, 5) for each in itertools.product(USER, repeat=length)]
    twice = [("version 1", "version 2", "version 3", first, second) for first, second in itertools.product(USER, USER)]
    all_end_alike(shop, [*sequences, *permutations(*{tuple(sorted(each)): each for each in twice}.values())])


MIXED = permutations(
    ("version 1", "version 2", "logout", "token for long", "renamed"),
    ("version 2", "deleted", "logout", "token for ever", "new price"),
    ("version 2", "version 2", "logout", "logout", "sold out"),
    ("logout", "token for long", "token for ever", "renamed", "renamed"),
)


def test_events_of_all_kinds(shop: Shop) -> None:
    all_end_alike(shop, MIXED)


def test_a_product_whose_old_name_nobody_knows(shop: Shop) -> None:
    """It drops every search, and so every case's: one at a time."""
    keeper = shop.keeper()
    for order in itertools.permutations(["unknown", "renamed", "version 1", "version 2", "version 1"]):
        for way in WAYS.values():
            now, case = datetime.now(UTC), Case(0, order)
            prepare(shop, [case], now)
            for part in way(order):
                events = [
                    ProductChanged(product_id="p0", name="Whatever") if name == "unknown" else case.event(name, now)
                    for name in part
                ]
                assert all(r.error is None for r in apply(keeper, [REGISTRY.commands(event) for event in events]))
            (end,) = look(shop, [case], now)
            assert (end.name, end.searches, end.filling) == (b"name 2", (), False), order


class ShortestBlock(applying._Plan):
    def _add_block(self, command: Any, result: Any) -> None:
        key = command.view.template.key(command.id)
        self._blocks[key] = (command, [*self._blocks.get(key, (None, []))[1], result])


class LastNames(applying._Plan):
    def add(self, command: Any, result: Any) -> None:
        self._within.clear()
        super().add(command, result)


class LastWrite(applying._Change):
    def add(self, command: Any, result: Any) -> None:
        self._write = None
        super().add(command, result)


@pytest.mark.parametrize("mutant", [ShortestBlock, LastNames, LastWrite])
def test_a_batch_that_is_put_together_wrongly_is_noticed(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, mutant: type[Any]
) -> None:
    monkeypatch.setattr(applying, mutant.__mro__[1].__name__, mutant)
    with pytest.raises(AssertionError):
        all_end_alike(shop, MIXED[::7])


@pytest.mark.parametrize(
    ("script", "good", "bad"),
    [
        ("_BLOCK", "if left >= ms then return {'kept'} end", ""),
        ("_CHANGE", "if m[1] and tonumber(m[1]) >= tonumber(ARGV[1])", "if false"),
        ("_INVALIDATE", "redis.call('DEL', KEYS[1])", ""),
        ("_INVALIDATE_WITHIN", "batch[#batch + 1] = '{' .. key .. '}:meta'", ""),
    ],
    ids=["a shorter block", "any version", "a deletion keeps the value", "a load goes on"],
)
def test_a_wrong_script_is_noticed(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, script: str, good: str, bad: str
) -> None:
    mutate(monkeypatch, script, good, bad)
    with pytest.raises(AssertionError):
        all_end_alike(shop, MIXED[::7] + permutations(("version 1", "deleted", "version 2", "version 3")))
