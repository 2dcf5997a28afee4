"""Checks raw messages before kombu and py-amqp can crash on them, and marks those that cannot be read.

With Redis as the broker, a message can be any item that was pushed onto the list, and it is taken off the list before
it is read. With RabbitMQ, a message that ends a worker is delivered again and ends the next worker. So a message that
cannot be read is replaced by one whose header marks it as unreadable, and becomes a dead letter like any other.
"""

from __future__ import annotations

import uuid
from base64 import b64decode, b64encode
from typing import Any

import kombu.compression
from amqp.serialization import PROPERTY_CLASSES, decode_properties_basic
from amqp.spec import Basic
from kombu.utils.json import dumps, loads

from cachekeeper.broker.names import QUEUE, UNREADABLE_HEADER
from cachekeeper.consuming.messages import LONGEST, Unreadable
from cachekeeper.values.nesting import DEEPEST, deeper_than

# Typed as Any, because their type stubs are wrong.
_compression: Any = kombu.compression
_decoders: Any = PROPERTY_CLASSES

# A message that is put back returns to the list that it came from, even if its own properties name another place.
_HOME = {"exchange": "", "routing_key": QUEUE}


def guard_process() -> None:
    """Protect this process from messages that unpack to gigabytes or crash it, from any broker. A worker calls it.

    It changes two lists for the whole process: kombu's compressions, and py-amqp's decoders.
    """
    for content_type in _compression.encoders():
        encoder, _ = _compression.get_encoder(content_type)
        _compression.register(encoder, _refuse, content_type)
    _decoders[Basic.CLASS_ID] = _properties


def sound(item: bytes) -> bytes:
    """Return an item of a queue's list in a form that kombu can read. Most items are returned unchanged."""
    try:
        return _checked(item)
    except _Unsound as error:
        properties = {"delivery_tag": str(uuid.uuid4()), "delivery_info": _HOME, "body_encoding": "base64"}
        body = b64encode(item[:LONGEST]).decode()
        return dumps({"body": body, "headers": {UNREADABLE_HEADER: error.reason}, "properties": properties}).encode()


class _Unsound(Exception):
    """An item is not a kombu message."""

    def __init__(self, reason: Unreadable) -> None:
        super().__init__(reason)
        self.reason = reason


def _checked(item: bytes) -> bytes:
    if len(item) > 2 * LONGEST:  # base64 makes a body larger by a third
        raise _Unsound(Unreadable.TOO_LONG)
    try:
        found = loads(item)
    except Exception:  # noqa: BLE001  # kombu turns some JSON into objects, which can raise anything
        raise _Unsound(Unreadable.NO_JSON) from None
    properties = found.get("properties") if isinstance(found, dict) else None
    if not isinstance(properties, dict):
        raise _Unsound(Unreadable.NO_PROPERTIES)
    if deeper_than(DEEPEST, [found]):
        raise _Unsound(Unreadable.TOO_DEEP)
    tag = properties.get("delivery_tag")
    if not isinstance(tag, str) or not tag:
        raise _Unsound(Unreadable.NO_TAG)
    if not _has_body(found.get("body"), properties.get("body_encoding")):
        raise _Unsound(Unreadable.NO_BODY)
    mended = _mended(found, properties)
    return item if mended is None else dumps(mended).encode()


def _has_body(body: object, encoding: object) -> bool:
    if not isinstance(body, str) or encoding not in (None, "utf-8", "base64"):
        return False
    if encoding == "base64":
        try:
            b64decode(body.encode(), validate=True)
        except ValueError:
            return False
    return True


def _mended(found: dict[str, Any], properties: dict[str, Any]) -> dict[str, Any] | None:
    """Add the fields that kombu needs to put the message back; None if it already has them."""
    priority, info = properties.get("priority"), properties.get("delivery_info")
    redelivered = isinstance(info, dict) and info.get("redelivered") is True
    wanted: dict[str, Any] = {**_HOME, **({"redelivered": True} if redelivered else {})}
    if info == wanted and type(priority) in {int, type(None)} and isinstance(found.get("headers"), dict):
        return None
    headers = found["headers"] if isinstance(found.get("headers"), dict) else {}
    return {**found, "headers": headers, "properties": {**properties, "delivery_info": wanted, "priority": 0}}


def _properties(buffer: bytes, offset: int) -> tuple[dict[str, Any], int]:
    """Read properties as py-amqp does, and mark a message whose properties it cannot read as unreadable.

    py-amqp crashes on times beyond Python's years, on text that is not UTF-8, and on deep nesting.
    """
    try:
        found: tuple[dict[str, Any], int] = decode_properties_basic(buffer, offset)
    except Exception:  # noqa: BLE001  # no error may end the worker
        return {"application_headers": {UNREADABLE_HEADER: Unreadable.PROPERTIES}}, len(buffer)
    return found


def is_control(message: object, exchange: str) -> bool:
    """Whether kombu can read a message that was published to all workers."""
    properties = message.get("properties") if isinstance(message, dict) else None
    return (
        isinstance(message, dict)
        and isinstance(properties, dict)
        and isinstance(message.get("headers"), dict)
        and isinstance(properties.get("delivery_tag"), str)
        and isinstance(info := properties.get("delivery_info"), dict)
        and info.get("exchange") == exchange
        and _has_body(message.get("body"), properties.get("body_encoding"))
    )


def _refuse(_: object) -> bytes:
    """Refuse to decompress. Publishers have no reason to compress, and a kilobyte may unpack to a gigabyte."""
    raise ValueError("it is compressed")
