"""The transport to a Redis broker: a message is on its list or in the record of what workers hold, whatever is refused.

What a worker does with it is in `test_full_broker`.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import kombu
import pytest

from cachekeeper.broker.names import QUEUE, UNACKED, UNACKED_INDEX
from cachekeeper.consuming import redis_channel
from cachekeeper.consuming.redis_channel import Connection
from testkit.waiting import wait_until
from tests.integration.consuming.redis_consuming import SOON, connected, consuming, item, listed, numbers, push, records

if TYPE_CHECKING:
    import redis

    from cachekeeper.devservers import RedisServer


def test_a_message_that_is_got_while_another_is_taken_is_a_delivery_of_its_own(
    any_redis: RedisServer, broker_client: redis.Redis
) -> None:
    push(broker_client, 1)
    with consuming(any_redis) as worker:
        worker.get()[0].ack()
        push(broker_client, 2)
        worker.channel._brpop_start()
        wait_until(lambda: broker_client.llen(QUEUE) == 1, "the first message taken", SOON)
        got = worker.channel.basic_get(QUEUE)
        worker.channel._brpop_read()
        assert numbers([worker.held[-1], got]) == [0, 1]
        for message in (worker.held[-1], got):
            message.ack()
        assert records(broker_client) == 0


# --- deliveries


def test_messages_of_one_tag_are_two_deliveries(any_redis: RedisServer, broker_client: redis.Redis) -> None:
    """A producer in another language may well give all of them the same."""
    items = push(broker_client, 2)
    with consuming(any_redis) as at:
        first, second = at.get(2)
        assert records(broker_client) == 2
        first.ack()
        assert records(broker_client) == 1
        second.requeue()
    assert listed(broker_client) == items[1:]


def test_a_late_acknowledgement_is_not_that_of_the_next_delivery(
    any_redis: RedisServer, broker_client: redis.Redis
) -> None:
    """Held too long · put back · taken by another · the first acknowledges · the other dies."""
    items = push(broker_client, 1)
    with consuming(any_redis) as first, consuming(any_redis) as second:
        (message,) = first.get()
        broker_client.zadd(UNACKED_INDEX, {message.delivery_tag: 1}, xx=True)
        second.channel.qos.restore_visible()
        second.get()
        message.ack()
        assert records(broker_client) == 1
    assert (records(broker_client), listed(broker_client)) == (0, items)


def test_a_tag_without_a_message_is_removed(any_redis: RedisServer, broker_client: redis.Redis) -> None:
    """Left by an acknowledgement of which only the first half arrived."""
    broker_client.zadd(UNACKED_INDEX, {"gone": 1})
    with consuming(any_redis) as at:
        at.channel.qos.restore_visible()
    assert broker_client.exists(UNACKED_INDEX, QUEUE) == 0


def test_kombu_itself_could_put_a_message_back(any_redis: RedisServer, broker_client: redis.Redis) -> None:
    push(broker_client, 1)
    theirs = {"unacked_key": UNACKED, "unacked_index_key": UNACKED_INDEX, "priority_steps": [0]}
    with consuming(any_redis) as at, kombu.Connection(any_redis.url, transport_options=theirs) as connection:
        (message,) = at.get()
        kombus: Any = connection.default_channel
        kombus.qos.restore_by_tag(message.delivery_tag)
        (restored,) = listed(broker_client)
    assert json.loads(restored)["body"] == "0"
    assert records(broker_client) == 0


def test_a_server_that_has_forgotten_the_script_is_told_again(
    any_redis: RedisServer, broker_client: redis.Redis
) -> None:
    with consuming(any_redis) as at:
        push(broker_client, 1)
        at.get()
        broker_client.script_flush()
        push(broker_client, 1)
        at.get()
    assert listed(broker_client)  # put back


def test_a_lost_connection_while_it_waits_is_raised_and_made_again(
    any_redis: RedisServer, broker_client: redis.Redis
) -> None:
    with consuming(any_redis) as at:
        at.idle()
        broker_client.client_kill_filter(_type="normal", skipme=True)
        with pytest.raises(at.connection.connection_errors):
            at.get()
        push(broker_client, 1)
        assert numbers(at.get()) == [0]


# --- other queues


def test_a_channel_may_consume_several_queues(any_redis: RedisServer, broker_client: redis.Redis) -> None:
    """`celery control add_consumer`. No command waits for several lists; so it asks again, after pauses."""
    with consuming(any_redis) as at:
        at.consumer.add_queue(kombu.Queue("another"))
        at.consumer.consume()
        at.idle()
        broker_client.lpush("another", item(7))
        (message,) = at.get()
        assert numbers([message]) == [7]
        message.requeue()
        assert broker_client.llen("another") == 1
        push(broker_client, 1)
        assert sorted(numbers(at.get(2))) == [0, 7]


def test_what_nobody_acknowledges_is_not_recorded(any_redis: RedisServer, broker_client: redis.Redis) -> None:
    push(broker_client, 2)
    with connected(any_redis) as connection:
        seen: list[Any] = []
        channel: Any = connection.default_channel
        assert channel.basic_get(QUEUE, no_ack=True) is not None
        connection.Consumer([kombu.Queue(QUEUE)], no_ack=True, on_message=seen.append).consume()
        while not seen:
            connection.drain_events(timeout=SOON)
    assert broker_client.exists(UNACKED, UNACKED_INDEX, QUEUE) == 0


@pytest.mark.parametrize("name", ['a"b', "a\\b", "a\nb", "a" * 251])
def test_a_name_that_a_record_could_not_tell_is_refused(any_redis: RedisServer, name: str) -> None:
    with connected(any_redis) as connection:
        channel: Any = connection.default_channel
        with pytest.raises(ValueError, match="the name of a queue"):
            channel.basic_get(name)


@pytest.mark.parametrize(
    ("url", "ours"), [("redis://host", True), ("rediss://host", True), ("amqp://host", False), ("memory://", False)]
)
def test_only_redis_has_this_transport(url: str, *, ours: bool) -> None:
    assert (Connection(url).get_transport_cls() is redis_channel.Transport) == ours
    assert (Connection(url).clone().get_transport_cls() is redis_channel.Transport) == ours
    with Connection(url).Pool(limit=1).acquire(block=False) as pooled:
        assert (pooled.get_transport_cls() is redis_channel.Transport) == ours
