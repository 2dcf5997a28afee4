"""The upstream service: commits one change after the other, and publishes their events by one of three paths.

`python -m verification.losses.service PATH`. Its orders and its progress are a document in its database. A change and
the progress are one transaction, so that the next process continues after the last committed change.
"""

from __future__ import annotations

import sys
import time
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import pymongo
from pymongo import ReadPreference, WriteConcern

from cachekeeper.errors import BrokerUnavailable
from cachekeeper.settings import RelaySettings, load
from producers import Publisher, outbox
from testkit.faults import point
from verification.losses.changes import change, event_of

if TYPE_CHECKING:
    from pymongo.client_session import ClientSession

    from cachekeeper.model.events import Event

PLAN = "plan"
SAYS = "ready for orders"
_PAUSE_SECONDS = 0.005


class Path(StrEnum):
    """How a committed change becomes an event in the broker."""

    OUTBOX = "outbox"
    STREAM = "change stream"
    PLAIN = "plain call"


class Service:
    """One process of the upstream service.

    Args:
        path: how its events reach the broker.
        settings: where MongoDB and the broker are.
    """

    def __init__(self, path: Path, settings: RelaySettings) -> None:
        self.path = path
        self.client: pymongo.MongoClient[dict[str, Any]] = pymongo.MongoClient(settings.mongodb_url, tz_aware=True)
        self.database = self.client.get_default_database()
        self.publisher = Publisher(settings)

    def run(self) -> None:
        """Commit the ordered changes until killed."""
        while True:
            plan = self.database[PLAN].find_one({"_id": "service"})
            if plan is None or plan["next"] >= plan["until"]:
                time.sleep(_PAUSE_SECONDS)
                continue
            for number in range(plan["next"], plan["until"]):
                self.make(number)

    def make(self, number: int) -> None:
        """Commit one change. On the path of the plain call, then publish its event."""
        event = event_of(number)
        with self.client.start_session() as session:
            session.with_transaction(
                lambda session: self._write(session, number, event),
                write_concern=WriteConcern("majority"),
                read_preference=ReadPreference.PRIMARY,
            )
        point("service-committed")
        if self.path is Path.PLAIN:
            self._publish(event)
            point("service-confirmed")

    def _write(self, session: ClientSession, number: int, event: Event) -> None:
        change(self.database, session, number)
        self.database[PLAN].update_one({"_id": "service"}, {"$set": {"next": number + 1}}, session=session)
        if self.path is Path.OUTBOX:
            outbox.add(self.database, session, event)

    def _publish(self, event: Event) -> None:
        """Publish, and retry until the broker has confirmed the event."""
        while True:
            try:
                self.publisher.publish(event)
            except BrokerUnavailable:
                time.sleep(_PAUSE_SECONDS)
            else:
                return


if __name__ == "__main__":
    service = Service(Path(sys.argv[1]), load(RelaySettings))
    sys.stderr.write(f"{SAYS}\n")
    service.run()
