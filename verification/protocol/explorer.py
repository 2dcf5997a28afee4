"""Breadth-first search over every reachable state, so that the first bad state found is the nearest one."""

from __future__ import annotations

import time
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

State = TypeVar("State", bound=Hashable)


class Space(Protocol[State]):
    """A search space."""

    def start(self) -> State: ...

    def successors(self, state: State) -> Iterable[State]:
        """Return every state that one step leads to. Repetitions and `state` itself are allowed."""
        ...

    def twin(self, state: State) -> State:
        """Return a state that differs only in names, and so need not be searched too. It may be `state` itself."""
        ...

    def verdict(self, state: State) -> str | None:
        """Say what is wrong with `state`; None if nothing is."""
        ...


@dataclass(frozen=True, slots=True)
class Found(Generic[State]):
    """The result of a search. `states` counts twins once; `path` leads to the bad state, if there is one."""

    states: int
    transitions: int
    depth: int
    seconds: float
    problem: str | None
    path: tuple[State, ...]


def search(space: Space[State], *, deepest: int | None = None) -> Found[State]:
    """Search `space` until the first bad state, or completely; at most `deepest` steps deep."""
    began = time.perf_counter()
    successors, twin, verdict = space.successors, space.twin, space.verdict
    start = space.start()
    came_from: dict[State, State] = {start: start}
    frontier = [start]
    states, transitions, depth = 1, 0, 0

    def result(problem: str | None, path: tuple[State, ...] = ()) -> Found[State]:
        return Found(states, transitions, depth, time.perf_counter() - began, problem, path)

    while frontier and (deepest is None or depth < deepest):
        following: list[State] = []
        for state in frontier:
            for new in successors(state):
                transitions += 1
                if new not in came_from:
                    came_from[new] = state
                    # The twin counts as seen; its path is this one with the names exchanged.
                    came_from.setdefault(twin(new), state)
                    following.append(new)
                    if problem := verdict(new):
                        states += len(following)
                        depth += 1
                        return result(problem, _path(came_from, new))
        if following:
            depth += 1
        states += len(following)
        frontier = following
    return result(None)


def _path(came_from: dict[State, State], state: State) -> tuple[State, ...]:
    path = [state]
    while came_from[state] != state:
        state = came_from[state]
        path.append(state)
    return tuple(reversed(path))
