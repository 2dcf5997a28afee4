"""Dead letters on real servers: what a worker keeps, and what `cachekeeper dead` shows, publishes again and drops."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from kombu import Connection
from redis import Redis

from cachekeeper import cli
from cachekeeper.broker.names import QUEUE
from cachekeeper.broker.queues import transport_options
from cachekeeper.consuming.dead_letter_admin import DeadLetters
from cachekeeper.consuming.dead_letters import mask
from cachekeeper.consuming.messages import Failures, Poison, read_message
from cachekeeper.consuming.processor import Processor, Verdict
from cachekeeper.model.registry import Registry, load_registry
from cachekeeper.publishing.publisher import Publisher
from cachekeeper.publishing.wire_format import OutgoingMessage, task_body, task_headers
from producers import UserLoggedOut
from testkit.leftovers import CACHEKEEPER, ROOT
from testkit.patient_publishing import ANSWER_SECONDS, PUBLISH_SECONDS
from testkit.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from kombu import Message

    from cachekeeper.model.commands import Command
    from testkit.shop import Shop

# How many messages there are is told exactly.
pytestmark = pytest.mark.usefixtures("patient_publishing")

MODULES = ("producers", "lookups", "worker")
TOKEN = "correct-horse-battery-staple"
SESSION = "session-4711471147"
LOGOUT = UserLoggedOut(id="e1", token_id=TOKEN, session_id=SESSION, user_id="42")


def broken() -> Registry:
    """A deployment whose handler of logouts has a bug, and an error that quotes what it should not."""
    registry = load_registry(MODULES)

    def handle(event: UserLoggedOut) -> list[Command]:
        raise RuntimeError(f"no place for {event.token_id!r} of {event.session_id!r}\x1b[2J")

    registry.handlers[UserLoggedOut] = handle
    return registry


@dataclass
class Ran:
    """How a command ended."""

    status: int | str | None
    out: str
    err: str

    @property
    def rows(self) -> list[dict[str, str]]:
        """What `list` printed."""
        header, *rows = (line.split("\t") for line in self.out.splitlines())
        return [dict(zip(header, row, strict=True)) for row in rows]


class Desk:
    """One test's letters, broker and workers. The broker is database 1 of the shop's Redis."""

    def __init__(self, shop: Shop, run: Callable[..., Ran]) -> None:
        self.shop = shop
        self.url = f"redis://127.0.0.1:{shop.server.port}/1"
        self.broker = Redis.from_url(self.url)
        self.connection = Connection(self.url, transport_options=transport_options(self.url, ANSWER_SECONDS))
        self.deliveries: list[Processor] = []
        self.mended = self.worker(load_registry(MODULES))
        self.broken = self.worker(broken())
        self.run = run

    def worker(self, registry: Registry, **changes: Any) -> Processor:
        delivery = Processor(self.shop.settings(broker_url=self.url, **changes), registry)
        self.deliveries.append(delivery)
        delivery.indexes.look()
        delivery.pause.start()
        assert delivery.pause.is_over
        return delivery

    def fail(self, *bodies: object, message_id: str = "m1") -> None:
        """A message with these in the place of events comes to the broken worker."""
        message = FakeMessage(task_body([json.dumps(body) for body in bodies]), task_headers(message_id, len(bodies)))
        self.work(self.broken, message)

    def work(self, delivery: Processor, message: Any) -> None:
        assert delivery.process([read_message(message)]) == [Verdict.DONE]

    def work_all(self, delivery: Processor) -> int:
        """Deal with all messages that wait; how many they were."""
        messages = 0
        channel: Any = self.connection.default_channel
        while (message := channel.basic_get(QUEUE, no_ack=True)) is not None:
            messages += 1
            self.work(delivery, message)
        return messages

    @property
    def letters(self) -> list[dict[str, Any]]:
        return list(self.shop.db["dead_letters"].find().sort("first_at", 1))

    def close(self) -> None:
        for delivery in self.deliveries:
            delivery.pause.stop()
            delivery.keeper.close()
        self.connection.release()
        self.broker.close()


class FakeMessage:
    """What the broker delivers, as far as it is read."""

    errors: tuple[object, ...] = ()
    content_type = "application/json"

    def __init__(self, body: bytes, headers: dict[str, Any]) -> None:
        self.body, self.headers = body, headers


@pytest.fixture
def desk(shop: Shop, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Desk]:
    def run(*arguments: str, **environment: str) -> Ran:
        """`cachekeeper dead`, in this process."""
        with monkeypatch.context() as patch:
            for name in [name for name in os.environ if name.startswith("CACHEKEEPER_")]:
                patch.delenv(name)
            for name, value in environment_of(made).items():
                patch.setenv(name, environment.get(name, value))
            patch.setattr(sys, "argv", ["cachekeeper", "dead", *arguments])
            capsys.readouterr()
            with pytest.raises(SystemExit) as ended:
                cli.main()
        printed = capsys.readouterr()
        assert_nothing_told(printed.out + printed.err + str(ended.value))
        return Ran(ended.value.code, printed.out, printed.err)

    made = Desk(shop, run)
    yield made
    made.close()


def environment_of(desk: Desk) -> Mapping[str, str]:
    """No Redis cache: looking after letters needs none."""
    return {
        "CACHEKEEPER_MONGODB_URL": desk.shop.mongo.url_of(desk.shop.name),
        "CACHEKEEPER_BROKER_URL": desk.url,
        "CACHEKEEPER_PUBLISH_TIMEOUT_SECONDS": str(PUBLISH_SECONDS),
        "CACHEKEEPER_LOAD_TIMEOUT_SECONDS": "10",
    }


def assert_nothing_told(text: str) -> None:
    for secret in (TOKEN, SESSION, "4711471147", "battery"):
        assert secret not in text


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
    assert {row["event"] for row in ran.rows[:2]} == {"-", "user.updated"}  # the latest first
    row = ran.rows[2]
    assert (row["event"], row["count"]) == ("user.logged_out", "2")
    assert row["reason"] == f"RuntimeError: no place for '{mask(TOKEN)}' of '{mask(SESSION)}'\\x1b[2J"
    assert desk.letters[0]["_id"].startswith(row["letter"])
    assert datetime.fromisoformat(row["first"]) <= datetime.fromisoformat(row["last"]) <= datetime.now(UTC)


@pytest.mark.parametrize(
    ("arguments", "events"),
    [
        (["--type", "user.updated"], ["user.updated"]),
        (["--error", "UnknownEvent"], ["-"]),
        (["--reason", "name: is missing"], ["user.updated"]),
        (["--reason", ".*"], []),  # literally
        (["--type", "user.updated", "--error", "RuntimeError"], []),
    ],
)
def test_list_filters(desk: Desk, arguments: list[str], events: list[str]) -> None:
    desk.fail(LOGOUT.to_wire(), {"type": "user.renamed"}, {"type": "user.updated", "user_id": "1"})
    assert [row["event"] for row in desk.run("list", *arguments).rows] == events


def test_list_says_how_many_it_leaves_out(desk: Desk) -> None:
    desk.fail(*({"type": f"user.renamed{n}"} for n in range(7)))
    ran = desk.run("list", "--limit", "3")
    assert len(ran.rows) == 3
    assert ran.err == "3 of 7; --limit shows more\n"
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
    assert "reason: InvalidEvent: message: it is not JSON" in ran.out
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


def test_a_letter_is_published_again_and_applied(desk: Desk) -> None:
    desk.fail(LOGOUT.to_wire(), {"type": "user.renamed"})
    letter = next(letter for letter in desk.letters if letter["type"])
    assert desk.run("replay", letter["_id"][:12]) == Ran(0, "published 1\n", "")
    assert [letter["type"] for letter in desk.letters] == [None]
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
    assert ran.out == "published 1\nno event 3\n"
    assert "cachekeeper dead drop" in ran.err
    assert len(desk.letters) == 3
    assert desk.run("drop", "--all", "--error", "UnknownEvent").out == "dropped 1\n"
    assert desk.run("drop", *(letter["_id"] for letter in desk.letters)).out == "dropped 2\n"
    assert desk.letters == []


@pytest.mark.parametrize("command", ["replay", "drop"])
@pytest.mark.parametrize("arguments", [[], ["--error", "RuntimeError"], ["--all", "0123456789"]])
def test_all_letters_are_asked_for_by_name(desk: Desk, command: str, arguments: list[str]) -> None:
    desk.fail(LOGOUT.to_wire())
    assert desk.run(command, *arguments).status == "cachekeeper: LETTER: give ids of letters, or --all"
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
