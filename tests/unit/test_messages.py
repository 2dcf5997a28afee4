"""Whatever lies in the queue is read, or told apart as poison; nothing raises."""

import json
from typing import Any

import pytest
from kombu import Message

from cachekeeper.consuming.messages import EventMessage, Poison, read_message
from cachekeeper.publishing.wire_format import task_body, task_headers
from testkit.counting import counted

GOOD_HEADERS = task_headers("m1", 1)
EVENT = {"type": "user.deleted", "user_id": "42"}
GOOD_BODY = task_body([json.dumps(EVENT)])


def message(body: object = GOOD_BODY, headers: object = GOOD_HEADERS, content_type: object = "application/json") -> Any:
    found = Message(body, content_type=content_type, content_encoding="utf-8")  # type: ignore[arg-type]  # on purpose
    found.headers = headers  # type: ignore[assignment]
    return found


def test_what_a_publisher_sends() -> None:
    assert read_message(message()) == EventMessage("m1", [EVENT])


def test_what_a_publisher_sends_is_what_celery_sends() -> None:
    arguments, keywords, embed = json.loads(task_body([json.dumps(EVENT), json.dumps(EVENT)]))
    assert (arguments, keywords) == ([[EVENT, EVENT]], {})
    assert set(embed) == {"callbacks", "errbacks", "chain", "chord"}
    assert not any(embed.values())


@pytest.mark.parametrize("body", [bytearray(GOOD_BODY), memoryview(GOOD_BODY), GOOD_BODY.decode()])
def test_a_body_in_any_form(body: object) -> None:
    assert read_message(message(body)) == EventMessage("m1", [EVENT])


def test_protocol_1() -> None:
    body: dict[str, Any] = {"task": "cachekeeper.apply", "id": "m2", "args": [[EVENT]], "kwargs": {}, "expires": None}
    assert read_message(message(json.dumps(body), {})) == EventMessage("m2", [EVENT])


def test_callbacks_and_times_are_not_obeyed() -> None:
    body: list[Any] = [[[EVENT]], {}, {"callbacks": [{"task": "cachekeeper.apply"}], "chain": [{"task": "x"}]}]
    headers = {**GOOD_HEADERS, "eta": "2031-01-01T00:00:00", "expires": "no time at all", "retries": "x"}
    assert read_message(message(json.dumps(body), headers)) == EventMessage("m1", [EVENT])


def test_events_need_not_be_objects_to_be_delivered() -> None:
    # Each is refused for itself, beside good ones.
    assert read_message(message(task_body(["5", "null", json.dumps(EVENT)]))) == EventMessage("m1", [5, None, EVENT])


WRONG: dict[str, tuple[Any, ...]] = {
    "no JSON": (b"{", GOOD_HEADERS),
    "empty": (b"", GOOD_HEADERS),
    "not UTF-8": (b"[[[]],{},{}]\xff", GOOD_HEADERS),
    "none at all": (None, GOOD_HEADERS),
    "an object": (b"{}", GOOD_HEADERS),
    "a number": (b"5", GOOD_HEADERS),
    "null": (b"null", GOOD_HEADERS),
    "a list of two": (b"[[[]],{}]", GOOD_HEADERS),
    "a bare event": (json.dumps(EVENT).encode(), {}),
    "no headers": (GOOD_BODY, None),
    "headers that are none": (GOOD_BODY, 5),
    "headers that are a list": (GOOD_BODY, ["task"]),
    "another task": (GOOD_BODY, {**GOOD_HEADERS, "task": "celery.ping"}),
    "a task that is no name": (GOOD_BODY, {**GOOD_HEADERS, "task": ["cachekeeper.apply"]}),
    "no id": (GOOD_BODY, {name: value for name, value in GOOD_HEADERS.items() if name != "id"}),
    "an empty id": (GOOD_BODY, {**GOOD_HEADERS, "id": ""}),
    "an id that cannot be looked up": (GOOD_BODY, {**GOOD_HEADERS, "id": {}}),
    "keyword arguments": (b'[[[]],{"events":[]},{}]', GOOD_HEADERS),
    "no argument": (b"[[],{},{}]", GOOD_HEADERS),
    "two arguments": (b"[[[],[]],{},{}]", GOOD_HEADERS),
    "an argument that is no list": (b'[[{"type":"x"}],{},{}]', GOOD_HEADERS),
    "arguments that are no list": (b'["ab",{},{}]', GOOD_HEADERS),
    "nested too deeply to read": (b"[" * 100_000, GOOD_HEADERS),
    "a number of 5000 digits": (task_body(["9" * 5000]), GOOD_HEADERS),
    "pickle": (b"cos\nsystem\n", GOOD_HEADERS, "application/x-python-serialize"),
    "no content type": (GOOD_BODY, GOOD_HEADERS, None),
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG.keys())
def test_poison(wrong: tuple[Any, ...]) -> None:
    found = read_message(message(*wrong))
    assert isinstance(found, Poison)
    assert found.id
    assert found.reason
    assert isinstance(found.body, str)
    found.body.encode()  # can be kept


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG.keys())
def test_poison_is_known_again_when_it_is_redelivered(wrong: tuple[Any, ...]) -> None:
    """Else its failures are never counted, and nothing slows a worker down that cannot keep its dead letter."""
    assert read_message(message(*wrong)).id == read_message(message(*wrong)).id
    assert read_message(message(*wrong)).id != read_message(message(b"[[other")).id


def test_what_cannot_be_unpacked_is_poison() -> None:
    found = message()
    found.errors.append(("type", "error", "traceback"))
    assert isinstance(read_message(found), Poison)


def test_a_reason_quotes_nothing_of_the_message() -> None:
    found = read_message(message(GOOD_BODY, {**GOOD_HEADERS, "task": "token-4711"}))
    assert isinstance(found, Poison)
    assert "4711" not in found.reason


class Faulty:
    """A message that fails to be read in a way that nobody foresaw."""

    headers = None
    body = b"[what it holds]"
    errors = None

    @property
    def content_type(self) -> str:
        raise ZeroDivisionError


def test_what_nobody_foresaw_becomes_a_dead_letter() -> None:
    message: Any = Faulty()
    with counted() as counts:
        poison = read_message(message)
    assert isinstance(poison, Poison)
    assert (poison.body, poison.reason) == ("[what it holds]", "reading it failed (ZeroDivisionError)")
    assert counts["message_not_foreseen"] == 1
