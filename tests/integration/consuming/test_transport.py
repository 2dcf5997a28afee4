"""The transport to a Redis broker: a message is on its list or in the record of what workers hold, whatever is refused.

What a worker does with it is in `test_full_broker`.
"""

from __future__ import annotations

import json
import socket
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import kombu
import pytest
from redis.exceptions import ResponseError

from cachekeeper.broker.names import PAUSE, QUEUE, UNACKED, UNACKED_INDEX
from cachekeeper.broker.queues import transport_options, work_queue
from cachekeeper.consuming import redis_channel
from cachekeeper.consuming.redis_channel import Connection
from cachekeeper.errors import BrokerUnavailable
from cachekeeper.publishing.broker_connection import BrokerConnection
from cachekeeper.publishing.wire_format import OutgoingMessage
from testkit.full_brokers import full
from testkit.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    import redis

    from cachekeeper.devservers import RedisServer

SOON = 30.0
SHORT = 0.5
YEAR = 365 * 86_400


def connected(server: RedisServer, **options: Any) -> Connection:
    return Connection(server.url, transport_options={**transport_options(server.url, SOON), **options})


@pytest.fixture
def broker_client(any_redis: RedisServer) -> Iterator[redis.Redis]:
    with any_redis.client() as client:
        yield client


class Consuming:
    """A connection that consumes events, and holds what it gets."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.held: list[Any] = []
        self.consumer = connection.Consumer([work_queue(connection.as_uri())], on_message=self.held.append)
        self.consumer.consume()

    @property
    def channel(self) -> Any:
        return self.connection.default_channel

    def get(self, count: int = 1) -> list[Any]:
        """So many messages more."""
        wanted = len(self.held) + count
        while len(self.held) < wanted:
            self.connection.drain_events(timeout=SOON)
        return self.held[-count:]

    def idle(self, seconds: float = SHORT) -> None:
        """Listen so long, and get nothing."""
        held = len(self.held)
        with suppress(socket.timeout):
            self.connection.drain_events(timeout=seconds)
        assert len(self.held) == held


@contextmanager
def consuming(server: RedisServer, **options: Any) -> Iterator[Consuming]:
    with connected(server, **options) as connection:
        yield Consuming(connection)


def item(number: int, tag: str = "one for all") -> bytes:
    properties = {"delivery_tag": tag, "delivery_info": {"exchange": "", "routing_key": QUEUE}, "priority": 0}
    return json.dumps({"body": str(number), "headers": {}, "properties": properties}).encode()


def push(client: redis.Redis, count: int) -> list[bytes]:
    """As whoever publishes in another language. The first of them is the first to be taken."""
    items = [item(number) for number in range(count)]
    client.lpush(QUEUE, *items)
    return items


def numbers(messages: list[Any]) -> list[int]:
    return [int(message.body) for message in messages]


def listed(client: redis.Redis) -> list[bytes]:
    """What is on the list; the next to be taken is the first."""
    found: Any = client.lrange(QUEUE, 0, -1)
    return [*reversed(found)]


def records(client: redis.Redis) -> int:
    """How many messages are recorded as held."""
    held: Any = client.hlen(UNACKED)
    assert client.zcard(UNACKED_INDEX) == held
    return int(held)


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


# --- a full broker


def test_a_full_broker_hands_out_all_and_takes_every_answer(any_redis: RedisServer, broker_client: redis.Redis) -> None:
    items = push(broker_client, 6)
    with consuming(any_redis) as at, full(any_redis):
        messages = at.get(6)
        assert numbers(messages) == [*range(6)]
        assert records(broker_client) == 6
        messages[0].ack()
        messages[1].reject()
        messages[2].requeue()
        assert (records(broker_client), listed(broker_client)) == (3, [items[2]])
        at.channel.close()  # puts back what it still holds
        assert records(broker_client) == 0
        assert sorted(listed(broker_client)) == sorted(items[2:])


def test_one_that_is_full_when_a_worker_connects_hands_out_all(
    any_redis: RedisServer, broker_client: redis.Redis
) -> None:
    """Declaring the queue writes, and asks for its length; control commands have a queue that expires."""
    push(broker_client, 3)
    with full(any_redis), consuming(any_redis) as at:
        assert numbers(at.get(3)) == [0, 1, 2]
        expiring = kombu.Queue("answers", kombu.Exchange("answers"), "answers", expires=10)
        expiring(at.channel).declare()
        at.channel._active_queues.append("answers")
        at.channel.maybe_refresh_binding_expiry()
    assert broker_client.scard("_kombu.binding.answers") == 1


def test_what_was_held_too_long_is_put_back_by_a_full_broker(
    any_redis: RedisServer, broker_client: redis.Redis
) -> None:
    """By kombu it is not: it takes a lock first, which is a write, and then a transaction."""
    items = push(broker_client, 250)
    with connected(any_redis, visibility_timeout=60) as gone, connected(any_redis, visibility_timeout=60) as other:
        channel: Any = gone.default_channel
        held = [channel.basic_get(QUEUE) for _ in items]
        for message in held[1:]:
            broker_client.zadd(UNACKED_INDEX, {message.delivery_tag: 1}, xx=True)
        with full(any_redis):
            restoring: Any = other.default_channel
            restoring.qos.restore_visible()
        assert records(broker_client) == 1
        assert sorted(listed(broker_client)) == sorted(items[1:])
        channel.qos._delivered.clear()


@pytest.mark.parametrize("is_full", [True, False])
def test_with_nothing_to_do_it_asks_seldom(
    any_redis: RedisServer, broker_client: redis.Redis, *, is_full: bool
) -> None:
    with consuming(any_redis) as at:
        at.idle()
        broker_client.config_resetstat()
        if is_full:
            with full(any_redis):
                at.idle(3)
        else:
            at.idle(3)
        stats: Any = broker_client.info("commandstats")
    asked = {name: stats.get(f"cmdstat_{name}", {}).get("calls", 0) for name in ("eval", "evalsha", "blmove", "brpop")}
    assert sum(asked.values()) <= 25, asked
    assert bool(asked["brpop"]) == is_full


def test_it_waits_for_a_message_and_leaves_it_where_it_is(any_redis: RedisServer, broker_client: redis.Redis) -> None:
    with consuming(any_redis) as first, consuming(any_redis) as second:
        first.idle()
        second.idle()  # both wait
        push(broker_client, 2)
        assert numbers(first.get()) == [0]
        assert numbers(second.get()) == [1]
        assert broker_client.exists(QUEUE, PAUSE) == 0


def test_a_publisher_says_that_its_broker_is_full(any_redis: RedisServer, broker_client: redis.Redis) -> None:
    """`/readyz` of the HTTP door asks so. A queue may be declared there all the same."""
    connection = BrokerConnection(any_redis.url, SOON)
    with full(any_redis):
        with pytest.raises(BrokerUnavailable, match="OutOfMemoryError"):
            connection.probe()
        with pytest.raises(BrokerUnavailable, match="OutOfMemoryError"):
            connection.send(OutgoingMessage([]), SOON)
    connection.probe()
    connection.close()
    assert broker_client.exists(PAUSE, QUEUE) == 0


# --- a refusal


REFUSED = pytest.mark.parametrize("key", [UNACKED, UNACKED_INDEX])


@REFUSED
def test_what_cannot_be_recorded_stays_where_it_was(
    any_redis: RedisServer, broker_client: redis.Redis, key: str
) -> None:
    items = push(broker_client, 3)
    with consuming(any_redis) as at:
        broker_client.set(key, "of another kind")
        with pytest.raises(ResponseError):
            at.get()
        assert listed(broker_client) == items
        broker_client.delete(key)
        assert records(broker_client) == 0
        assert numbers(at.get(3)) == [0, 1, 2]


def test_what_cannot_be_put_back_stays_recorded(any_redis: RedisServer, broker_client: redis.Redis) -> None:
    (pushed,) = push(broker_client, 1)
    with consuming(any_redis) as at:
        (message,) = at.get()
        broker_client.set(QUEUE, "of another kind")
        with pytest.raises(at.connection.channel_errors):
            message.requeue()
        assert records(broker_client) == 1
        broker_client.delete(QUEUE)
        message.requeue()
        assert listed(broker_client) == [pushed]


_RECORD_FIRST = """
local item = redis.call('LINDEX', KEYS[3], -1)
if not item then return false end
redis.call('HSET', KEYS[1], ARGV[1], '[' .. item .. ARGV[2])
redis.call('ZADD', KEYS[2], redis.call('TIME')[1], ARGV[1])
redis.call('RPOP', KEYS[3])
return {1, item}
"""
_MOVED = """
local item = redis.call('LMOVE', KEYS[3], KEYS[1] .. '.list', 'RIGHT', 'LEFT')
if not item then return false end
return {1, item}
"""
STALLING = {"recorded first": _RECORD_FIRST, "moved to another list": _MOVED}


@pytest.mark.parametrize("mutant", STALLING.values(), ids=STALLING.keys())
def test_a_mutant_that_adds_first_gets_nothing_from_a_full_broker(
    any_redis: RedisServer, broker_client: redis.Redis, monkeypatch: pytest.MonkeyPatch, mutant: str
) -> None:
    monkeypatch.setattr(redis_channel, "TAKE", mutant)
    items = push(broker_client, 3)
    with consuming(any_redis) as at:
        assert numbers(at.get()) == [0]  # there is room
        with full(any_redis), pytest.raises(ResponseError):
            at.get()
        assert listed(broker_client) == items[1:]


def test_a_mutant_that_puts_nothing_back_loses_the_message(
    any_redis: RedisServer, broker_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    mutant = redis_channel.TAKE.replace("pcall", "call")
    assert mutant != redis_channel.TAKE
    monkeypatch.setattr(redis_channel, "TAKE", mutant)
    items = push(broker_client, 3)
    with consuming(any_redis) as at:
        broker_client.set(UNACKED, "of another kind")
        with pytest.raises(ResponseError):
            at.get()
    assert listed(broker_client) == items[1:]


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
