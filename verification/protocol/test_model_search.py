"""The protocol holds in every state that the model reaches, and the server agrees with the model about every step.

These tests search the whole space of three writes; `make protocol` also searches four and five.
"""

from collections.abc import Iterator
from typing import Any

import pytest

from cachekeeper.devservers import RedisServer
from cachekeeper.protocol import Store
from verification.protocol.cases import Case, cases_of
from verification.protocol.cells import Outcome, Protocol
from verification.protocol.explorer import Found, search
from verification.protocol.families import FAMILIES, Family, family_of, space
from verification.protocol.parts import Rules
from verification.protocol.replay import replay
from verification.protocol.running import DESIGN, search_one
from verification.protocol.world import World
from verification.protocol.writes import RIGHT, SEQUENCES, History, history


def _tasks() -> Iterator[tuple[Family, int, History]]:
    for family in FAMILIES:
        for number, happens in enumerate(family.histories(RIGHT)):
            yield family, number, happens


@pytest.fixture(scope="module")
def replayed() -> set[Case]:
    """The cases that this process has replayed already. Many histories reach the same (K, M, step)."""
    return set()


@pytest.mark.parametrize(
    ("family", "number"),
    [pytest.param(family.name, number, id=f"{family.name}-{happens.name}") for family, number, happens in _tasks()],
)
def test_the_protocol_holds(family: str, number: int, redis_server: RedisServer, replayed: set[Case]) -> None:
    searched = search_one((family, number))
    assert searched.trace is None, f"\n{searched.trace}"
    assert searched.found.states > 100
    with redis_server.client() as client:
        assert replay(Store(client), searched.cases - replayed) == []
    replayed |= searched.cases


def test_the_sequences_are_the_42_of_the_design() -> None:
    assert len(SEQUENCES) == len(set(SEQUENCES)) == 42
    assert {letter for sequence in SEQUENCES for letter in sequence} == set("USND")


def test_every_outcome_is_reached() -> None:
    """If an outcome were missing, a rule of the protocol would not have been tried."""
    outcomes: set[Outcome] = set()
    for name, letters in (("writes", "UND"), ("shared", "UTP"), ("endings", "UTX"), ("lagging", "U")):
        family = family_of(name)
        happens = next(happens for happens in family.histories(RIGHT) if happens.name == letters)
        searched = space(family, DESIGN, happens, fine=False)
        found: Found[Any] = search(searched)
        assert found.problem is None
        outcomes |= {Protocol().apply(cell, step)[0] for cell, step in searched.moves.steps}
    assert outcomes == set(Outcome)


@pytest.mark.parametrize("letters", ["UUU", "UND", "NDU", "SNU"])
def test_coarse_and_fine_grain_reach_the_same_steps(letters: str) -> None:
    reached = []
    for fine in (False, True):
        world = World(history(letters), Protocol(), Rules(fine=fine))
        assert search(world).problem is None
        reached.append(cases_of(world.moves.steps))
    assert reached[0] == reached[1]


class _WithoutTwins(World):
    def twin(self, state: int) -> int:
        return state


def test_leaving_out_twins_loses_nothing() -> None:
    """The states of a search with twins, plus their twins, are the states of a search without twins."""
    once = World(history("UND"), Protocol(), Rules())
    every = _WithoutTwins(history("UND"), Protocol(), Rules())
    states, all_states = _reached(once), _reached(every)
    assert len(states) < len(all_states)
    closed = {once.unpack(state) for state in states} | {once.unpack(once.twin(state)) for state in states}
    assert closed == {every.unpack(state) for state in all_states}
    assert cases_of(once.moves.steps) == cases_of(every.moves.steps)


def _reached(world: World) -> set[int]:
    """Return the states that a search visits."""
    seen = {world.start()}
    twins: set[int] = set()
    frontier = [*seen]
    while frontier:
        state = frontier.pop()
        for new in world.successors(state):
            if new not in seen and new not in twins:
                seen.add(new)
                twins.add(world.twin(new))
                frontier.append(new)
    return seen
