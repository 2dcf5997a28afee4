"""A package of events whose handlers fail in every way, for a real worker."""

import asyncio
import sys
from collections.abc import Iterable
from typing import ClassVar, Literal

from cachekeeper.model.commands import Command, Persist, Write
from cachekeeper.model.event_field_types import Id
from cachekeeper.model.events import Event
from cachekeeper.model.registry import Registry
from cachekeeper.model.sources import Document
from cachekeeper.model.views import View
from cachekeeper.values.codecs import Text
from lookups.sessions import SESSION


class Leaves(Text):
    """A codec that raises CancelledError, as if its task were cancelled."""

    def encode(self, value: object) -> bytes:
        """Raise CancelledError, always."""
        raise asyncio.CancelledError(str(value))


TORN = View(
    name="torn",
    key="torn:{id}",
    ttl_seconds=60,
    codec=Leaves(),
    loader=Document("torn", lambda document: document["name"], fields=("name",)),
    version="version",
)


class WentWrong(Event):
    """An event that says in which way its handler fails."""

    type: Literal["went.wrong"] = "went.wrong"
    how: str
    token: Id | None = None

    secret_fields: ClassVar[frozenset[str]] = frozenset({"token"})


def on_went_wrong(event: WentWrong) -> Iterable[Command]:
    """Fail in the way that the event says."""
    match event.how:
        case "raises":
            raise LookupError(f"nothing to be had for {event.token}")
        case "exits":
            sys.exit(f"good-bye, {event.token}")
        case "is cancelled":
            raise asyncio.CancelledError(f"no more of {event.token}")
        case "is interrupted":
            raise KeyboardInterrupt(f"not {event.token}")
        case "has a value that no codec ends with":
            yield Write(TORN, "1", event.token, 1)
        case "asks for what cannot be written":
            yield Persist(SESSION, "s1", ({"$set": {"big": 2**70}},))
        case "asks for what MongoDB refuses":
            yield Persist(SESSION, "s1", ({"$there_is_no_such_stage": {}},))


def register(registry: Registry) -> None:
    """Register the view, the event and its handler."""
    registry.add_view(TORN)
    registry.add_event(WentWrong)
    registry.add_handler(WentWrong, on_went_wrong)
