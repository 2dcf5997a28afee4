"""Read CloudEvents 1.0 from HTTP messages: one event in structured or binary mode, or a batch.

The package `cloudevents` does the reading. This module adds what that package lacks. It finds the mode by the content
type, as the standard says, and not by the headers. It reads batches and quoted header values. It invents nothing: where
the package would make up a required attribute, such as an id, it refuses the event; it leaves a missing time out.
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

_FORMATS = "application/cloudevents"  # such a content type is in structured or batched mode, in JSON or not
_JSON = re.compile(r"(application|text)/([a-z0-9.-]+\+)?json").fullmatch
_ATTRIBUTE = re.compile(r"[a-z0-9]+").fullmatch
_CHARSETS = frozenset({"utf-8", "utf8", "us-ascii"})  # the web uses `utf8`, which IANA does not list
_CHARSET = re.compile(r';\s*charset\s*=\s*"?([^";\s]*)', re.IGNORECASE)
_RFC_3339 = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?(Z|[+-][0-9]{2}:[0-9]{2})"
).fullmatch
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"').fullmatch
_ESCAPED = re.compile(r"\\(.)")

RawHeaders = Sequence[tuple[bytes, bytes]]


def media_type(headers: RawHeaders) -> str:
    """Find the mode of a message: `STRUCTURED`, `BATCHED` or `BINARY`.

    Args:
        headers: all headers of the request, with names in lower case.

    Raises:
        Problem: the content type, encoding or charset is not supported (415).
    """
    encodings = [value for name, value in headers if name == b"content-encoding"]
    if any(value.strip().lower() not in {b"", b"identity"} for value in encodings):
        _unsupported("content-encoding: is not supported; send the body without encoding")
    found = [value.decode("latin-1") for name, value in headers if name == b"content-type"]
    if len(found) != 1:
        _unsupported("content-type: send exactly one")
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
    """Read the events of a message.

    Args:
        kind: the mode, as `media_type` returns it.
        headers: all headers of the request, with names in lower case.
        body: the body of the request.
        most: the largest number of events in a batch.

    Raises:
        Refused: an event is not a CloudEvent by the standard. For a batch it names all such events, up to a limit.
        Problem: the batch has too many events (413).
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
        raise Problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"a batch may hold at most {most} events; send less at once")
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
    """Reads the JSON event format strictly. The package's reader takes broken JSON for text, and NaN for a number."""

    def read(self, event_factory: EventFactory | None, data: str | bytes) -> BaseCloudEvent:
        return self.build(event_factory or _make, _loads(data, "body"))

    def build(self, factory: EventFactory, found: object) -> BaseCloudEvent:
        """Build one event from its JSON object."""
        if not isinstance(found, dict):
            raise Refused(Fault("event", "must be a JSON object"))
        # A null means that the attribute is not set.
        attributes: dict[str, Any] = {name: value for name, value in found.items() if value is not None}
        data, encoded = attributes.pop("data", None), attributes.pop("data_base64", None)
        if encoded is not None:
            if data is not None:
                raise Refused(Fault("data_base64", "cannot be given together with data; give only one of them"))
            data = _loads(_decoded(encoded), "data_base64")
        declared = attributes.get("datacontenttype", BINARY)
        if isinstance(declared, str) and not _JSON(declared.partition(";")[0].strip().lower()):
            raise Refused(Fault("datacontenttype", f"must be JSON, such as {BINARY}"))
        if "time" in attributes:
            attributes["time"] = datetime.fromisoformat(_checked_time(attributes["time"]))
        return factory(attributes, data)

    def read_data(self, body: bytes, datacontenttype: str | None) -> dict[str, Any] | str | bytes | None:
        del datacontenttype  # `media_type` has checked that it is JSON
        data: dict[str, Any] | None = _loads(body, "data") if body else None
        return data


_FORMAT = _StrictJson()


def _make(attributes: dict[str, Any], data: dict[str, Any] | str | bytes | None) -> BaseCloudEvent:
    """Make a CloudEvent. Raise `Refused` if an attribute is missing or wrong."""
    missing = [name for name in REQUIRED_ATTRIBUTES if name not in attributes]
    if missing:  # the package would invent some of them
        raise Refused(*(Fault(name, "is missing") for name in missing))
    # The package would also fill in the current time. Leave that to `Event`, which does it for all events.
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
    if name == "data":  # the JSON format has taken out its own data before: this was a header
        return "is not an attribute: in the binary mode the body is the data"
    if isinstance(error, CustomExtensionAttributeError):
        return "is not a valid attribute name: use lower-case letters and digits only"
    return "must be text" if isinstance(error, InvalidAttributeTypeError) else "must be text, and not empty"


def _attribute_headers(headers: RawHeaders) -> dict[str, str]:
    """Pick the headers that carry attributes, in the form that the package reads."""
    found: dict[str, str] = {}
    for raw_name, raw in headers:
        header = raw_name.decode("latin-1").lower()
        if not header.startswith(CE_PREFIX):
            continue
        name = header.removeprefix(CE_PREFIX)
        if not _ATTRIBUTE(name):
            continue  # the standard allows no such attribute name: this is an ordinary header
        if header in found:
            raise Refused(Fault(name, f"the header {header} is given twice; send it once"))
        try:
            value = _unquoted(raw.decode("ascii").strip())
            text = unquote_to_bytes(value).decode("utf-8")
        except UnicodeDecodeError:
            raise Refused(
                Fault(name, f"the header {header} must be ASCII; send other characters as percent-encoded UTF-8")
            ) from None
        # To the package, a missing header is an unset attribute, but an empty header is a value.
        found[header] = _checked_time(text) if name == "time" else value
    return found


def _unquoted(value: str) -> str:
    """Remove the double quotes (RFC 7230, 3.2.6) that older versions of the standard put around a value."""
    quoted = _QUOTED(value)
    return _ESCAPED.sub(r"\1", quoted[1]) if quoted else value


def _checked_time(value: object) -> str:
    """Check that a value is a time of RFC 3339. Return it in capitals, as `datetime` needs it."""
    wrong = Refused(Fault("time", "must be a time of RFC 3339, such as 2026-01-31T12:00:00Z"))
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
        # Decode here: json would guess the encoding, and accept UTF-16 too.
        return json.loads(text if isinstance(text, str) else text.decode("utf-8"), parse_constant=_no_constant)
    except (ValueError, RecursionError):  # ValueError: also for NaN, too many digits, and invalid UTF-8
        raise Refused(Fault(field, "must be valid JSON in UTF-8")) from None


def _no_constant(_: str) -> NoReturn:
    raise ValueError("JSON has no NaN and no infinity")


def _unsupported(detail: str) -> NoReturn:
    raise Problem(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, detail)
