"""Reads a message as it came from the broker. Nothing that anybody can put there may end a worker."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, cast

from cachekeeper.broker.names import LETTER_HEADER, OUTBOX_HEADER, TASK, UNREADABLE_HEADER
from cachekeeper.metrics import COUNTERS, logger, where_raised
from cachekeeper.values.nesting import DEEPEST, DEEPEST_EVENT, deeper_than

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kombu import Message

LONGEST = 16 * 1024 * 1024
"""Bytes of a message, at most. RabbitMQ 4 takes no more; what is read takes many times its length in memory."""

_PARTS = 3  # a task message, protocol 2, is arguments, keyword arguments, and what to call next
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MOST_FAILURES = 1 << 31  # BSON's smaller integer; nobody counts so far
_LATEST_MS = 253_402_300_800_000  # the year 10000, which Python's dates do not reach


@dataclass(frozen=True, slots=True)
class Failures:
    """What a dead letter said when it was published again.

    Attributes:
        count: how often its event had failed.
        first_at: when for the first time, UTC.
    """

    count: int
    first_at: datetime


@dataclass(frozen=True, slots=True)
class EventMessage:
    """A message that can be read; its events may yet be wrong, each for itself.

    Attributes:
        id: the message's, the same in every redelivery.
        events: as they came, to be decoded; in the place of one that is nested too deeply, a `DeepEvent`.
        outbox: whether they are records of the outbox.
        failures: of a dead letter that was published again.
    """

    id: str
    events: Sequence[object] = field(repr=False)  # Celery logs the repr, and they may hold tokens
    outbox: bool = False
    failures: Failures | None = None


@dataclass(frozen=True, slots=True)
class DeepEvent:
    """An event that is nested too deeply to be walked over. Its neighbours in the message are not.

    Attributes:
        id: what it has as its id, if it has any.
        text: the event as JSON.
    """

    id: object = field(repr=False)
    text: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Poison:
    """A message that cannot be read.

    Attributes:
        id: a hash of its body, the same in every redelivery.
        body: what it held, as text.
        reason: what is wrong with it.
    """

    id: str
    body: str = field(repr=False)
    reason: str


class Unreadable(StrEnum):
    """Why a message is poison before it is read here: what surrounds it cannot be read (see `poison_guard`)."""

    PROPERTIES = "its properties cannot be read"
    TOO_LONG = "it is too long"
    NO_JSON = "it is no message of kombu's: not JSON"
    NO_PROPERTIES = "it is no message of kombu's: without properties"
    TOO_DEEP = "it is no message of kombu's: nested too deeply"
    NO_TAG = "it is no message of kombu's: without a delivery tag"
    NO_BODY = "it is no message of kombu's: without a body that can be read"
    SAYS_SO = "it says so itself"


class _Unreadable(Exception):
    """Why a message is poison."""


def read_message(message: Message) -> EventMessage | Poison:
    """Read a message. Never raises for what it holds."""
    try:
        return _read(message)
    except _Unreadable as error:
        return _poison(message, str(error))
    except Exception as error:  # noqa: BLE001  # whatever it is, it must not end the worker, and what it holds is kept
        COUNTERS.add("message_not_foreseen")
        where = where_raised(error)
        logger.error("a message failed to be read: %s\n%s", type(error).__name__, where)
        return _poison(message, f"reading it failed ({type(error).__name__})")


def _poison(message: Message, reason: str) -> Poison:
    # The same at each delivery: the pause counts failures by it, and grows.
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
        raise _Unreadable("it is not [args, kwargs, embed]")
    if task != TASK:
        raise _Unreadable(f"it is not for the task {TASK}")
    if not isinstance(message_id, str) or not message_id:
        # By its id a message is known again when it is redelivered.
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
    except RecursionError:  # what was read just now need not be written: this takes more of the stack
        raise _Unreadable("it is nested too deeply") from None


def _failures(found: object) -> Failures | None:
    """Anybody can put anything there; it is for the record only, so what is wrong counts for nothing."""
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
        raise _Unreadable("it is compressed" if compressed else "it is no text")
    if message.content_type != "application/json":
        raise _Unreadable("its content type is not application/json")
    if len(body := _bytes(message.body)) > LONGEST:
        raise _Unreadable(f"it is longer than {LONGEST} bytes")
    try:
        return json.loads(body)
    except (ValueError, RecursionError):  # of the first kind: too many digits, and wrong UTF-8
        raise _Unreadable("it is not JSON") from None


def _bytes(body: object) -> bytes:
    if isinstance(body, str):
        return body.encode("utf-8", "surrogatepass")
    return bytes(body) if isinstance(body, bytes | bytearray | memoryview) else b""


def _text(body: object) -> str:
    return _bytes(body).decode("utf-8", "backslashreplace")
