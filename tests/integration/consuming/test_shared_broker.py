"""Another Celery application in the same Redis database or RabbitMQ vhost: neither touches what is the other's."""

from __future__ import annotations

import json
from base64 import b64encode
from typing import TYPE_CHECKING, Any

import pytest
from celery import Celery

from cachekeeper.broker.names import CONTROL_EXCHANGE, QUEUE, UNACKED, UNACKED_INDEX
from cachekeeper.devservers import RedisServer
from cachekeeper.publishing.wire_format import task_body, task_headers
from producers import UserLoggedOut
from testkit.waiting import wait_until
from tests.integration.consuming.neighbour import BROKER, Neighbour, work_for_hours

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cachekeeper.devservers.worker_process import WorkerProcess
    from testkit.delivering import Site

SOON = 60.0


@pytest.fixture
def neighbour(site: Site) -> Iterator[Neighbour]:
    worker = Neighbour(
        site.guardian, {BROKER: site.broker.url}, app="tests.integration.consuming.neighbour", name="neighbour"
    )
    worker.start()
    yield worker
    worker.kill()
    if isinstance(site.broker, RedisServer):
        with site.broker.client() as client:
            client.delete("celery", "unacked", "unacked_index")


def left(token: str) -> bytes:
    """The record of a message that a killed worker of ours has left."""
    headers = task_headers(token, 1)
    properties = {"delivery_tag": token, "delivery_info": {"exchange": "", "routing_key": QUEUE}, "priority": 0}
    body = b64encode(task_body([json.dumps(UserLoggedOut(token_id=token).to_wire())])).decode()
    message = {
        "body": body,
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": headers,
        "properties": {**properties, "body_encoding": "base64"},
    }
    return json.dumps([message, "", QUEUE]).encode()


@pytest.mark.parametrize("site", ["redis"], indirect=True)
def test_a_message_that_another_application_works_on_is_left_to_it(
    site: Site, worker: WorkerProcess, neighbour: Neighbour
) -> None:
    """Its tasks may take an hour; ours are put back after a minute."""
    assert isinstance(site.broker, RedisServer)
    with Celery("asking", broker=site.broker.url, set_as_current=False) as asking, site.broker.client() as client:
        asking.send_task(work_for_hours.name)
        wait_until(lambda: client.hlen("unacked") == 1 and not client.llen("celery"), "a task at work", SOON)
        theirs: Any = client.zrange("unacked_index", 0, -1)
        client.zadd("unacked_index", dict.fromkeys(theirs, 1), xx=True)  # for longer than a minute
        # Ours is put back by the next look at what was held too long, so there was one.
        client.hset(UNACKED, "left", left("left-over"))
        client.zadd(UNACKED_INDEX, {"left": 1})
        wait_until(lambda: site.client.exists("blocked:left-over"), "what was left applied", SOON)
        assert client.zrange("unacked_index", 0, -1) == theirs
        assert (client.hlen("unacked"), client.llen("celery")) == (1, 0)
    assert worker.alive
    assert neighbour.alive


def test_shutting_another_application_down_leaves_this_one_running(
    site: Site, worker: WorkerProcess, neighbour: Neighbour
) -> None:
    with Celery("asking", broker=site.broker.url, set_as_current=False) as asking:
        assert len(asking.control.ping(timeout=5) or []) == 1
        asking.control.shutdown()
    wait_until(lambda: not neighbour.alive, "the end of the neighbour", SOON)
    # A control command that our worker heard too would come before a ping that it answers.
    with Celery("asking", broker=site.broker.url, set_as_current=False) as asking:
        asking.conf.control_exchange = CONTROL_EXCHANGE
        assert len(asking.control.ping(timeout=5, limit=1) or []) == 1
    site.settle()
    assert worker.alive


def test_shutting_this_one_down_leaves_the_other_running(
    site: Site, worker: WorkerProcess, neighbour: Neighbour
) -> None:
    """The last test of this file: it ends the worker that the others share."""
    with Celery("asking", broker=site.broker.url, set_as_current=False) as asking:
        asking.conf.control_exchange = CONTROL_EXCHANGE
        asking.control.shutdown()
    wait_until(lambda: not worker.alive, "the end of our worker", SOON)
    with Celery("asking", broker=site.broker.url, set_as_current=False) as asking:
        assert len(asking.control.ping(timeout=10, limit=1) or []) == 1
    assert neighbour.alive
