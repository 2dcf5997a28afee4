"""CloudEvents to registered events, as strictly as in a Python producer."""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from typing import Final

from cloudevents.core.base import BaseCloudEvent

from cachekeeper.errors import InvalidEvent
from cachekeeper.http_api.messages import MOST_FAULTS
from cachekeeper.http_api.problems import Fault, Problem, Refused
from cachekeeper.model.events import Event
from cachekeeper.model.registry import Registry
from cachekeeper.publishing.publisher import EventTooLong, event_text

ATTRIBUTES: Final = frozenset({"id", "type", "time"})
"""Fields of an event that are attributes of a CloudEvent; all others stand in its data."""


def read_events(registry: Registry, found: Sequence[BaseCloudEvent], *, batched: bool) -> list[Event]:
    """All of them, or none.

    Args:
        registry: knows the events that there are.
        found: CloudEvents.
        batched: whether a fault says which of them has it.

    Raises:
        Refused: names the first field at fault of each event.
    """
    events, faults = list[Event](), list[Fault]()
    for index, event in enumerate(found):
        try:
            events.append(_read(registry, event))
        except Refused as refused:
            faults += (Fault(fault.field, fault.detail, index if batched else None) for fault in refused.faults)
            if len(faults) >= MOST_FAULTS:
                break
    if faults:
        raise Refused(*faults)
    return events


def texts_of(events: Sequence[Event], *, batched: bool) -> list[str]:
    """Events as they are published. All of them, or none.

    Args:
        events: as `read_events` gives them.
        batched: whether a fault says which of them has it.

    Raises:
        Refused: an event is nested too deeply, or JSON would change it.
        Problem: an event is too long (413).
    """
    texts, faults = list[str](), list[Fault]()
    too_long = True  # all that is wrong
    for index, event in enumerate(events):
        try:
            texts.append(event_text(event))
        except InvalidEvent as error:
            faults.append(Fault(_place(error.field), error.problem, index if batched else None))
            too_long = too_long and isinstance(error, EventTooLong)
            if len(faults) >= MOST_FAULTS:
                break
    if faults and too_long:
        raise Problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "nothing was published", faults=faults)
    if faults:
        raise Refused(*faults)
    return texts


def _read(registry: Registry, found: BaseCloudEvent) -> Event:
    kind = registry.events.get(found.get_type())
    if kind is None:
        raise Refused(Fault("type", f"is not a registered event; these are: {', '.join(sorted(registry.events))}"))
    data: object = found.get_data()
    if data is None:
        raise Refused(Fault("data", "is missing"))
    if not isinstance(data, dict):
        raise Refused(Fault("data", "must be a JSON object"))
    unknown = sorted(data.keys() - (kind.model_fields.keys() - ATTRIBUTES))
    if unknown:
        name = unknown[0]
        said = "is an attribute of the event and not of its data" if name in ATTRIBUTES else "is not a field of it"
        raise Refused(Fault(f"data.{name}", f"{said} (event {kind.type_name()})"))
    moment = found.get_time()
    attributes = {"id": found.get_id()} if moment is None else {"id": found.get_id(), "time": moment.isoformat()}
    try:
        return kind.from_json({**attributes, **data})
    except InvalidEvent as error:
        raise Refused(Fault(_place(error.field), error.problem)) from None


def _place(field: str) -> str:
    """Where a field of the event stands in the CloudEvent."""
    if field in ATTRIBUTES:
        return field
    return "data" if field == "event" else f"data.{field}"
