"""Dead letters on real servers: what a worker keeps, and what `cachekeeper dead` shows, publishes again and drops."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from cachekeeper.consuming.dead_letters import mask
from cachekeeper.model.registry import load_registry
from cachekeeper.publishing.wire_format import task_headers
from testkit.waiting import wait_until
from tests.integration.consuming.dead_letter_desk import (
    LOGOUT,
    MODULES,
    SESSION,
    TOKEN,
    Desk,
    FakeMessage,
    Ran,
    assert_nothing_told,
)

# How many messages there are is told exactly.
pytestmark = pytest.mark.usefixtures("patient_publishing")

# --- what a worker keeps ---------------------------------------------------------------------------------------------


def test_the_same_event_that_fails_again_is_counted(desk: Desk) -> None:
    for _ in range(3):
        desk.fail(LOGOUT.to_wire())
    (letter,) = desk.letters
    assert letter["count"] == 3
    assert letter["first_at"] < letter["last_at"]
    assert (letter["type"], letter["error"]) == ("user.logged_out", "RuntimeError")
    assert mask(TOKEN) in letter["reason"]
    assert json.loads(letter["body"]) == LOGOUT.to_wire()
    desk.fail({**LOGOUT.to_wire(), "id": "e2"})
    assert [letter["count"] for letter in desk.letters] == [3, 1]


def test_what_looks_like_a_field_of_mongodb_is_kept_as_it_is(desk: Desk) -> None:
    bodies: list[object] = ["$count", "$$NOW", {"type": "$reason", "$set": {"count": 9}}]
    desk.fail(*bodies)
    assert [json.loads(letter["body"]) for letter in desk.letters] == bodies
    assert {letter["count"] for letter in desk.letters} == {1}


def test_letters_are_kept_for_a_stated_time(desk: Desk) -> None:
    letters = desk.shop.db["dead_letters"]
    assert letters.index_information()["last_at_1"]["expireAfterSeconds"] == 30 * 86_400
    desk.fail(LOGOUT.to_wire())
    desk.fail({"type": "user.renamed"})
    month = timedelta(days=30)
    letters.update_one(
        {"type": "user.logged_out"},
        [{"$set": {"last_at": {"$subtract": ["$last_at", month // timedelta(milliseconds=1)]}}}],
    )
    wait_until(lambda: len(desk.letters) == 1, "the old letter gone", 90)
    assert desk.letters[0]["error"] == "UnknownEvent"
    desk.worker(load_registry(MODULES), dead_letter_seconds=3600)
    assert letters.index_information()["last_at_1"]["expireAfterSeconds"] == 3600


def test_nothing_secret_is_logged(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    desk.fail(LOGOUT.to_wire(), {**LOGOUT.to_wire(), "token": TOKEN, "version": True}, {"type": TOKEN})
    desk.run("replay", "--all")
    desk.work_all(desk.broken)
    assert len(desk.letters) == 3
    assert "RuntimeError" in caplog.text
    assert_nothing_told(caplog.text)


# --- list and show ---------------------------------------------------------------------------------------------------


def test_list(desk: Desk) -> None:
    assert desk.run("list") == Ran(0, "letter\tevent\tcount\tfirst\tlast\treason\n", "")
    desk.fail(LOGOUT.to_wire())
    desk.fail(LOGOUT.to_wire())
    desk.fail({"type": "user.renamed", "token_id": TOKEN}, {"type": "user.updated", "user_id": "1"})
    ran = desk.run("list")
    assert ran.status == 0
    assert {row["event"] for row in ran.rows[:2]} == {"user.renamed", "user.updated"}  # the latest first
    row = ran.rows[2]
    assert (row["event"], row["count"]) == ("user.logged_out", "2")
    assert row["reason"] == f"RuntimeError: no place for '{mask(TOKEN)}' of '{mask(SESSION)}'\\x1b[2J"
    assert desk.letters[0]["_id"].startswith(row["letter"])
    assert datetime.fromisoformat(row["first"]) <= datetime.fromisoformat(row["last"]) <= datetime.now(UTC)


@pytest.mark.parametrize(
    ("arguments", "events"),
    [
        (["--type", "user.updated"], ["user.updated"]),
        (["--error", "UnknownEvent"], ["user.renamed"]),
        (["--type", "user.renamed"], ["user.renamed"]),
        (["--reason", "name: is missing"], ["user.updated"]),
        (["--reason", ".*"], []),  # literally
        (["--type", "user.updated", "--error", "RuntimeError"], []),
    ],
)
def test_list_filters(desk: Desk, arguments: list[str], events: list[str]) -> None:
    desk.fail(LOGOUT.to_wire(), {"type": "user.renamed"}, {"type": "user.updated", "user_id": "1"})
    assert [row["event"] for row in desk.run("list", *arguments).rows] == events


def test_documents_of_others_are_neither_listed_nor_removed(desk: Desk) -> None:
    desk.fail(LOGOUT.to_wire())
    (ours,) = desk.letters
    fields = [name for name in ours if name not in {"_id", "type"}]
    foreign: list[dict[str, Any]] = [
        {"_id": 1},
        {"_id": "ab12", "body": 5},
        *({**ours, "_id": f"no {name}", name: {}} for name in fields),
    ]
    letters = desk.shop.db["dead_letters"]
    letters.insert_many(foreign)
    assert [row["event"] for row in desk.run("list").rows] == ["user.logged_out"]
    assert "no dead letter has an id that begins with ab12" in str(desk.run("show", "ab12").status)
    assert desk.run("drop", "--all").status == 0
    assert letters.count_documents({}) == len(foreign)


def test_list_says_how_many_it_leaves_out(desk: Desk) -> None:
    desk.fail(*({"type": f"user.renamed{n}"} for n in range(7)))
    ran = desk.run("list", "--limit", "3")
    assert len(ran.rows) == 3
    assert ran.err == "3 of 7 are listed; use --limit to list more\n"
    assert desk.run("list", "--limit", "7").err == ""


def test_show(desk: Desk) -> None:
    desk.fail(LOGOUT.to_wire())
    ran = desk.run("show", desk.letters[0]["_id"][:6])
    assert ran.status == 0
    assert "count: 1\n" in ran.out
    assert "reason: RuntimeError: no place for" in ran.out
    assert f'"token_id": "{mask(TOKEN)}"' in ran.out
    assert f'"session_id": "{mask(SESSION)}"' in ran.out
    assert '"user_id": "42"' in ran.out
    assert "Traceback (most recent call last):\n" in ran.out
    assert "\x1b" not in ran.out


def test_show_of_what_was_no_message(desk: Desk) -> None:
    desk.work(desk.broken, FakeMessage(f"no JSON, and {TOKEN}".encode(), task_headers("m1", 1)))
    ran = desk.run("show", desk.letters[0]["_id"])
    assert "reason: InvalidEvent: message: its body is not JSON" in ran.out
    assert '"<masked ' in ran.out


@pytest.mark.parametrize("arguments", [["show", "{}"], ["replay", "{}"], ["drop", "{}"]])
@pytest.mark.parametrize(
    ("prefix", "said"),
    [
        ("abc", "at least 4"),
        ("....", "the beginning of an id"),
        (TOKEN, "the beginning of an id"),
        ("0000000000", "no dead letter has an id"),
        ("7777", "several dead letters"),
    ],
)
def test_letters_that_cannot_be_told(desk: Desk, arguments: list[str], prefix: str, said: str) -> None:
    desk.fail(LOGOUT.to_wire())
    (letter,) = desk.letters
    for end in ("0", "1"):
        desk.shop.db["dead_letters"].insert_one({**letter, "_id": "7777" + end * 60})
    before = desk.letters
    ran = desk.run(*(part.format(prefix) for part in arguments))
    assert str(ran.status).startswith("cachekeeper: LETTER: ")
    assert said in str(ran.status)
    assert desk.letters == before
    assert not desk.work_all(desk.mended)


# --- replay ----------------------------------------------------------------------------------------------------------
