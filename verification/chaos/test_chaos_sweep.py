"""The sweep of a fault-injection run finds each kind of violation that it must find, in made-up keys."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from verification.chaos.sweep import TOLERANCE_MS, Held, Stored, judge, judge_committed
from verification.chaos.workload import BLOCK_SECONDS, BLOCKED, ENDED, Change, Kind

ENDS = datetime(2026, 11, 25, 12, tzinfo=UTC)
ENDS_MS = round(ENDS.timestamp() * 1000)
LEEWAY_MS = 60_000
LAMP = {"_id": "p", "name": "Lamp p0", "version": 2, "number": 2}
STORED = Stored(
    users={"u": {"_id": "u", "name": "u #3", "version": 3}},
    products={"p": LAMP},
    sessions={"s": {"_id": "s", "data": {"id": "s", "number": 2}, "version": 9}, "e": {"_id": "e", "ended_at": ENDS}},
    blocks={"t": {"_id": "t", "expires_at": ENDS}},
)
RIGHT = (
    Held(Kind.USER, "u", b"u #3", version=3),
    Held(Kind.USER, "u", None, version=3),
    Held(Kind.SESSION, "s", json.dumps(STORED.sessions["s"]["data"]).encode(), version=9),
    Held(Kind.SESSION, "e", None),
    Held(Kind.SEARCH, "lamp", json.dumps([LAMP]).encode()),
    Held(Kind.SEARCH, "sofa", b"[]"),
    Held(Kind.TOKEN, "t", b"true", ends=ENDS_MS + LEEWAY_MS),
)
BLOCK = RIGHT[-1]


def kinds(*held: Held, stored: Stored = STORED) -> list[str]:
    """Return the kinds of the violations in these keys. All keys except blocks are given an early end."""
    ending = [each if each.kind == Kind.TOKEN else replace(each, ends=1) for each in held]
    return [violation.kind for violation in judge(ending, stored, LEEWAY_MS)]


def test_what_is_right_is_right() -> None:
    assert kinds(*RIGHT) == []


@pytest.mark.parametrize(
    "held",
    [
        Held(Kind.USER, "u", b"u #2", version=3),
        Held(Kind.USER, "gone", b"gone #1"),
        Held(Kind.USER, "u", ValueError("WRONGTYPE")),
        Held(Kind.SESSION, "s", b'{"id": "s", "number": 1}'),
        Held(Kind.SESSION, "e", b'{"id": "e", "number": 1}'),
        Held(Kind.SESSION, "s", b"no JSON"),
        Held(Kind.SEARCH, "lamp", b"[]"),
        Held(Kind.SEARCH, "sofa", json.dumps([LAMP]).encode()),
        Held(Kind.SEARCH, "lamp", json.dumps([{**LAMP, "number": 1}]).encode()),
        Held(Kind.TOKEN, "t", None),
        Held(Kind.TOKEN, "free", b"true", ends=ENDS_MS),
    ],
    ids=str,
)
def test_a_key_that_differs_from_mongodb_is_stuck(held: Held) -> None:
    assert kinds(held) == ["stuck"]


@pytest.mark.parametrize("off", [-TOLERANCE_MS - 1, TOLERANCE_MS + 1, -3_600_000])
def test_a_block_must_end_when_its_document_says(off: int) -> None:
    assert kinds(replace(BLOCK, ends=ENDS_MS + LEEWAY_MS + off)) == ["block_ttls"]


def test_a_block_without_an_end_is_one_whose_document_has_none() -> None:
    assert kinds(replace(BLOCK, ends=None)) == ["block_ttls"]
    endless = replace(STORED, blocks={"t": {"_id": "t", "expires_at": None}})
    assert kinds(replace(BLOCK, ends=None), stored=endless) == []
    assert kinds(BLOCK, stored=endless) == ["block_ttls"]


def test_a_document_must_block_for_as_long_as_was_asked() -> None:
    wall = ENDS_MS - BLOCK_SECONDS * 1000 + 999
    change = Change(Kind.TOKEN, "t", 1, BLOCKED, 0, 1, (wall, wall + 1))
    found = [violation.kind for violation in judge_committed([change], STORED)]
    assert found == []
    earlier = replace(STORED, blocks={"t": {"_id": "t", "expires_at": ENDS - timedelta(hours=1)}})
    assert [violation.kind for violation in judge_committed([change], earlier)] == ["block_ttls"]
    assert [violation.kind for violation in judge_committed([change], replace(STORED, blocks={}))] == ["block_ttls"]
    assert judge_committed([change._replace(committed=None)], Stored()) == []


@pytest.mark.parametrize(("held", "seconds"), [(RIGHT[0], 3600), (RIGHT[2], 1800), (RIGHT[5], 600)], ids=str)
def test_no_value_outlives_its_views_values(held: Held, seconds: int) -> None:
    def said(ends: int | None, stored: Stored = STORED) -> list[str]:
        return [violation.kind for violation in judge([replace(held, ends=ends, now=ENDS_MS)], stored, LEEWAY_MS)]

    latest = ENDS_MS + seconds * 1000 + TOLERANCE_MS
    assert said(latest) == []
    assert said(latest + 1) == said(None) == ["ttls"]
    if held.kind == Kind.SESSION:
        stored = replace(STORED, sessions={"s": {**STORED.sessions["s"], "expires_at": ENDS}})
        assert said(ENDS_MS, stored) == []
        assert said(ENDS_MS + TOLERANCE_MS + 1, stored) == ["ttls"]


def test_a_session_that_was_ended_has_ended_in_mongodb() -> None:
    change = Change(Kind.SESSION, "e", ENDED, None, 0, 1, (0, 1))
    alive: dict[str, object] = {"_id": "e", "data": {}, "ended_at": None}
    assert judge_committed([change], STORED) == []
    wrong: tuple[dict[str, dict[str, object]], ...] = ({"e": alive}, {"e": {**alive, "ended_at": ENDS}}, {})
    for sessions in wrong:
        found = judge_committed([change], replace(STORED, sessions=sessions))
        assert [violation.kind for violation in found] == ["lost"]
    assert judge_committed([change._replace(committed=None)], Stored()) == []


@pytest.mark.parametrize("held", [RIGHT[0], RIGHT[1], RIGHT[2]], ids=str)
def test_a_marker_above_the_document_would_refuse_every_fill(held: Held) -> None:
    assert held.version is not None
    assert kinds(replace(held, version=held.version + 1)) == ["markers_ahead"]
    assert kinds(replace(held, version=held.version - 1)) == []
