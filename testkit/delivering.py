"""A broker of either kind, a worker, and the servers that it writes to."""

from __future__ import annotations

import json
import re
import sys
import uuid
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self, cast

import pytest
from kombu import Connection

from cachekeeper.broker.names import DEAD_QUEUE, QUEUE, UNACKED
from cachekeeper.devservers import RedisServer, ServerProcess
from cachekeeper.devservers.worker_process import WorkerProcess
from cachekeeper.model.registry import load_registry
from cachekeeper.publishing.publisher import Publisher
from cachekeeper.publishing.wire_format import task_body, task_headers
from cachekeeper.reading.keeper import Keeper
from cachekeeper.settings import PublisherSettings, Settings
from producers import UserLoggedOut
from testkit.limits import PATIENT
from testkit.patient_publishing import PUBLISH_SECONDS, patience
from testkit.servers import RabbitServer
from testkit.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import redis
    from kombu import Message
    from pymongo.database import Database

    from cachekeeper.devservers import FoundServer, Guardian, MongoServer
    from cachekeeper.model.events import Event

REGISTRY = load_registry(["producers", "lookups", "worker"])


def remember_queues(broker: RedisServer | RabbitServer, *queues: str) -> None:
    """Wait until a broker would still know these queues after a SIGKILL.

    RabbitMQ writes the name of a quorum queue to disk about a second after the queue was made, even if it has confirmed
    messages earlier. A node that is killed before that never elects a leader for that queue again.
    """
    if isinstance(broker, RabbitServer):
        # The dead letters' queue has the name of the work queue, a dot, and more.
        names = [re.compile(re.escape(f"%2F_{queue}".encode()) + rb"(?!\.)") for queue in queues]

        def are_on_disk() -> bool:
            on_disk = b"".join(file.read_bytes() for file in broker.data.rglob("names.dets"))
            return all(name.search(on_disk) for name in names)

        wait_until(are_on_disk, "the queues on disk", 60)


def forget_queues(broker: RedisServer | RabbitServer) -> None:
    """Delete the queues, with messages that another module's tests have left. The next user makes them anew."""
    with Connection(broker.url) as connection:
        channel: Any = connection.default_channel
        for queue in (QUEUE, DEAD_QUEUE):
            channel.queue_delete(queue)


RELAY_SAYS = "publishing what is in the outbox"


class Program(ServerProcess):
    """A module of ours as a process; ready when its log says so.

    Args:
        guardian: ends the process if this one cannot.
        module: the module; run as `python -m`.
        word: its first argument.
        environment: more variables.
        says: the text in its log when it is ready.
    """

    listens = False

    def __init__(
        self, guardian: Guardian, module: str, word: str, environment: Mapping[str, str], *, says: str
    ) -> None:
        super().__init__(guardian, word)
        self.environment = dict(environment)
        self._module = module
        self._says = says

    def _command(self) -> Sequence[str]:
        return [sys.executable, "-m", self._module, self.name]

    def _environment(self) -> Mapping[str, str]:
        return {"PYTHONUNBUFFERED": "1", **self.environment}

    def _not_ready(self) -> str | None:
        return None if self._says in self.log_tail() else f"it has not said: {self._says}"


@dataclass
class Site:
    """The servers of one test: where events are published, and where their effects arrive.

    Attributes:
        guardian: ends the processes that are started here.
        broker: Redis or RabbitMQ.
        cache: both Redis roles.
        mongo: the server of `database`.
        database: the name of the database.
        environment: more variables for the worker.
    """

    guardian: Guardian
    broker: RedisServer | RabbitServer
    cache: RedisServer
    mongo: MongoServer
    database: str
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        settings = PublisherSettings(broker_url=self.broker.url, publish_timeout_seconds=PUBLISH_SECONDS)
        self.publisher = Publisher(settings)
        self.client: redis.Redis = self.cache.client()
        self.mongo_client = self.mongo.client()
        self.keeper = Keeper(
            Settings(redis_url=self.cache.url, mongodb_url=self.mongo.url_of(self.database), **PATIENT)
        )

    @property
    def db(self) -> Database[dict[str, Any]]:
        """The worker's database."""
        return self.mongo_client[self.database]

    @property
    def letters(self) -> list[dict[str, Any]]:
        """All dead letters."""
        return list(self.db["dead_letters"].find())

    @property
    def is_rabbit(self) -> bool:
        return isinstance(self.broker, RabbitServer)

    def worker(self, *arguments: str) -> WorkerProcess:
        """A worker; not started."""
        environment = {
            "CACHEKEEPER_REDIS_URL": self.cache.url,
            "CACHEKEEPER_SECURITY_REDIS_URL": self.cache.url,
            "CACHEKEEPER_MONGODB_URL": self.mongo.url_of(self.database),
            "CACHEKEEPER_BROKER_URL": self.broker.url,
            **self.environment,
        }
        return WorkerProcess(self.guardian, environment, arguments=arguments)

    @contextmanager
    def working(self, *arguments: str) -> Iterator[WorkerProcess]:
        """Run a worker inside the block."""
        worker = self.worker(*arguments)
        worker.start()
        try:
            yield worker
        finally:
            worker.stop()

    def publish(self, *events: Event) -> None:
        with patience():
            self.publisher.publish_many(events)

    def publish_each(self, *events: Event) -> None:
        """Publish one message for each event."""
        for event in events:
            self.publish(event)

    def send(self, body: bytes, headers: dict[str, Any] | None = None, **properties: Any) -> None:
        """Put any message into the queue, as a foreign program might."""
        properties = {"content_type": "application/json", "content_encoding": "utf-8", **properties}
        with Connection(self.broker.url) as connection, connection.Producer() as producer:
            # A copy, because kombu changes the headers.
            producer.publish(body, routing_key=QUEUE, headers=dict(headers or {}), retry=False, **properties)

    def send_events(self, bodies: Sequence[object], message_id: str | None = None) -> None:
        """Send one message with any JSON values in the place of events."""
        texts = [json.dumps(body) for body in bodies]
        self.send(task_body(texts), task_headers(message_id or str(uuid.uuid4()), len(texts)))

    def waiting(self, queue: str = QUEUE) -> int:
        """Return how many messages wait in the queue, without those in flight in a worker."""
        if not isinstance(self.broker, RabbitServer):
            with self.broker.client() as client:
                return cast("int", client.llen(queue))
        with Connection(self.broker.url) as connection:
            channel: Any = connection.default_channel
            return int(channel.queue_declare(queue, passive=True).message_count)

    def held(self) -> int:
        """With Redis as the broker: return how many messages are in flight in workers."""
        assert not isinstance(self.broker, RabbitServer)
        with self.broker.client() as client:
            return cast("int", client.hlen(UNACKED))

    def dead(self) -> int:
        """Return how many messages RabbitMQ has given up on."""
        return self.waiting(DEAD_QUEUE)

    def deliveries(self) -> list[int]:
        """With RabbitMQ: return how often each waiting message has been delivered. This adds one delivery to each."""
        found: list[Message] = []
        with Connection(self.broker.url) as connection:
            channel: Any = connection.default_channel
            while (message := channel.basic_get(QUEUE)) is not None:
                found.append(message)
            for message in found:
                channel.basic_reject(message.delivery_tag, requeue=True)
        return [int(message.headers.get("x-delivery-count", 0)) for message in found]

    def settle(self, *, seconds: float = 60) -> None:
        """Publish one more event and wait until it is applied, then until the queue is empty.

        Order is not guaranteed, so the first wait only shows that a worker is running.
        """
        mark = f"mark-{uuid.uuid4()}"
        self.publish(UserLoggedOut(token_id=mark))
        wait_until(lambda: self.client.exists(f"blocked:{mark}"), "a last event applied", seconds)
        wait_until(lambda: not self.waiting(), "an empty queue", seconds)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.publisher.close()
        self.keeper.close()
        self.client.close()
        self.mongo_client.close()


@pytest.fixture(scope="module", params=["redis", "rabbitmq"])
def site(request: pytest.FixtureRequest, guardian: Guardian, redis_found: FoundServer) -> Iterator[Site]:
    """A site with each broker in turn, for a module. Its tests share the servers, and bear each other's leftovers."""
    mongo: MongoServer = request.getfixturevalue("mongo_server")
    cache = RedisServer(guardian, redis_found, name="cache")
    cache.start()
    broker: RedisServer | RabbitServer
    if request.param == "redis":
        broker = RedisServer(guardian, redis_found, name="broker")
        broker.start()
    else:
        broker = request.getfixturevalue("rabbit_server")
        forget_queues(broker)
    with Site(guardian, broker, cache, mongo, f"delivery_{request.param}") as site:
        yield site
        site.mongo_client.drop_database(site.database)
    cache.kill()
    if isinstance(broker, RedisServer):
        broker.kill()


@pytest.fixture(scope="module")
def worker(site: Site) -> Iterator[WorkerProcess]:
    """A worker that runs through a module, except while a test breaks it."""
    with site.working() as worker:
        yield worker
