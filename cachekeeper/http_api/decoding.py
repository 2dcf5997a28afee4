"""Turn CloudEvents into registered events, with the same checks as in a Python producer."""

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
"""The fields of an event that are attributes of the CloudEvent. All other fields are in its data."""


def read_events(registry: Registry, found: Sequence[BaseCloudEvent], *, batched: bool) -> list[Event]:
    """Turn CloudEvents into events. Raise if any of them is wrong.

    Args:
        registry: the registered events.
        found: the CloudEvents.
        batched: whether they come from a batch. A fault then holds the position of its event.

    Raises:
        Refused: an event is wrong; it names the first wrong field of each event.
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
    """Turn events into the texts to publish. Raise if any of them cannot be published.

    Args:
        events: as `read_events` returns them.
        batched: whether they come from a batch. A fault then holds the position of its event.

    Raises:
        Refused: an event is nested too deeply, or JSON would change its data.
        Problem: an event is too long (413).
    """
    texts, faults = list[str](), list[Fault]()
    too_long = True  # whether each fault is that an event is too long
    for index, event in enumerate(events):
        try:
            texts.append(event_text(event))
        except InvalidEvent as error:
            faults.append(Fault(_place(error.field), error.problem, index if batched else None))
            too_long = too_long and isinstance(error, EventTooLong)
            if len(faults) >= MOST_FAULTS:
                break
    if faults and too_long:
        raise Problem(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            "nothing was published; shorten the events that errors lists",
            faults=faults,
        )
    if faults:
        raise Refused(*faults)
    return texts


def _read(registry: Registry, found: BaseCloudEvent) -> Event:
    kind = registry.events.get(found.get_type())
    if kind is None:
        raise Refused(Fault("type", f"is not a registered event; registered are: {', '.join(sorted(registry.events))}"))
    data: object = found.get_data()
    if data is None:
        raise Refused(Fault("data", "is missing"))
    if not isinstance(data, dict):
        raise Refused(Fault("data", "must be a JSON object"))
    unknown = sorted(data.keys() - (kind.model_fields.keys() - ATTRIBUTES))
    if unknown:
        name = unknown[0]
        said = "must be an attribute, outside the data" if name in ATTRIBUTES else "is an unknown field; remove it"
        raise Refused(Fault(f"data.{name}", f"{said} (event {kind.type_name()})"))
    moment = found.get_time()
    attributes = {"id": found.get_id()} if moment is None else {"id": found.get_id(), "time": moment.isoformat()}
    try:
        return kind.from_json({**attributes, **data})
    except InvalidEvent as error:
        raise Refused(Fault(_place(error.field), error.problem)) from None


def _place(field: str) -> str:
    """The place of an event's field in the CloudEvent."""
    if field in ATTRIBUTES:
        return field
    return "data" if field == "event" else f"data.{field}"
