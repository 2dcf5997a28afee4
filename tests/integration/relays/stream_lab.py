"""The change stream turn by turn, in one process on real servers, up to the keys: the outbox's laboratory, and more."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from cachekeeper.relays.change_stream_relay import ChangeRelay
from cachekeeper.settings import StreamSettings
from testkit.waiting import wait_until
from tests.integration.relays.outbox_lab import REGISTRY, OutboxLab

if TYPE_CHECKING:
    from cachekeeper.model.registry import Registry
    from cachekeeper.reading.keeper import Keeper
    from testkit.shop import Shop

COLLECTIONS = ["blocked_tokens", "products", "sessions", "users"]


def in_an_hour() -> datetime:
    return datetime.now(UTC).replace(microsecond=0) + timedelta(hours=1)


class StreamLab(OutboxLab):
    """One test's change stream, outbox and worker."""

    def __init__(self, shop: Shop) -> None:
        super().__init__(shop)
        self.db = shop.db
        self.streams: list[ChangeRelay] = []
        self.outbox_relay = self.relay(outbox_retry_seconds=60)

    @property
    def keeper(self) -> Keeper:
        """The worker's."""
        return self.delivery.keeper

    def stream(
        self, kind: type[ChangeRelay] = ChangeRelay, registry: Registry = REGISTRY, *, lease: float = 0.001, **more: Any
    ) -> ChangeRelay:
        """A change stream's relay, whose lease has always just ended unless told otherwise."""
        url = self.shop.mongo.url_of(self.shop.name)
        settings = StreamSettings(**{"mongodb_url": url, "load_timeout_seconds": 10, **more})
        made = kind(settings, registry, lease_seconds=lease)
        self.streams.append(made)
        return made

    def begun(self, kind: type[ChangeRelay] = ChangeRelay, **more: Any) -> ChangeRelay:
        """One that leads, and whose first start is over: the outbox is empty."""
        made = self.stream(kind, **more)
        self.drain(made)
        assert made.leads
        self.apply()
        return made

    def drain(self, stream: ChangeRelay) -> int:
        """Turns until there is nothing more: what MongoDB has acknowledged, the stream has. How many changes."""
        total = 0
        while (found := stream.run_once()) or stream._first or not stream.leads:
            assert stream.leads or stream.run_once() or stream.leads, "another one leads"
            total += found
        return total

    def told(self) -> list[dict[str, Any]]:
        """The events in the outbox, without ids and times, in the order of their storing."""
        records = self.db["outbox"].find().sort("created_at")
        return [
            {name: value for name, value in json.loads(record["body"]).items() if name not in {"id", "time"}}
            for record in records
        ]

    def lost(self) -> list[str]:
        """The collections whose views the events in the outbox drop."""
        return sorted(event["collection"] for event in self.told() if event["type"] == "collection.changed")

    def apply(self) -> int:
        """Publish what is in the outbox, and apply it; how many events."""
        while self.outbox_relay.run_once():
            pass
        events = self.work_all()
        assert self.stored() == []
        return events

    def take_over(self, stream: ChangeRelay) -> None:
        """Turns until this one leads: the other's lease ends."""

        def leads() -> bool:
            stream.run_once()
            return stream.leads

        wait_until(leads, "the lease taken over")

    def close(self) -> None:
        for stream in self.streams:
            stream.close()
        super().close()
