"""The families of histories that are searched, each with the faults that may occur in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from verification.protocol.cells import Protocol
from verification.protocol.dropping import Dropping, drop_histories
from verification.protocol.explorer import Found, search
from verification.protocol.parts import Rules
from verification.protocol.world import World
from verification.protocol.writes import (
    DEADLINES,
    ENDINGS,
    RIGHT,
    SEQUENCES,
    TOLD_DEADLINES,
    History,
    Publishing,
    history,
    legal,
    renames,
)

RULES = Rules()
STEPS = Protocol()


@dataclass(frozen=True)
class Family:
    """Histories to search.

    Attributes:
        name: shown to people, and used to choose a family.
        says: a description.
        histories: the writes to the database.
        rules: what else may happen.
        fine: whether the search is in fine grain (see `world.py`).
    """

    name: str
    says: str
    histories: Callable[[Publishing], list[History]]
    rules: Rules = RULES
    fine: bool = True


def _of(sequences: list[str]) -> Callable[[Publishing], list[History]]:
    return lambda publishing: [history(sequence, publishing) for sequence in sequences]


FAMILIES = (
    Family("writes", "all legal sequences of three writes, out of U, S, N and D", _of(SEQUENCES)),
    Family("endings", "sessions that end, deadlines that are set and passed", _of([*ENDINGS, *DEADLINES])),
    Family(
        "told",
        "deadlines that only events carry; M is not evicted (the docs say what its eviction costs)",
        _of(TOLD_DEADLINES),
        Rules(evict_meta=False, restart=False),
    ),
    Family("shared", "endings, with every read checking the deadline", _of([*ENDINGS, *DEADLINES]), Rules(until=True)),
    Family(
        "foreign",
        "the same, with a late SET by another service; M is not evicted",
        _of([*ENDINGS, *(sequence for sequence in DEADLINES if sequence.endswith("X"))]),
        Rules(until=True, foreign=True, evict_meta=False, restart=False),
    ),
    Family("renames", "a search, and three changes of a product's name", renames),
    Family("drops", "a view is dropped while readers fill", lambda _: drop_histories(), fine=False),
    Family(
        "lagging",
        "a database that answers with older data, as the only fault: one write, no eviction, no lease that runs out",
        _of(["U"]),
        Rules(lagging=True, evict_meta=False, restart=False, lapse=False),
    ),
)
MORE = (
    Family("four writes", "all legal sequences of four writes", _of(legal(4))),
    Family("five writes", "all legal sequences of five writes, in coarse grain", _of(legal(5)), fine=False),
)


@dataclass(frozen=True)
class Variant:
    """A protocol that is wrong in one respect, or the correct one.

    Attributes:
        name: used to choose it.
        says: what it does wrong.
        family: the family whose search shows the error.
        protocol: the steps.
        publishing: how events are made.
        rules: changes to the family's rules.
        passes, metadata: how a view is dropped.
    """

    name: str
    says: str
    family: str
    protocol: Protocol = STEPS
    publishing: Publishing = RIGHT
    rules: tuple[tuple[str, bool], ...] = ()
    passes: int = 2
    metadata: bool = True


def family_of(name: str) -> Family:
    return next(family for family in (*FAMILIES, *MORE) if family.name == name)


def space(
    family: Family, variant: Variant, happens: History, *, fine: bool, only_stuck: bool = False
) -> World | Dropping:
    """Return the search space of one history under one variant."""
    changes: dict[str, Any] = dict(variant.rules)
    rules = replace(family.rules, fine=fine, only_stuck=only_stuck, **changes)
    if family.name == "drops":
        return Dropping(happens, variant.protocol, rules, passes=variant.passes, metadata=variant.metadata)
    return World(happens, variant.protocol, rules)


def nearest(variant: Variant, *, only_stuck: bool = False) -> tuple[World | Dropping, Found[Any]] | None:
    """Return the shortest path to a bad state, over all histories of the variant's family."""
    family = family_of(variant.family)
    best: tuple[World | Dropping, Found[Any]] | None = None
    for happens in family.histories(variant.publishing):
        searched = space(family, variant, happens, fine=False, only_stuck=only_stuck)
        # Search only for shorter paths than the best one so far.
        found: Found[Any] = search(searched, deepest=None if best is None else best[1].depth - 1)
        if found.problem is not None:
            best = (searched, found)
    return best
