"""Whatever a handler or a document does, the event is applied or a dead letter, and the others are applied."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from amqp.spec import Basic
from kombu import Connection

from cachekeeper.broker.names import DEAD_QUEUE, QUEUE
from cachekeeper.broker.queues import DELIVERY_LIMIT, dead_queue, work_queue
from cachekeeper.publishing.publisher import Publisher
from cachekeeper.settings import PublisherSettings
from producers import UserLoggedOut, UserUpdated
from testkit.delivering import Site
from testkit.limits import PATIENT
from testkit.shop_of_faults import WentWrong
from testkit.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cachekeeper.devservers import Guardian, MongoServer, RedisServer
    from testkit.servers import RabbitServer

SOON = 60.0
TOKEN = "correct-horse-battery-staple"


@pytest.fixture
def site(guardian: Guardian, redis_server: RedisServer, mongo_server: MongoServer, database: str) -> Iterator[Site]:
    """One Redis is everything here."""
    # No time limit is met by accident: a refusal needs none.
    environment = {f"CACHEKEEPER_{name.upper()}": str(value) for name, value in PATIENT.items()}
    environment["CACHEKEEPER_MODULES"] = "producers,lookups,worker,testkit.shop_of_faults"
    with Site(guardian, redis_server, redis_server, mongo_server, database, environment) as site:
        yield site


@pytest.mark.parametrize(
    ("how", "error"),
    [
        ("raises", "LookupError"),
        ("exits", "SystemExit"),
        ("is cancelled", "CancelledError"),
        ("is interrupted", "KeyboardInterrupt"),
        ("has a value that no codec ends with", "CancelledError"),
        ("asks for what cannot be written", "OverflowError"),
    ],
)
def test_a_handler_that_goes_wrong(site: Site, how: str, error: str) -> None:
    with site.working() as worker:
        site.publish(UserLoggedOut(token_id="before"), WentWrong(how=how, token=TOKEN), UserLoggedOut(token_id="after"))
        wait_until(lambda: site.letters, "a dead letter", SOON)
        wait_until(lambda: site.client.exists("blocked:before", "blocked:after") == 2, "the others applied", SOON)
        site.settle()
        (letter,) = site.letters
        assert letter["type"] == "went.wrong"
        assert letter["error"] == error
        assert letter["count"] == 1
        assert "Traceback" in letter["traceback"]
        assert json.loads(letter["body"])["token"] == TOKEN
        assert TOKEN not in letter["reason"] + letter["traceback"] + worker.log.read_text()
        wait_until(lambda: not site.held(), "the last acknowledgement", SOON)
        assert worker.alive


def test_an_event_that_a_validator_forbids_holds_up_nobody(site: Site) -> None:
    """As logouts of sessions that nobody has saved, where the collection asks for a user, say."""
    site.db.create_collection("sessions", validator={"_id": {"$ne": "forbidden"}})
    with site.working() as worker:
        guilty = UserLoggedOut(token_id=TOKEN, session_id="forbidden")
        site.publish(UserLoggedOut(token_id="before"), guilty, UserLoggedOut(token_id="after"))
        site.publish_each(*(UserLoggedOut(token_id=f"{TOKEN}-{number}", session_id="forbidden") for number in range(9)))
        wait_until(lambda: len(site.letters) == 10, "ten dead letters", SOON)
        wait_until(lambda: site.client.exists("blocked:before", "blocked:after") == 2, "the others applied", SOON)
        site.settle()
        assert {letter["error"] for letter in site.letters} == {"WriteRefused"}
        assert "Document failed validation" in site.letters[0]["traceback"]
        assert "stopped fetching events" not in worker.log.read_text()
        assert TOKEN not in worker.log.read_text()


def test_an_event_that_no_server_takes_holds_up_the_others_for_a_while_only(site: Site) -> None:
    # It looks like an outage, but the servers are well, each time the worker asks them.
    with site.working() as worker:
        guilty = WentWrong(how="asks for what MongoDB refuses", token=TOKEN)
        site.publish(UserLoggedOut(token_id="before"), guilty, UserLoggedOut(token_id="after"))
        wait_until(lambda: site.letters, "a dead letter", SOON)
        site.publish(UserLoggedOut(token_id="next"))
        wait_until(lambda: site.client.exists("blocked:next"), "the next event applied", SOON)
        (letter,) = site.letters
        assert (letter["type"], letter["error"]) == ("went.wrong", "DatabaseUnavailable")
        assert "$there_is_no_such_stage" in letter["traceback"]  # why
        assert site.client.exists("blocked:before", "blocked:after") == 2
        assert worker.log.read_text().count("stopped fetching events") == 8
        assert worker.alive
        site.settle()


def test_a_damaged_document_fails_no_event(site: Site) -> None:
    site.db["users"].insert_many([{"_id": 1, "name": 5, "version": 1}, {"_id": 2, "name": "Ada", "version": 1}])
    with site.working() as worker:
        site.publish(
            UserUpdated(user_id="1", name="what the document does not say", version=1),
            UserUpdated(user_id="2", name="Ada", version=1),
            UserUpdated(user_id="3", name="nobody", version=1),
        )
        site.settle()
        wait_until(lambda: site.client.get("user:2:name") == b"Ada", "the good one, warm", SOON)
        assert not site.client.exists("user:1:name", "user:3:name")
        assert site.letters == []
        assert worker.alive


def test_no_log_shows_a_token_however_much_it_says(site: Site) -> None:
    with site.working("--loglevel", "debug", "--concurrency", "2") as worker:
        site.publish(UserLoggedOut(token_id=TOKEN, session_id=TOKEN), WentWrong(how="raises", token=TOKEN))
        site.send_events([{"type": "user.logged_out", "token_id": TOKEN + " "}, {"type": TOKEN}])
        site.send(TOKEN.encode(), {"task": "x", "id": "y"})
        wait_until(lambda: len(site.letters) == 4, "four dead letters", SOON)
        site.settle()
        wait_until(lambda: "processed 1 messages" in worker.log.read_text(), "a word of it: it does say much", SOON)
        assert TOKEN not in worker.log.read_text()


def by_reject(channel: Any, delivery_tag: int) -> None:
    channel.basic_reject(delivery_tag, requeue=True)


def by_nack(channel: Any, delivery_tag: int) -> None:
    channel.send_method(Basic.Nack, "Lbb", (delivery_tag, False, True))


def by_a_lost_channel(channel: Any, _: int) -> None:
    """As when the worker is killed."""
    channel.close()


@pytest.mark.parametrize("put_back", [by_reject, by_nack, by_a_lost_channel])
def test_what_rabbitmq_gives_up_is_kept(rabbit_server: RabbitServer, put_back: Callable[[Any, int], None]) -> None:
    """A message that ends every worker that takes it. RabbitMQ 4.3, where this has not run yet, counts no nack."""
    publisher = Publisher(PublisherSettings(broker_url=rabbit_server.url))
    with Connection(rabbit_server.url) as connection:
        watching: Any = connection.default_channel
        for queue in (work_queue(rabbit_server.url), dead_queue()):
            queue(watching).declare()
        for name in (QUEUE, DEAD_QUEUE):
            watching.queue_purge(name)
        publisher.publish(UserLoggedOut(token_id="deadly"))
        publisher.close()
        deliveries = 0

        def waiting(name: str) -> bool:
            return bool(watching.queue_declare(name, passive=True).message_count)

        while deliveries < DELIVERY_LIMIT + 20:
            wait_until(lambda: waiting(QUEUE) or waiting(DEAD_QUEUE), "the message in a queue", SOON)
            channel: Any = connection.channel()
            if (message := channel.basic_get(QUEUE)) is None:
                break
            deliveries += 1
            put_back(channel, message.delivery_tag)
            if channel.is_open:
                channel.close()
        if put_back is by_nack and rabbit_version(watching) >= (4, 3):
            assert waiting(QUEUE)
            return
        assert deliveries == DELIVERY_LIMIT + 1
        kept = wait_until(lambda: watching.basic_get(DEAD_QUEUE, no_ack=True), "the message among the dead", SOON)
        assert json.loads(kept.body)[0][0][0]["token_id"] == "deadly"


def rabbit_version(channel: Any) -> tuple[int, ...]:
    return tuple(int(number) for number in channel.connection.server_properties["version"].split(".")[:2])
