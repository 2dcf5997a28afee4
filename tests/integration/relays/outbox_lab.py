"""The outbox step by step, in one process on real servers: who is killed, and where, is the test's to say."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from kombu import Connection
from redis import Redis

from cachekeeper.broker.names import QUEUE
from cachekeeper.broker.queues import transport_options
from cachekeeper.consuming.messages import EventMessage, read_message
from cachekeeper.consuming.processor import Processor, Verdict
from cachekeeper.model.registry import load_registry
from cachekeeper.relays.outbox_relay import Relay
from cachekeeper.settings import RelaySettings
from lookups import read_user
from producers import UserUpdated, outbox
from testkit.patient_publishing import ANSWER_SECONDS, PUBLISH_SECONDS, patience
from testkit.verdicts import verdicts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kombu import Message

    from cachekeeper.model.events import Event
    from testkit.shop import Shop

REGISTRY = load_registry(["producers", "lookups", "worker"])


class Killed(KeyboardInterrupt):
    """Stands for a process that ends here: nothing after it happens. What a signal raises is caught by nobody."""


class OutboxLab:
    """One test's outbox, relays and worker. The broker is database 1 of the shop's Redis."""

    def __init__(self, shop: Shop) -> None:
        self._patience = ExitStack()
        self._patience.enter_context(patience())  # tests count what is published
        self.shop = shop
        self.broker_url = f"redis://127.0.0.1:{shop.server.port}/1"
        self.broker = Redis.from_url(self.broker_url)
        self.relays: list[Relay] = []
        self.deliveries: list[Processor] = []
        self.new_worker()
        options = transport_options(self.broker_url, ANSWER_SECONDS)
        self._connection = Connection(self.broker_url, transport_options=options)

    def relay(self, kind: type[Relay] = Relay, **changes: Any) -> Relay:
        """A relay, patient unless told otherwise: what is due again, and when, is for `time_passes` to say."""
        settings = RelaySettings(
            **{
                "mongodb_url": self.shop.mongo.url_of(self.shop.name),
                "broker_url": self.broker_url,
                "load_timeout_seconds": 10,
                "publish_timeout_seconds": PUBLISH_SECONDS,
                "outbox_retry_seconds": 60,
                **changes,
            }
        )
        relay = kind(settings)
        self.relays.append(relay)
        return relay

    def new_worker(self) -> None:
        """The successor of one that was killed."""
        settings = self.shop.settings(broker_url=self.broker_url, publish_timeout_seconds=PUBLISH_SECONDS)
        self.delivery = Processor(settings, REGISTRY)
        self.deliveries.append(self.delivery)
        self.delivery.pause.start()

    def store(self, *events: Event) -> None:
        """Events, each in the transaction of a change: users get the name that theirs tells."""
        users = self.shop.db["users"]
        with self.shop.db.client.start_session() as session, session.start_transaction():
            for event in events:
                if isinstance(event, UserUpdated):
                    change = {"$set": {"name": event.name, "version": event.version}}
                    users.update_one({"_id": event.user_id}, change, upsert=True, session=session)
            outbox.add(self.shop.db, session, *events)

    def stored(self) -> list[str]:
        """The ids in the outbox."""
        return [record["_id"] for record in self.shop.db["outbox"].find({}, {"_id": 1}).sort("_id")]

    def take(self) -> Message | None:
        """One message from the broker."""
        channel: Any = self._connection.default_channel
        message: Message | None = channel.basic_get(QUEUE, no_ack=True)
        return message

    def work(self, message: Message) -> Verdict:
        """What the worker does with a message, up to its acknowledgement."""
        (verdict,) = verdicts(self.delivery, [read_message(message)])
        return verdict

    def work_all(self) -> int:
        """Deal with all messages that wait; how many events they carried."""
        events = 0
        while (message := self.take()) is not None:
            parcel = read_message(message)
            assert isinstance(parcel, EventMessage)
            events += len(parcel.events)
            assert self.work(message) is Verdict.DONE
        return events

    def published(self) -> Counter[str]:
        """How often each event waits in the broker; they are taken out."""
        seen: Counter[str] = Counter()
        while (message := self.take()) is not None:
            parcel = read_message(message)
            assert isinstance(parcel, EventMessage)
            seen.update(body["id"] for body in parcel.events if isinstance(body, dict))
        return seen

    def time_passes(self) -> None:
        """All that is under way is due again."""
        back = {"$subtract": ["$due_at", 100 * 3_600_000]}
        self.shop.db["outbox"].update_many({"due_at": {"$type": "date"}}, [{"$set": {"due_at": back}}])

    def again(self, relay: Relay) -> int:
        """One round, when time has passed for the relay too."""
        self.time_passes()
        relay._retries.not_before = 0
        return relay.run_once()

    def close(self) -> None:
        for relay in self.relays:
            relay.close()
        for delivery in self.deliveries:
            delivery.pause.stop()
            delivery.keeper.close()
        self._connection.release()
        self.broker.close()
        self._patience.close()


def renamed(number: int, version: int = 2) -> UserUpdated:
    return UserUpdated(user_id=f"u{number}", name=f"name {version} of {number}", version=version)


def old_names_are_cached(lab: OutboxLab, count: int) -> list[UserUpdated]:
    """Users, each of whose cached name the event with the same number makes old."""
    lab.store(*(renamed(number, 1) for number in range(count)))
    lab.shop.db["outbox"].delete_many({})
    for number in range(count):
        assert read_user(f"u{number}", keeper=lab.delivery.keeper) == f"name 1 of {number}"
    return [renamed(number) for number in range(count)]


def stale(lab: OutboxLab, events: Sequence[UserUpdated]) -> list[str]:
    """The users whose cached name is not the one that was committed."""
    return [event.user_id for event in events if read_user(event.user_id, keeper=lab.delivery.keeper) != event.name]
