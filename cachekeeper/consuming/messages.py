"""Reads a message as it came from the broker. No content of a message may end a worker."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, cast

from cachekeeper.broker.names import LETTER_HEADER, OUTBOX_HEADER, TASK, UNREADABLE_HEADER
from cachekeeper.metrics import COUNTERS
from cachekeeper.runtime.failures import log_failure
from cachekeeper.values.nesting import DEEPEST, DEEPEST_EVENT, deeper_than

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kombu import Message

LONGEST = 16 * 1024 * 1024
"""The most bytes in a message. RabbitMQ 4 takes no more. A decoded message needs many times its length in memory."""

_PARTS = 3  # protocol 2 of Celery's task messages: arguments, keyword arguments, and the calls that follow
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MOST_FAILURES = 1 << 31  # the limit of BSON's smaller integer; no real count comes near it
_LATEST_MS = 253_402_300_800_000  # the year 10000; Python's dates end before it


@dataclass(frozen=True, slots=True)
class Failures:
    """The earlier failures of an event that was published again from a dead letter.

    Attributes:
        count: how often the event had failed.
        first_at: when it failed for the first time, in UTC.
    """

    count: int
    first_at: datetime


@dataclass(frozen=True, slots=True)
class EventMessage:
    """A message that can be read. Each of its events may still be wrong.

    Attributes:
        id: the message's id, the same in every redelivery.
        events: the events as they came, not yet decoded; a `DeepEvent` stands for an event that is nested too deeply.
        outbox: whether the events are records of the outbox.
        failures: the earlier failures, if the event was published again from a dead letter.
    """

    id: str
    events: Sequence[object] = field(repr=False)  # not in the repr, which Celery logs: events may contain tokens
    outbox: bool = False
    failures: Failures | None = None


@dataclass(frozen=True, slots=True)
class DeepEvent:
    """An event that is nested too deeply to be traversed. The other events of its message are not affected.

    Attributes:
        id: the value of its field `id`; None if it has none.
        text: the event as JSON.
    """

    id: object = field(repr=False)
    text: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Poison:
    """A message that cannot be read.

    Attributes:
        id: a hash of its body, the same in every redelivery.
        body: the body as text.
        reason: why it cannot be read.
    """

    id: str
    body: str = field(repr=False)
    reason: str


class Unreadable(StrEnum):
    """The reason why a message's envelope cannot be read. `poison_guard` finds it before the body is read here."""

    PROPERTIES = "its properties cannot be read"
    TOO_LONG = "it is too long"
    NO_JSON = "it is not a kombu message: not JSON"
    NO_PROPERTIES = "it is not a kombu message: no properties"
    TOO_DEEP = "it is not a kombu message: nested too deeply"
    NO_TAG = "it is not a kombu message: no delivery tag"
    NO_BODY = "it is not a kombu message: no readable body"
    SAYS_SO = "its headers mark it as unreadable"


class _Unreadable(Exception):
    """A message cannot be read. The text is the reason."""


def read_message(message: Message) -> EventMessage | Poison:
    """Read a message. Never raises, whatever the message contains."""
    try:
        return _read(message)
    except _Unreadable as error:
        return _poison(message, str(error))
    except Exception as error:  # noqa: BLE001  # no error may end the worker; the body is kept as a dead letter
        COUNTERS.add("message_not_foreseen")
        log_failure("reading a message failed, which is a bug: please report it", error=error)
        return _poison(message, f"reading it failed ({type(error).__name__})")


def _poison(message: Message, reason: str) -> Poison:
    # The id is the same at each delivery: the pause counts a message's failures by its id, and grows.
    return Poison(f"unreadable-{hashlib.sha256(_bytes(message.body)).hexdigest()}", _text(message.body), reason)


def _read(message: Message) -> EventMessage:
    found = cast("object", message.headers)
    headers = found if isinstance(found, dict) else {}
    if (reason := headers.get(UNREADABLE_HEADER)) is not None:
        raise _Unreadable(reason if reason in tuple(Unreadable) else Unreadable.SAYS_SO)
    body = _decode(message)
    if "task" not in headers and isinstance(body, dict):  # protocol 1, as some other clients write it
        task, message_id, arguments, keywords = (body.get(name) for name in ("task", "id", "args", "kwargs"))
    elif isinstance(body, list) and len(body) == _PARTS:
        task, message_id = headers.get("task"), headers.get("id")
        arguments, keywords, _ = body
    else:
        raise _Unreadable("its body is not [args, kwargs, embed]")
    if task != TASK:
        raise _Unreadable(f"it is not for the task {TASK}")
    if not isinstance(message_id, str) or not message_id:
        # The id identifies a redelivered message.
        raise _Unreadable("it has no id")
    if keywords:
        raise _Unreadable("it has keyword arguments")
    if not isinstance(arguments, list) or len(arguments) != 1 or not isinstance(arguments[0], list):
        raise _Unreadable("its argument is not one list of events")
    events = [_shallow(event) for event in arguments[0]] if deeper_than(DEEPEST, arguments[0]) else arguments[0]
    return EventMessage(message_id, events, headers.get(OUTBOX_HEADER) is True, _failures(headers.get(LETTER_HEADER)))


def _shallow(event: object) -> object:
    if not deeper_than(DEEPEST_EVENT, event):
        return event
    try:
        return DeepEvent(event.get("id") if isinstance(event, dict) else None, json.dumps(event))
    except RecursionError:  # writing needs more of the stack than reading
        raise _Unreadable("it is nested too deeply") from None


def _failures(found: object) -> Failures | None:
    """Read a replayed dead letter's header. Any client can set it. It is only for the record: ignore a wrong value."""
    if not isinstance(found, list) or [type(part) for part in found] != [int, int]:
        return None
    count, first_ms = found
    if not (0 < count < _MOST_FAILURES and 0 <= first_ms < _LATEST_MS):
        return None
    return Failures(count, EPOCH + timedelta(milliseconds=first_ms))


def _decode(message: Message) -> object:
    if message.errors:
        headers = cast("object", message.headers)
        compressed = isinstance(headers, dict) and "compression" in headers
        raise _Unreadable("it is compressed" if compressed else "its body is not text")
    if message.content_type != "application/json":
        raise _Unreadable("its content type is not application/json")
    if len(body := _bytes(message.body)) > LONGEST:
        raise _Unreadable(f"it is longer than {LONGEST} bytes")
    try:
        return json.loads(body)
    except (ValueError, RecursionError):  # ValueError also for too many digits and for wrong UTF-8
        raise _Unreadable("its body is not JSON") from None


def _bytes(body: object) -> bytes:
    if isinstance(body, str):
        return body.encode("utf-8", "surrogatepass")
    return bytes(body) if isinstance(body, bytes | bytearray | memoryview) else b""


def _text(body: object) -> str:
    return _bytes(body).decode("utf-8", "backslashreplace")
