"""Putting a message back on RabbitMQ, by both methods that there are, on a server that is said to be of 4.3.

What is shown: a nack puts back this message, once, and kombu and py-amqp go on as after a reject. What is not shown:
that RabbitMQ 4.3 does not count it.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, cast

import pytest
from amqp.exceptions import PreconditionFailed
from amqp.spec import Basic
from kombu import Connection
from kombu.exceptions import MessageStateError

from cachekeeper.broker.names import QUEUE
from cachekeeper.broker.queues import work_queue
from cachekeeper.consuming.acks import rejection, spare_deliveries
from producers import UserLoggedOut
from testkit.delivering import Site, forget_queues
from testkit.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kombu import Message

    from testkit.servers import RabbitServer

SOON = 60.0
NEW = "4.3.0"

both = pytest.mark.parametrize("line", [None, NEW], ids=["reject", "nack"], indirect=True)  # None: the version it has


class Line:
    """A channel with the queue of events, and what it sends.

    Attributes:
        method: by which a message should be put back.
        sent: those that were sent.
        together: nacks are sent for all messages up to theirs.
    """

    def __init__(self, connection: Connection, method: tuple[int, int]) -> None:
        self.method = method
        self.channel = cast("Any", connection.default_channel)
        self.sent: list[tuple[int, int]] = []
        self.together = False
        self._send = self.channel.send_method
        self.channel.send_method = self._note

    def _note(self, method: tuple[int, int], *arguments: Any, **options: Any) -> object:
        if method in (Basic.Reject, Basic.Nack):
            self.sent.append(method)
        if method == Basic.Nack and self.together:
            argsig, (tag, _, requeue) = arguments
            arguments = (argsig, (tag, True, requeue))
        return self._send(method, *arguments, **options)

    def publish(self, *bodies: str) -> None:
        for body in bodies:
            message = self.channel.prepare_message(body, content_encoding="utf-8")
            self.channel.basic_publish(message, exchange="", routing_key=QUEUE)

    def get(self) -> Message:
        found: Message = wait_until(lambda: self.channel.basic_get(QUEUE), "a message", SOON)
        message: Message = self.channel.message_to_python(found)
        return message


@pytest.fixture
def line(rabbit_server: RabbitServer, request: pytest.FixtureRequest) -> Iterator[Line]:
    forget_queues(rabbit_server)
    with Connection(rabbit_server.url) as connection:
        work_queue(rabbit_server.url)(connection.default_channel).declare()
        line = Line(connection, Basic.Nack if request.param else Basic.Reject)
        if request.param:
            line.channel.connection.server_properties["version"] = request.param
        spare_deliveries(line.channel)
        yield line


def put_back(message: Message) -> None:
    """As the worker does."""
    rejection(message)(logging.getLogger("tests"), (), requeue=True)


@both
def test_a_message_that_is_put_back_comes_again_and_counts_as_answered(line: Line) -> None:
    line.publish("one")
    message = line.get()
    put_back(message)
    assert line.sent == [line.method]
    assert message.acknowledged
    with pytest.raises(MessageStateError):
        put_back(message)
    with pytest.raises(MessageStateError):
        message.ack()
    again = line.get()
    assert again.body == "one"
    assert again.delivery_info["redelivered"]
    assert int(again.headers["x-delivery-count"]) == 1  # by both methods, before 4.3
    again.ack()
    assert line.channel.queue_purge(QUEUE) == 0


def only_one_is_put_back(line: Line) -> bool:
    """Of three in hand, the second."""
    line.publish("one", "two", "three")
    first, second, third = line.get(), line.get(), line.get()
    put_back(second)
    again = line.get()
    assert again.body in {"one", "two"}
    if again.body != "two" or line.channel.basic_get(QUEUE) is not None:
        return False
    for message in (third, first, again):
        message.ack()
    line.channel.queue_declare(QUEUE, passive=True)  # raises if the broker did not know one of them
    return True


@both
def test_those_before_it_stay_in_hand(line: Line) -> None:
    assert only_one_is_put_back(line)


@pytest.mark.parametrize("line", [NEW], indirect=True)
def test_a_nack_of_all_before_it_is_caught(line: Line) -> None:
    """Known bad: they would be worked on and come again, and their acknowledgements end the channel."""
    line.together = True
    assert not only_one_is_put_back(line)


@both
def test_an_unknown_tag_ends_the_channel_by_either_method(line: Line) -> None:
    line.channel.basic_reject(99, requeue=True)
    with pytest.raises(PreconditionFailed):
        line.channel.queue_declare(QUEUE, passive=True)


@both
def test_a_message_for_a_consumer_that_was_cancelled_is_put_back_in_the_same_way(line: Line) -> None:
    """By py-amqp, not by kombu: the message was on its way when the worker stopped fetching."""
    line.publish("late")
    line.channel.basic_consume(QUEUE, callback=lambda _: pytest.fail("nobody waits for it"))
    line.channel.callbacks.clear()  # as the cancellation does, before the broker has heard of it
    wait_until(lambda: line.channel.connection.drain_events(timeout=SOON) or line.sent, "the message", SOON)
    assert set(line.sent) == {line.method}


@pytest.mark.parametrize("site", ["rabbitmq"], indirect=True)
def test_a_worker_that_nacks_goes_through_an_outage(site: Site) -> None:
    """The same as with `reject`, on a RabbitMQ that is said to be one of 4.3."""
    with site.working("--include", "tests.integration.consuming.nacking_worker") as worker:
        site.publish(UserLoggedOut(token_id="before"))
        wait_until(lambda: site.client.exists("blocked:before"), "a worker that works", SOON)
        site.cache.kill()
        site.publish_each(*(UserLoggedOut(token_id=f"nacked{n}") for n in range(20)))
        wait_until(lambda: "stopped fetching events" in worker.log_tail(100), "a worker that waits", SOON)
        wait_until(lambda: site.waiting() == 20, "all events in the broker", SOON)
        said = worker.log.read_text()
        assert "put back by basic.nack" in said
        assert "put back by basic.reject" not in said
        site.cache.start()
        keys = [f"blocked:nacked{n}" for n in range(20)]
        wait_until(lambda: site.client.exists(*keys) == 20, "all events applied", SOON)
        site.settle()
        assert (site.letters, site.dead()) == ([], 0)
        assert "Traceback" not in worker.log.read_text()
