"""HTTP messages to CloudEvents 1.0: single and batched, structured and binary.

The reading is that of the package `cloudevents`, with what it leaves to others: which mode a message is in (by its
content type, as the standard has it, and not by its headers), batches, quoted header values, and a refusal wherever it
would make something up, such as an id or a time for an event that has none.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Sequence
from datetime import datetime
from http import HTTPStatus
from typing import Any, Final, NoReturn
from urllib.parse import unquote_to_bytes

from cloudevents.core.base import BaseCloudEvent, EventFactory
from cloudevents.core.bindings.http import CE_PREFIX, HTTPMessage, from_binary, from_structured
from cloudevents.core.exceptions import (
    BaseCloudEventException,
    CloudEventValidationError,
    CustomExtensionAttributeError,
    InvalidAttributeTypeError,
)
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import REQUIRED_ATTRIBUTES, CloudEvent

from cachekeeper.http_api.problems import Fault, Problem, Refused

STRUCTURED: Final = "application/cloudevents+json"
BATCHED: Final = "application/cloudevents-batch+json"
BINARY: Final = "application/json"
MOST_FAULTS: Final = 20

_FORMATS = "application/cloudevents"  # what begins like this is in structured or batched mode, whatever the format
_JSON = re.compile(r"(application|text)/([a-z0-9.-]+\+)?json").fullmatch
_ATTRIBUTE = re.compile(r"[a-z0-9]+").fullmatch
_CHARSETS = frozenset({"utf-8", "utf8", "us-ascii"})  # `utf8` is a name of it on the web, if not at IANA
_CHARSET = re.compile(r';\s*charset\s*=\s*"?([^";\s]*)', re.IGNORECASE)
_RFC_3339 = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?(Z|[+-][0-9]{2}:[0-9]{2})"
).fullmatch
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"').fullmatch
_ESCAPED = re.compile(r"\\(.)")

RawHeaders = Sequence[tuple[bytes, bytes]]


def media_type(headers: RawHeaders) -> str:
    """What the body is: `STRUCTURED`, `BATCHED`, or for the binary mode `BINARY`.

    Args:
        headers: all of the request's, names in lower case.

    Raises:
        Problem: it is none of these, or encoded in a way that cannot be read (415).
    """
    encodings = [value for name, value in headers if name == b"content-encoding"]
    if any(value.strip().lower() not in {b"", b"identity"} for value in encodings):
        _unsupported("content-encoding: send the body as it is")
    found = [value.decode("latin-1") for name, value in headers if name == b"content-type"]
    if len(found) != 1:
        _unsupported("content-type: give one")
    kind = found[0].partition(";")[0].strip().lower()
    charset = _CHARSET.search(found[0])
    if charset is not None and charset[1].lower() not in _CHARSETS:
        _unsupported("content-type: its charset must be UTF-8")
    if kind in {STRUCTURED, BATCHED}:
        return kind
    if kind.startswith(_FORMATS) or not _JSON(kind):
        _unsupported(f"content-type: must be {STRUCTURED}, {BATCHED}, or JSON with the attributes in ce- headers")
    return BINARY


def read_message(kind: str, headers: RawHeaders, body: bytes, most: int) -> list[BaseCloudEvent]:
    """The events of a message.

    Args:
        kind: what `media_type` said.
        headers: all of the request's, names in lower case.
        body: the request's.
        most: how many events may be in it.

    Raises:
        Refused: an event is none, or none that the standard allows; of a batch, with all that are not.
        Problem: a batch is too long (413).
    """
    if kind == BATCHED:
        return _read_batch(body, most)
    if kind == STRUCTURED:
        return [from_structured(HTTPMessage({}, body), _FORMAT, _make)]
    return [from_binary(HTTPMessage(_attribute_headers(headers), body), _FORMAT, _make)]


def _read_batch(body: bytes, most: int) -> list[BaseCloudEvent]:
    found = _loads(body, "body")
    if not isinstance(found, list):
        raise Refused(Fault("body", "must be a JSON array of events"))
    if len(found) > most:
        raise Problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"a batch may hold at most {most} events")
    events, faults = [], list[Fault]()
    for index, item in enumerate(found):
        try:
            events.append(_FORMAT.build(_make, item))
        except Refused as refused:
            faults += (Fault(fault.field, fault.detail, index) for fault in refused.faults)
            if len(faults) >= MOST_FAULTS:
                break
    if faults:
        raise Refused(*faults)
    return events


class _StrictJson(JSONFormat):
    """The JSON event format to the letter. The package's own takes broken JSON for text, and NaN for a number."""

    def read(self, event_factory: EventFactory | None, data: str | bytes) -> BaseCloudEvent:
        return self.build(event_factory or _make, _loads(data, "body"))

    def build(self, factory: EventFactory, found: object) -> BaseCloudEvent:
        """One event out of its JSON object."""
        if not isinstance(found, dict):
            raise Refused(Fault("event", "must be a JSON object"))
        attributes: dict[str, Any] = {name: value for name, value in found.items() if value is not None}  # null: unset
        data, encoded = attributes.pop("data", None), attributes.pop("data_base64", None)
        if encoded is not None:
            if data is not None:
                raise Refused(Fault("data_base64", "stands beside data; give one of them"))
            data = _loads(_decoded(encoded), "data_base64")
        declared = attributes.get("datacontenttype", BINARY)
        if isinstance(declared, str) and not _JSON(declared.partition(";")[0].strip().lower()):
            raise Refused(Fault("datacontenttype", f"must be JSON, such as {BINARY}"))
        if "time" in attributes:
            attributes["time"] = datetime.fromisoformat(_checked_time(attributes["time"]))
        return factory(attributes, data)

    def read_data(self, body: bytes, datacontenttype: str | None) -> dict[str, Any] | str | bytes | None:
        del datacontenttype  # `media_type` has seen that it is JSON
        data: dict[str, Any] | None = _loads(body, "data") if body else None
        return data


_FORMAT = _StrictJson()


def _make(attributes: dict[str, Any], data: dict[str, Any] | str | bytes | None) -> BaseCloudEvent:
    """A CloudEvent whose attributes are all there and right."""
    missing = [name for name in REQUIRED_ATTRIBUTES if name not in attributes]
    if missing:  # the package would make up some of them
        raise Refused(*(Fault(name, "is missing") for name in missing))
    # It would also fill in the present time, which is ours to do, in one place for all events.
    timeless = attributes if "time" in attributes else {**attributes, "time": _ANY_TIME}
    try:
        event = CloudEvent(timeless, data)
    except CloudEventValidationError as error:
        raise Refused(*(Fault(name, _said(name, found[0])) for name, found in error.errors.items())) from None
    if timeless is not attributes:
        del timeless["time"]
    return event


_ANY_TIME = datetime.fromisoformat("1970-01-01T00:00:00+00:00")


def _said(name: str, error: BaseCloudEventException) -> str:
    if name == "specversion":
        return 'must be "1.0"'
    if name == "data":  # in the JSON format it is taken out before; this one was a header
        return "is no attribute: in the binary mode the body is the data"
    if isinstance(error, CustomExtensionAttributeError):
        return "is no name of an attribute: these have lower-case letters and digits only"
    return "must be text" if isinstance(error, InvalidAttributeTypeError) else "must be text, and not empty"


def _attribute_headers(headers: RawHeaders) -> dict[str, str]:
    """The headers that carry attributes, as the package can read them."""
    found: dict[str, str] = {}
    for raw_name, raw in headers:
        header = raw_name.decode("latin-1").lower()
        if not header.startswith(CE_PREFIX):
            continue
        name = header.removeprefix(CE_PREFIX)
        if not _ATTRIBUTE(name):
            continue  # the standard has no attribute of such a name: it is a header like any other
        if header in found:
            raise Refused(Fault(name, f"the header {header} is there twice"))
        try:
            value = _unquoted(raw.decode("ascii").strip())
            text = unquote_to_bytes(value).decode("utf-8")
        except UnicodeDecodeError:
            raise Refused(
                Fault(name, f"the header {header} must be ASCII; all else is percent-encoded UTF-8")
            ) from None
        # The package takes one that is not there for none, but an empty one for a value.
        found[header] = _checked_time(text) if name == "time" else value
    return found


def _unquoted(value: str) -> str:
    """What stands between double quotes (RFC 7230, 3.2.6), as older versions of the standard wrote it."""
    quoted = _QUOTED(value)
    return _ESCAPED.sub(r"\1", quoted[1]) if quoted else value


def _checked_time(value: object) -> str:
    """A time as RFC 3339 has it, in capitals, which `datetime` wants."""
    wrong = Refused(Fault("time", "must be a time as in RFC 3339, such as 2026-01-31T12:00:00Z"))
    if not isinstance(value, str) or not _RFC_3339(value.upper()):
        raise wrong
    try:
        datetime.fromisoformat(value.upper())
    except ValueError:  # such as the 31st of April
        raise wrong from None
    return value.upper()


def _decoded(encoded: object) -> bytes:
    try:
        if isinstance(encoded, str):
            return base64.b64decode(encoded, validate=True)
    except (ValueError, binascii.Error):
        pass
    raise Refused(Fault("data_base64", "must be base64"))


def _loads(text: str | bytes, field: str) -> Any:
    try:
        # Not by json's own guess, which takes UTF-16 as well.
        return json.loads(text if isinstance(text, str) else text.decode("utf-8"), parse_constant=_no_constant)
    except (ValueError, RecursionError):  # of the first kind: NaN, too many digits, and wrong UTF-8
        raise Refused(Fault(field, "must be JSON, in UTF-8")) from None


def _no_constant(_: str) -> NoReturn:
    raise ValueError("JSON has no NaN and no infinities")


def _unsupported(detail: str) -> NoReturn:
    raise Problem(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, detail)
