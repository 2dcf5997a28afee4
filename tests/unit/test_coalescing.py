"""Coalescing: what a batch does to one key does not depend on its order, nor on how often an event is delivered."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from cachekeeper.applying import batch as applying
from cachekeeper.applying.batch import Applied, check
from cachekeeper.errors import DamagedDocument, InvalidId
from cachekeeper.model.commands import (
    Block,
    Command,
    Expire,
    Invalidate,
    InvalidateAll,
    InvalidateWithin,
    Persist,
    Write,
)
from cachekeeper.model.views import Server
from cachekeeper.protocol import Store
from cachekeeper.protocol.outcomes import Changed
from cachekeeper.protocol.scripts import Step
from cachekeeper.reading.keeper import Keeper
from cachekeeper.values.ids import IdType
from cachekeeper.values.times import to_ms
from lookups import BLOCKED, SEARCH, SESSION, USER_NAME
from lookups.sessions import END_SESSION
from testkit.limits import settings

SOON = datetime(2100, 1, 1, tzinfo=UTC)
LATER = SOON + timedelta(hours=1)
A_UUID = "0b8a6f5e-1d0b-4c8e-9a51-6a4a3c1c2d3e"

WRITES = [Write(USER_NAME, "1", f"name {version}", version) for version in (1, 2, 3)]
INVALIDATE = Invalidate(USER_NAME, "1")
EXPIRES = [Expire(USER_NAME, "1"), Expire(USER_NAME, "1", SOON), Expire(USER_NAME, "1", LATER)]
COMMANDS: list[Command] = [*WRITES, INVALIDATE, *EXPIRES]


@pytest.fixture(scope="module")
def offline_keeper() -> Keeper:
    """It never connects: coalescing is arithmetic."""
    return Keeper(settings(value_limit_bytes=100, id_types="session=uuid"))


@dataclass(frozen=True)
class Shown:
    """What a step does, without the parts that every step of its kind shares."""

    name: str
    version: Any = None
    value: Any = None
    at: Any = None


def shown(step: Step[Any]) -> Shown:
    args = step.args
    match step.script.name:
        case "change":
            return Shown("change", version=args[0], value=args[1])
        case "expire":
            return Shown("expire", at=args[0])
        case name:
            return Shown(name)


def coalesced(keeper: Keeper, commands: Sequence[Command]) -> list[Shown]:
    """The steps that a batch of these commands for one key comes to."""
    plan = applying._Plan(keeper)
    for command in commands:
        plan.add(command, Applied())
    return [shown(step) for change in plan._changes.values() for step in change.steps(keeper)]


def expected(commands: Sequence[Command]) -> list[Shown]:
    """The rules of the design, in words of this test."""
    found = []
    deadlines = [0 if command.at is None else to_ms(command.at) for command in commands if isinstance(command, Expire)]
    if deadlines:
        found.append(Shown("expire", at=min(deadlines)))
    writes = [command for command in commands if isinstance(command, Write)]
    if INVALIDATE in commands:
        found.append(Shown("invalidate"))
    elif writes:
        highest = max(writes, key=lambda write: write.version)
        found.append(Shown("change", version=highest.version, value=str(highest.value).encode()))
    return found


def follows_the_rules(keeper: Keeper) -> None:
    """Every sequence of up to four commands of one key: all orders, with duplicates."""
    for length in range(1, 5):
        for commands in itertools.product(COMMANDS, repeat=length):
            assert coalesced(keeper, commands) == expected(commands), commands


def test_every_order_and_every_duplicate_comes_to_the_same_steps(offline_keeper: Keeper) -> None:
    follows_the_rules(offline_keeper)


class LowestVersion(applying._Change):
    def add(self, command: Write | Expire | Invalidate, result: Applied) -> None:
        if isinstance(command, Write) and self._write is not None and command.version < self._write.version:
            self._write = None
        elif isinstance(command, Write) and self._write is not None:
            return
        super().add(command, result)


class LastWrite(applying._Change):
    def add(self, command: Write | Expire | Invalidate, result: Applied) -> None:
        if isinstance(command, Write):
            self._write = None
        super().add(command, result)


class WriteBeatsInvalidate(applying._Change):
    def steps(self, keeper: Keeper) -> list[Step[Any]]:
        self._invalidate = self._invalidate and self._write is None
        return super().steps(keeper)


class LastInvalidateForgetsNothing(applying._Change):
    def add(self, command: Write | Expire | Invalidate, result: Applied) -> None:
        if isinstance(command, Write):
            self._invalidate = False
        super().add(command, result)


class LastDeadline(applying._Change):
    def add(self, command: Write | Expire | Invalidate, result: Applied) -> None:
        if isinstance(command, Expire):
            self._expires, self._until = False, None
        super().add(command, result)


class InvalidateEatsDeadline(applying._Change):
    def steps(self, keeper: Keeper) -> list[Step[Any]]:
        self._expires = self._expires and not self._invalidate
        return super().steps(keeper)


class WriteBeforeDeadline(applying._Change):
    def steps(self, keeper: Keeper) -> list[Step[Any]]:
        return super().steps(keeper)[::-1]


@pytest.mark.parametrize(
    "mutant",
    [
        LowestVersion,
        LastWrite,
        WriteBeatsInvalidate,
        LastInvalidateForgetsNothing,
        LastDeadline,
        InvalidateEatsDeadline,
        WriteBeforeDeadline,
    ],
)
def test_the_search_finds_each_known_bad_rule(
    offline_keeper: Keeper, mutant: type[applying._Change], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(applying, "_Change", mutant)
    with pytest.raises(AssertionError):
        follows_the_rules(offline_keeper)


def test_keys_do_not_mix(offline_keeper: Keeper) -> None:
    one, other = Write(USER_NAME, "1", "Ann", 5), Write(USER_NAME, "2", "Bob", 3)
    assert coalesced(offline_keeper, [one, other, Invalidate(USER_NAME, "3")]) == [
        Shown("change", version=5, value=b"Ann"),
        Shown("change", version=3, value=b"Bob"),
        Shown("invalidate"),
    ]


def test_a_value_over_the_limit_is_not_cached_but_its_key_is_invalidated(offline_keeper: Keeper) -> None:
    small, large = Write(USER_NAME, "1", "x" * 100, 1), Write(USER_NAME, "1", "x" * 101, 2)
    assert coalesced(offline_keeper, [small]) == [Shown("change", version=1, value=b"x" * 100)]
    assert coalesced(offline_keeper, [small, large]) == [Shown("invalidate")]


# --- blocks ---------------------------------------------------------------------------------------------------------


def longest(keeper: Keeper, ends: Sequence[datetime | None]) -> datetime | None:
    plan = applying._Plan(keeper)
    for end in ends:
        plan.add(Block(BLOCKED, "t", end), Applied())
    ((command, results),) = plan._blocks.values()
    assert len(results) == len(ends)
    return command.until


def test_of_blocks_the_longest_stands_and_one_for_ever_above_all(offline_keeper: Keeper) -> None:
    for length in range(1, 5):
        for ends in itertools.product([SOON, LATER, None], repeat=length):
            wanted = None if None in ends else max(end for end in ends if end is not None)
            assert longest(offline_keeper, ends) == wanted, ends


# --- round trips ----------------------------------------------------------------------------------------------------


END_IT: list[Command] = [Persist(SESSION, A_UUID, END_SESSION), Expire(SESSION, A_UUID)]
SET: list[Command] = [Write(USER_NAME, str(n), f"name {n}", 1) for n in range(20)]
UNSET: list[Command] = [Invalidate(USER_NAME, str(n)) for n in range(10, 30)]
MIXED = [*([command] for command in (*SET, *UNSET)), *([*END_IT, Block(BLOCKED, f"t{n}", SOON)] for n in range(20))]


def costs_one_pipeline_a_server(keeper: Keeper, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[tuple[Store, list[str]]] = []

    def send(store: Store, wanted: Sequence[Step[Any]]) -> list[Any]:
        sent.append((store, [step.keys[0] for step in wanted]))
        return [Changed.IGNORED] * len(wanted)

    monkeypatch.setattr(Store, "_pipeline", send)
    monkeypatch.setattr(Store, "run", lambda store, step: send(store, [step])[0])
    monkeypatch.setattr(applying, "persist", lambda _, batch: [None] * len(batch))  # MongoDB's half
    results = applying.apply(keeper, MIXED)
    assert [result.error for result in results] == [None] * len(MIXED)
    names, blocks = [f"user:{n}:name" for n in range(30)], [f"blocked:t{n}" for n in range(20)]
    assert sent == [
        (keeper.store(Server.CACHE), names),
        (keeper.store(Server.SECURITY), [f"session:{A_UUID}", *blocks]),
    ]


def test_a_mixed_batch_costs_one_pipeline_a_server(offline_keeper: Keeper, monkeypatch: pytest.MonkeyPatch) -> None:
    costs_one_pipeline_a_server(offline_keeper, monkeypatch)


def apply_each(keeper: Keeper, batch: Sequence[Sequence[Command]]) -> list[Applied]:
    return [result for commands in batch for result in APPLY(keeper, [commands])]


def run_each(store: Store, wanted: Sequence[Step[Any]]) -> list[Any]:
    return [store.run(step) for step in wanted]


def run_few(store: Store, wanted: Sequence[Step[Any]]) -> list[Any]:
    return [*store._pipeline(wanted[:10]), *store._pipeline(wanted[10:])]


APPLY = applying.apply


@pytest.mark.parametrize(
    ("place", "name", "mutant"),
    [(applying, "apply", apply_each), (Store, "run_all", run_each), (Store, "run_all", run_few)],
    ids=["event by event", "key by key", "in small pipelines"],
)
def test_known_bad_ways_to_apply_cost_more(
    offline_keeper: Keeper, monkeypatch: pytest.MonkeyPatch, place: object, name: str, mutant: object
) -> None:
    monkeypatch.setattr(place, name, mutant)
    with pytest.raises(AssertionError):
        costs_one_pipeline_a_server(offline_keeper, monkeypatch)


# --- searches and whole views ---------------------------------------------------------------------------------------


def test_names_are_folded_and_joined(offline_keeper: Keeper) -> None:
    plan = applying._Plan(offline_keeper)
    results = [Applied(), Applied()]
    plan.add(InvalidateWithin(SEARCH, ("Lamp", "LAMP", "Oak desk")), results[0])
    plan.add(InvalidateWithin(SEARCH, ("lamp", "\u212aettle")), results[1])
    ((view, names, concerned),) = plan._within.values()
    assert view is SEARCH
    assert list(names) == ["lamp", "oak desk", "kettle"]
    assert concerned == results
    assert not plan._drops


def test_a_name_of_a_length_that_nobody_could_pay_for_drops_the_view(offline_keeper: Keeper) -> None:
    plan = applying._Plan(offline_keeper)
    plan.add(InvalidateWithin(SEARCH, ("x" * applying.LONGEST_NAME,)), Applied())
    assert not plan._drops
    plan.add(InvalidateWithin(SEARCH, ("x", "x" * (applying.LONGEST_NAME + 1))), Applied())
    assert list(plan._drops) == ["search"]


def test_a_view_is_dropped_once_a_batch(offline_keeper: Keeper) -> None:
    plan = applying._Plan(offline_keeper)
    for _ in range(3):
        plan.add(InvalidateAll(SEARCH, "a reason"), Applied())
    ((_, results),) = plan._drops.values()
    assert len(results) == 3


# --- what can never be applied --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    [
        Persist(SESSION, "42", END_SESSION),
        Expire(SESSION, "42"),
        Invalidate(SESSION, "42"),
        Write(SESSION, "42", {}, 1),
    ],
    ids=lambda command: type(command).__name__,
)
def test_an_id_of_the_wrong_type_is_found_before_anything_is_written(offline_keeper: Keeper, command: Command) -> None:
    with pytest.raises(InvalidId, match="UUID in lower case"):
        check(offline_keeper, [Expire(SESSION, A_UUID), command])


def test_a_value_that_its_view_cannot_hold_is_found_before_anything_is_written(offline_keeper: Keeper) -> None:
    with pytest.raises(DamagedDocument):
        check(offline_keeper, [Write(USER_NAME, "1", 5, 1)])


def test_the_settings_decide_what_an_id_means(offline_keeper: Keeper) -> None:
    assert offline_keeper.binding(SESSION).ids is IdType.UUID
    assert offline_keeper.binding(USER_NAME).ids is IdType.AUTO
