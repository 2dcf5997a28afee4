"""Dead letters: what is published again, and when a letter is removed."""

from __future__ import annotations

import json
import os
import subprocess
from datetime import UTC
from typing import TYPE_CHECKING, Any

import pytest

from cachekeeper.broker.names import QUEUE
from cachekeeper.consuming.dead_letter_admin import DeadLetters
from cachekeeper.consuming.messages import Failures, Poison, read_message
from cachekeeper.publishing.publisher import Publisher
from cachekeeper.publishing.wire_format import OutgoingMessage, task_body, task_headers
from testkit.leftovers import CACHEKEEPER, ROOT
from tests.integration.consuming.dead_letter_desk import (
    LOGOUT,
    TOKEN,
    Desk,
    FakeMessage,
    Ran,
    assert_nothing_told,
    environment_of,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kombu import Message

pytestmark = pytest.mark.usefixtures("patient_publishing")


def test_a_letter_is_published_again_and_applied(desk: Desk) -> None:
    desk.fail(LOGOUT.to_wire(), {"type": "user.renamed"})
    letter = next(letter for letter in desk.letters if letter["type"] == "user.logged_out")
    assert desk.run("replay", letter["_id"][:12]) == Ran(0, "published 1\n", "")
    assert [letter["type"] for letter in desk.letters] == ["user.renamed"]
    assert desk.work_all(desk.mended) == 1
    assert desk.shop.redis.get(f"blocked:{TOKEN}") == b"true"
    assert len(desk.letters) == 1


def test_an_event_that_fails_again_comes_back_with_its_count_raised(desk: Desk) -> None:
    for _ in range(3):
        desk.fail(LOGOUT.to_wire())
    (before,) = desk.letters
    for failures in (4, 5):
        assert desk.run("replay", "--all").out == "published 1\n"
        assert desk.letters == []
        assert desk.work_all(desk.broken) == 1
        (letter,) = desk.letters
        assert letter["count"] == failures
        assert letter["first_at"] == before["first_at"]
        assert letter["last_at"] > before["last_at"]
        assert letter["_id"] == before["_id"]


def fail_at_once(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Publish · the worker: it fails · remove: the order that must not lose the letter."""
    send = Publisher.send

    def send_and_fail(self: Publisher, message: OutgoingMessage) -> None:
        send(self, message)
        assert desk.work_all(desk.broken) == 1

    monkeypatch.setattr(Publisher, "send", send_and_fail)


def test_an_event_that_fails_before_its_letter_is_removed_keeps_it(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.fail(LOGOUT.to_wire())
    fail_at_once(desk, monkeypatch)
    assert desk.run("replay", "--all").out == "published 1\nfailed again 1\n"
    (letter,) = desk.letters
    assert letter["count"] == 2


def test_mutant_removal_by_id_alone_loses_the_letter(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def remove(self: DeadLetters, found: Mapping[str, Any]) -> bool:
        return self._letters.delete_one({"_id": found["_id"]}).deleted_count == 1

    monkeypatch.setattr(DeadLetters, "_remove", remove)
    desk.fail(LOGOUT.to_wire())
    fail_at_once(desk, monkeypatch)
    desk.run("replay", "--all")
    assert desk.letters == []  # which the test above would notice


def test_a_letter_is_removed_only_after_the_confirmation(desk: Desk) -> None:
    desk.fail(LOGOUT.to_wire())
    before = desk.letters
    nowhere = {"CACHEKEEPER_BROKER_URL": "redis://127.0.0.1:1/0", "CACHEKEEPER_PUBLISH_TIMEOUT_SECONDS": "1"}
    ran = desk.run("replay", "--all", **nowhere)
    assert str(ran.status).startswith("cachekeeper: the broker did not confirm the event")
    assert ran.out == "published 0\n"
    assert desk.letters == before


def test_what_is_published_again_is_not_replayed_twice_in_one_run(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.fail(*({**LOGOUT.to_wire(), "id": f"e{n}"} for n in range(5)))
    fail_at_once(desk, monkeypatch)
    assert desk.run("replay", "--all").out == "published 5\nfailed again 5\n"
    assert [letter["count"] for letter in desk.letters] == [2] * 5


def test_each_letter_travels_alone_and_carries_its_failures(desk: Desk) -> None:
    desk.fail(LOGOUT.to_wire(), {"type": "user.renamed"})
    (first_at,) = {letter["first_at"].replace(tzinfo=UTC) for letter in desk.letters}
    desk.run("replay", "--all")
    channel: Any = desk.connection.default_channel
    for _ in range(2):
        message: Message = channel.basic_get(QUEUE, no_ack=True)
        parcel = read_message(message)
        assert not isinstance(parcel, Poison)
        assert len(parcel.events) == 1
        assert parcel.failures == Failures(1, first_at)


@pytest.mark.parametrize(
    "header", [None, 5, [], [1], [1, 2, 3], ["1", 2], [True, 2], [0, 2], [-1, 2], [1 << 31, 2], [1, -1], [1, 1 << 60]]
)
def test_failures_that_somebody_else_wrote_count_for_nothing(desk: Desk, header: object) -> None:
    headers = {**task_headers("m1", 1), "cachekeeper_letter": header}
    desk.work(desk.broken, FakeMessage(task_body([json.dumps(LOGOUT.to_wire())]), headers))
    (letter,) = desk.letters
    assert letter["count"] == 1


def test_what_holds_no_event_is_not_published_and_can_be_dropped(desk: Desk) -> None:
    desk.work(desk.broken, FakeMessage(b"no JSON", task_headers("m1", 1)))
    desk.fail(5, {"type": "user.renamed", "name": "x" * 4_300_000}, LOGOUT.to_wire())
    ran = desk.run("replay", "--all")
    assert ran.out == "published 1\nkept, without an event 3\n"
    assert "cachekeeper dead drop" in ran.err
    assert len(desk.letters) == 3
    assert desk.run("drop", "--all", "--error", "UnknownEvent").out == "dropped 1\n"
    assert desk.run("drop", *(letter["_id"] for letter in desk.letters)).out == "dropped 2\n"
    assert desk.letters == []


@pytest.mark.parametrize("command", ["replay", "drop"])
@pytest.mark.parametrize("arguments", [[], ["--error", "RuntimeError"], ["--all", "0123456789"]])
def test_all_letters_are_asked_for_by_name(desk: Desk, command: str, arguments: list[str]) -> None:
    desk.fail(LOGOUT.to_wire())
    assert desk.run(command, *arguments).status == "cachekeeper: LETTER: give either ids of dead letters, or --all"
    assert len(desk.letters) == 1


def test_the_command_as_users_run_it(desk: Desk) -> None:
    desk.fail(LOGOUT.to_wire())
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CACHEKEEPER_")}

    def run(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*CACHEKEEPER, "dead", *arguments],
            env={**environment, **environment_of(desk), **more},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    ran = run("list")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert len(ran.stdout.splitlines()) == 2
    away = run("list", CACHEKEEPER_MONGODB_URL="mongodb://127.0.0.1:1/none", CACHEKEEPER_LOAD_TIMEOUT_SECONDS="0.5")
    assert away.returncode == 1
    assert away.stderr.startswith("cachekeeper: MongoDB failed while listing dead letters")
    assert_nothing_told(ran.stdout + away.stdout + away.stderr)
