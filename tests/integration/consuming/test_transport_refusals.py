"""The transport to a Redis broker that is full or refuses: a message is on its list or in the record."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import kombu
import pytest
from redis.exceptions import ResponseError

from cachekeeper.broker.names import PAUSE, QUEUE, UNACKED, UNACKED_INDEX
from cachekeeper.consuming import redis_channel
from cachekeeper.errors import BrokerUnavailable
from cachekeeper.publishing.broker_connection import BrokerConnection
from cachekeeper.publishing.wire_format import OutgoingMessage
from testkit.full_brokers import full
from tests.integration.consuming.redis_consuming import SOON, connected, consuming, listed, numbers, push, records

if TYPE_CHECKING:
    import redis

    from cachekeeper.devservers import RedisServer

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
