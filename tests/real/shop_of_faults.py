"""A package of events whose handlers go wrong in every way, for a real worker."""

import sys
from collections.abc import Iterable
from typing import ClassVar, Literal

from cachekeeper.commands import Command, Persist
from cachekeeper.events import Event, Id
from cachekeeper.registry import Registry
from lookups.sessions import SESSION


class WentWrong(Event):
    """What happened, and how its handler takes it."""

    type: Literal["went.wrong"] = "went.wrong"
    how: str
    token: Id | None = None

    secret_fields: ClassVar[frozenset[str]] = frozenset({"token"})


def on_went_wrong(event: WentWrong) -> Iterable[Command]:
    """Goes wrong as it is told."""
    match event.how:
        case "raises":
            raise LookupError(f"nothing to be had for {event.token}")
        case "exits":
            sys.exit(f"good-bye, {event.token}")
        case "asks for what cannot be written":
            yield Persist(SESSION, "s1", ({"$set": {"big": 2**70}},))
        case "asks for what MongoDB refuses":
            yield Persist(SESSION, "s1", ({"$there_is_no_such_stage": {}},))


def register(registry: Registry) -> None:
    """Register both."""
    registry.add_event(WentWrong)
    registry.add_handler(WentWrong, on_went_wrong)
