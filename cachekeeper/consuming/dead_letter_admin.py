"""Lists dead letters, shows one, publishes them again, and drops them. Needs no Redis."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from cachekeeper.connections.mongodb import check_database
from cachekeeper.connections.mongodb_errors import database_errors
from cachekeeper.consuming.dead_letters import COLLECTION, shown
from cachekeeper.consuming.messages import EPOCH
from cachekeeper.errors import InputError
from cachekeeper.publishing.wire_format import OutgoingMessage
from cachekeeper.values.mongoose_json import DOCUMENT_CODEC_OPTIONS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pymongo.database import Database

    from cachekeeper.model.registry import Registry
    from cachekeeper.publishing.publisher import Publisher

_COUNT_SECONDS = 30.0
_SHORTEST_PREFIX = 4
_SUMMARY = ("type", "error", "reason", "count", "first_at", "last_at")
_SHAPE = {
    **dict.fromkeys(("_id", "body", "error", "reason", "traceback"), "string"),
    "whole": "bool",
    "count": "number",
    **dict.fromkeys(("first_at", "last_at"), "date"),
}
"""The BSON types of a dead letter. Other documents in the collection are neither listed nor removed."""


@dataclass(frozen=True, slots=True)
class Which:
    """A selection of dead letters: those that match every given attribute.

    Attributes:
        ids: the ids of dead letters.
        type: the event's type, such as `user.updated`.
        error: the class of the error, such as `InvalidEvent`.
        reason: a part of the reason.
    """

    ids: Sequence[str] | None = None
    type: str | None = None
    error: str | None = None
    reason: str | None = None

    def filter(self) -> dict[str, Any]:
        """Return the MongoDB filter for this selection."""
        conditions: list[dict[str, Any]] = [{name: {"$type": kind}} for name, kind in _SHAPE.items()]
        if self.ids is not None:
            conditions.append({"_id": {"$in": list(self.ids)}})
        conditions += [{name: value} for name in ("type", "error") if (value := getattr(self, name)) is not None]
        if self.reason is not None:
            conditions.append({"reason": {"$regex": re.escape(self.reason)}})
        return {"$and": conditions}


@dataclass(slots=True)
class Replayed:
    """How many dead letters were published again, and how many stay.

    Attributes:
        published: events that the broker confirmed. Their dead letters are removed.
        back: how many of these events failed again before their dead letter could be removed. Such a dead letter stays,
            with a higher count.
        stay: dead letters that stay because they contain no event that could be published.
    """

    published: int = 0
    back: int = 0
    stay: int = 0


class DeadLetters:
    """The dead letters of one database.

    Args:
        database: must use majority writes.
        registry: its events declare which fields are masked.
        seconds: the time limit for one read or write of MongoDB.
    """

    def __init__(self, database: Database[Any], registry: Registry, seconds: float) -> None:
        check_database(database)
        self._letters = database.get_collection(COLLECTION, DOCUMENT_CODEC_OPTIONS)
        self._registry = registry
        self._seconds = seconds

    def summaries(self, which: Which, limit: int) -> list[dict[str, Any]]:
        """List `_id`, `type`, `error`, `reason`, `count`, `first_at`, `last_at` of dead letters, the latest first.

        Raises:
            DatabaseUnavailable: MongoDB failed.
        """
        with database_errors("listing dead letters", self._seconds, COLLECTION):
            return list(self._letters.find(which.filter(), dict.fromkeys(_SUMMARY, 1)).sort("last_at", -1).limit(limit))

    def count(self, which: Which) -> int:
        """Count the selected dead letters. Raises DatabaseUnavailable."""
        with database_errors("counting dead letters", _COUNT_SECONDS, COLLECTION):
            return self._letters.count_documents(which.filter())

    def named(self, prefix: str) -> str:
        """Return the id of the only dead letter whose id begins with `prefix`.

        Raises:
            InputError: no id begins with `prefix`, or several do.
            DatabaseUnavailable: MongoDB failed.
        """
        if not re.fullmatch(rf"[0-9a-f]{{{_SHORTEST_PREFIX},64}}", prefix):
            raise InputError("LETTER", f"must be the beginning of an id, at least {_SHORTEST_PREFIX} hex digits")
        with database_errors("looking for a dead letter", self._seconds, COLLECTION):
            wanted = {"$and": [Which().filter(), {"_id": {"$regex": f"^{prefix}"}}]}
            found = list(self._letters.find(wanted, {"_id": 1}).limit(2))
        if not found:
            raise InputError("LETTER", f"no dead letter has an id that begins with {prefix}; see cachekeeper dead list")
        if len(found) > 1:
            raise InputError("LETTER", f"several dead letters have an id that begins with {prefix}; give more digits")
        return str(found[0]["_id"])

    def show(self, letter_id: str) -> dict[str, Any] | None:
        """Return a dead letter with its secrets masked; None if it no longer exists. Raises DatabaseUnavailable."""
        found = self._find(letter_id)
        return None if found is None else shown(found, self._registry)

    def replay(self, which: Which, publisher: Publisher, done: Replayed) -> None:
        """Publish dead letters again, the oldest first, each in a separate message. Remove each when it is confirmed.

        If the process is killed between the two steps, the dead letter stays although its event was published.
        Publishing it again does no harm.

        Args:
            which: the dead letters.
            publisher: is used and not closed.
            done: the results are counted here, also if this method raises.

        Raises:
            DatabaseUnavailable: MongoDB failed.
            BrokerUnavailable: the broker did not confirm an event; its dead letter stays.
        """
        with database_errors("listing dead letters", _COUNT_SECONDS, COLLECTION):
            # All ids are read first, so that an event that fails again meanwhile is not published a second time.
            ids = [found["_id"] for found in self._letters.find(which.filter(), {"_id": 1}).sort("last_at", 1)]
        for letter_id in ids:
            found = self._find(letter_id)
            if found is None:
                continue  # removed meanwhile by another process
            if _event_in(found):
                first_ms = (found["first_at"] - EPOCH) // timedelta(milliseconds=1)
                publisher.send(OutgoingMessage((found["body"],), failed=(found["count"], first_ms)))
                done.published += 1
                done.back += not self._remove(found)
            else:
                done.stay += 1

    def drop(self, which: Which) -> int:
        """Delete dead letters permanently, and return how many. Raises DatabaseUnavailable."""
        with database_errors("dropping dead letters", _COUNT_SECONDS, COLLECTION):
            return self._letters.delete_many(which.filter()).deleted_count

    def _find(self, letter_id: str) -> dict[str, Any] | None:
        with database_errors("reading a dead letter", self._seconds, COLLECTION):
            return self._letters.find_one({"_id": letter_id})

    def _remove(self, found: Mapping[str, Any]) -> bool:
        # publish · a worker: the event fails again, count + 1 · remove
        # If the count were not compared, this would remove the dead letter, and the event would be lost.
        with database_errors("removing a dead letter", self._seconds, COLLECTION):
            gone = self._letters.delete_one({"_id": found["_id"], "count": found["count"]})
        return gone.deleted_count == 1


def _event_in(found: Mapping[str, Any]) -> bool:
    """Whether the dead letter contains a publishable event: not an unreadable message, and not a body that was cut."""
    try:
        return bool(found["whole"]) and isinstance(json.loads(found["body"]), dict)
    except ValueError:  # edited by hand
        return False
