"""Looking after dead letters: list them, show one, publish them again, drop them. Needs no Redis."""

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
    """Those letters that fit all of what is given.

    Attributes:
        ids: of letters.
        type: of the event, such as `user.updated`.
        error: the class of the error, such as `InvalidEvent`.
        reason: a part of the reason.
    """

    ids: Sequence[str] | None = None
    type: str | None = None
    error: str | None = None
    reason: str | None = None

    def filter(self) -> dict[str, Any]:
        """The query."""
        conditions: list[dict[str, Any]] = [{name: {"$type": kind}} for name, kind in _SHAPE.items()]
        if self.ids is not None:
            conditions.append({"_id": {"$in": list(self.ids)}})
        conditions += [{name: value} for name in ("type", "error") if (value := getattr(self, name)) is not None]
        if self.reason is not None:
            conditions.append({"reason": {"$regex": re.escape(self.reason)}})
        return {"$and": conditions}


@dataclass(slots=True)
class Replayed:
    """What became of letters.

    Attributes:
        published: confirmed by the broker; the letter is gone.
        back: of these, how many had failed again before the letter could be removed: it stays, with its count raised.
        stay: hold no event that could be published, and stay.
    """

    published: int = 0
    back: int = 0
    stay: int = 0


class DeadLetters:
    """The dead letters of one database.

    Args:
        database: with majority writes.
        registry: its events say what is masked.
        seconds: for one read or write of MongoDB.
    """

    def __init__(self, database: Database[Any], registry: Registry, seconds: float) -> None:
        check_database(database)
        self._letters = database.get_collection(COLLECTION, DOCUMENT_CODEC_OPTIONS)
        self._registry = registry
        self._seconds = seconds

    def summaries(self, which: Which, limit: int) -> list[dict[str, Any]]:
        """`_id`, `type`, `error`, `reason`, `count`, `first_at` and `last_at` of letters, the latest first.

        Raises:
            DatabaseUnavailable: MongoDB failed.
        """
        with database_errors("listing dead letters", self._seconds, COLLECTION):
            return list(self._letters.find(which.filter(), dict.fromkeys(_SUMMARY, 1)).sort("last_at", -1).limit(limit))

    def count(self, which: Which) -> int:
        """How many there are. Raises DatabaseUnavailable."""
        with database_errors("counting dead letters", _COUNT_SECONDS, COLLECTION):
            return self._letters.count_documents(which.filter())

    def named(self, prefix: str) -> str:
        """The id of the one letter whose id begins with `prefix`.

        Raises:
            InputError: none does, or several do.
            DatabaseUnavailable: MongoDB failed.
        """
        if not re.fullmatch(rf"[0-9a-f]{{{_SHORTEST_PREFIX},64}}", prefix):
            raise InputError("LETTER", f"must be the beginning of an id, at least {_SHORTEST_PREFIX} of its digits")
        with database_errors("looking for a dead letter", self._seconds, COLLECTION):
            wanted = {"$and": [Which().filter(), {"_id": {"$regex": f"^{prefix}"}}]}
            found = list(self._letters.find(wanted, {"_id": 1}).limit(2))
        if not found:
            raise InputError("LETTER", f"no dead letter has an id that begins with {prefix}")
        if len(found) > 1:
            raise InputError("LETTER", f"several dead letters have an id that begins with {prefix}")
        return str(found[0]["_id"])

    def show(self, letter_id: str) -> dict[str, Any] | None:
        """A letter as it may be shown, secrets masked; None where it is gone. Raises DatabaseUnavailable."""
        found = self._find(letter_id)
        return None if found is None else shown(found, self._registry)

    def replay(self, which: Which, publisher: Publisher, done: Replayed) -> None:
        """Publish letters again, the oldest first, each in a message of its own; remove each once that is confirmed.

        A process that is killed between the two leaves a letter whose event was published; doing it again does no harm.

        Args:
            which: the letters.
            publisher: used and not closed.
            done: what becomes of them is counted here, also where this raises.

        Raises:
            DatabaseUnavailable: MongoDB failed.
            BrokerUnavailable: an event was not confirmed; its letter stays.
        """
        with database_errors("listing dead letters", _COUNT_SECONDS, COLLECTION):
            # All of them first: what comes back while this runs is not published a second time.
            ids = [found["_id"] for found in self._letters.find(which.filter(), {"_id": 1}).sort("last_at", 1)]
        for letter_id in ids:
            found = self._find(letter_id)
            if found is None:
                continue  # somebody else took care of it
            if _event_in(found):
                first_ms = (found["first_at"] - EPOCH) // timedelta(milliseconds=1)
                publisher.send(OutgoingMessage((found["body"],), failed=(found["count"], first_ms)))
                done.published += 1
                done.back += not self._remove(found)
            else:
                done.stay += 1

    def drop(self, which: Which) -> int:
        """Remove letters for good, and say how many. Raises DatabaseUnavailable."""
        with database_errors("dropping dead letters", _COUNT_SECONDS, COLLECTION):
            return self._letters.delete_many(which.filter()).deleted_count

    def _find(self, letter_id: str) -> dict[str, Any] | None:
        with database_errors("reading a dead letter", self._seconds, COLLECTION):
            return self._letters.find_one({"_id": letter_id})

    def _remove(self, found: Mapping[str, Any]) -> bool:
        # publish · a worker: the event fails, count + 1 · remove
        # Without the count the letter, and with it the event, would be lost.
        with database_errors("removing a dead letter", self._seconds, COLLECTION):
            gone = self._letters.delete_one({"_id": found["_id"], "count": found["count"]})
        return gone.deleted_count == 1


def _event_in(found: Mapping[str, Any]) -> bool:
    """Whether there is something to publish: not of a message that could not be read, nor of what was cut."""
    try:
        return bool(found["whole"]) and isinstance(json.loads(found["body"]), dict)
    except ValueError:  # edited by hand
        return False
