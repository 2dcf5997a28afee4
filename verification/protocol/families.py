"""What is searched: families of histories, each with the faults that may come with them."""

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
        name: for people, and for choosing.
        says: what it is about.
        histories: what happens in the database.
        rules: what may happen besides.
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
        "deadlines that only events know of; M stays (the docs say what its eviction costs)",
        _of(TOLD_DEADLINES),
        Rules(evict_meta=False, restart=False),
    ),
    Family("shared", "endings, but read together with their deadline", _of([*ENDINGS, *DEADLINES]), Rules(until=True)),
    Family(
        "foreign",
        "the same, with a late SET by others; M stays",
        _of([*ENDINGS, *(sequence for sequence in DEADLINES if sequence.endswith("X"))]),
        Rules(until=True, foreign=True, evict_meta=False, restart=False),
    ),
    Family("renames", "a search, and three changes of a product's name", renames),
    Family("drops", "a view is dropped while readers fill", lambda _: drop_histories(), fine=False),
    Family(
        "lagging",
        "a database that answers with older data, on its own: nothing evicted, no lease runs out, one write",
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
    """A protocol that is wrong in one respect, or the right one.

    Attributes:
        name: for choosing it.
        says: what it does wrong.
        family: where that shows.
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
    """The search space of one history under one variant."""
    changes: dict[str, Any] = dict(variant.rules)
    rules = replace(family.rules, fine=fine, only_stuck=only_stuck, **changes)
    if family.name == "drops":
        return Dropping(happens, variant.protocol, rules, passes=variant.passes, metadata=variant.metadata)
    return World(happens, variant.protocol, rules)


def nearest(variant: Variant, *, only_stuck: bool = False) -> tuple[World | Dropping, Found[Any]] | None:
    """The shortest way into a bad state, over all histories of the variant's family."""
    family = family_of(variant.family)
    best: tuple[World | Dropping, Found[Any]] | None = None
    for happens in family.histories(variant.publishing):
        searched = space(family, variant, happens, fine=False, only_stuck=only_stuck)
        # A way as long as the best one is not better.
        found: Found[Any] = search(searched, deepest=None if best is None else best[1].depth - 1)
        if found.problem is not None:
            best = (searched, found)
    return best
