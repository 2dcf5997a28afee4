"""The outbox without servers: what is stored, what is sent, and what a wrong record becomes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from cachekeeper.broker.names import TASK
from cachekeeper.consuming.messages import EventMessage, read_message
from cachekeeper.errors import InvalidEvent
from cachekeeper.publishing.wire_format import OutgoingMessage, task_body, task_headers
from cachekeeper.relays.outbox import _ids, _record
from cachekeeper.relays.outbox_relay import _messages, _text
from cachekeeper.settings import OutboxSettings, RelaySettings, Settings
from producers import UserDeleted

if TYPE_CHECKING:
    from collections.abc import Mapping

EVENT = UserDeleted(user_id="42")


def test_a_record() -> None:
    record = _record(EVENT)
    assert json.loads(record["body"]) == EVENT.to_wire()
    assert UserDeleted.from_wire(json.loads(record["body"])) == EVENT
    assert (record["_id"], record["due_at"], record["attempts"]) == (EVENT.id, None, 0)


class Wide(UserDeleted):
    text: str


def test_an_event_that_is_too_long_is_refused_at_the_door() -> None:
    body = len(_record(Wide(user_id="1", text=""))["body"])
    assert _record(Wide(user_id="1", text="x" * (1024 * 1024 - body)))
    with pytest.raises(InvalidEvent, match="event: must be at most 1048576 bytes as JSON, is 1048577"):
        _record(Wide(user_id="1", text="x" * (1024 * 1024 - body + 1)))


@pytest.mark.parametrize(
    ("body", "sent"),
    [
        ('{"id":"a", "type":"t"}', '{"id":"a", "type":"t"}'),  # to the letter
        ('{"id":"a","name":"\\ud800"}', '{"id":"a","name":"\\ud800"}'),
        ('{"type":"t","id":"b"}', '{"type": "t", "id": "a"}'),
        ('{"id":"a","id":"b"}', '{"id": "a"}'),
        ('{"type":"t"}', '{"type": "t", "id": "a"}'),
        ("[1]", '{"id": "a", "body": "[1]"}'),
        ("}{", '{"id": "a", "body": "}{"}'),
        (None, '{"id": "a", "body": "None"}'),
        ({"id": "a"}, '{"id": "a", "body": "{\'id\': \'a\'}"}'),
        ("[" * 100_000, None),
        ("9" * 5000, None),
        ('{"id":"a","x":' + "[" * 300 + "]" * 300 + "}", None),
    ],
)
def test_whatever_a_record_holds_one_event_with_its_id_is_sent(body: object, sent: str | None) -> None:
    text = _text({"_id": "a", "body": body})
    found = json.loads(text)
    assert found["id"] == "a"
    assert text == sent if sent is not None else found["body"] == body


def test_what_is_too_long_for_a_broker_is_cut() -> None:
    found = json.loads(_text({"_id": "a", "body": "x" * (8 * 1024 * 1024 + 1)}))
    assert (found["id"], len(found["body"])) == ("a", 1000)
    # Measured is what is sent, with what is put around the body.
    assert json.loads(_text({"_id": "a", "body": '"' + "x" * (8 * 1024 * 1024 - 2) + '"'}))["problem"]
    assert len(_text({"_id": "a", "body": '"' + "x" * (8 * 1024 * 1024 - 100) + '"'})) > 8 * 1024 * 1024 - 100


def test_messages_hold_many_but_those_that_were_often_published_one() -> None:
    records: list[Mapping[str, Any]] = [
        {"_id": str(n), "body": f'{{"id":"{n}"}}', "attempts": n} for n in (1, 5, 2, 3, 4)
    ]
    ids = [[json.loads(text)["id"] for text in message] for message in _messages(records)]
    assert ids == [["1", "2", "3"], ["5"], ["4"]]


def test_only_ids_that_a_record_can_have_are_looked_for() -> None:
    """Anybody may publish anything; it must neither fail for ever nor name what is not its own."""
    events: list[object] = [
        {"id": "a"},
        {"id": 1},
        {"id": None},
        {},
        None,
        "b",
        ["c"],
        {"id": "\ud800"},
        {"id": "x" * 1025},
        {"id": {"$gt": ""}},
    ]
    assert list(_ids(events)) == ["a"]


class _Message:
    """What kombu hands over."""

    content_type = "application/json"
    errors: tuple[object, ...] = ()

    def __init__(self, headers: dict[str, Any]) -> None:
        self.headers = headers
        self.body = task_body(['{"id":"a"}'])


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        (OutgoingMessage(["{}"], stored=True, id="m").headers, True),
        (task_headers("m", 1), False),
        ({**task_headers("m", 1), "cachekeeper_outbox": "yes"}, False),
        ({"task": TASK, "id": "m", "cachekeeper_outbox": True}, True),
    ],
)
def test_a_message_says_whether_it_is_from_the_outbox(headers: dict[str, Any], *, expected: bool) -> None:
    message: Any = _Message(headers)
    parcel = read_message(message)
    assert isinstance(parcel, EventMessage)
    assert parcel.outbox is expected


def test_the_settings_of_the_relay_are_those_of_all() -> None:
    for kind in (RelaySettings, OutboxSettings):
        for name, field in kind.model_fields.items():
            known = Settings.model_fields[name]
            assert name in {"broker_url", "mongodb_url"} or field.default == known.default
    assert {"redis_url", "modules"} & RelaySettings.model_fields.keys() == set()
