"""An event of a package of one's own, by every door to a real broker, and read there as a worker reads it."""

from __future__ import annotations

import json

from cachekeeper.delivery.buffered import BufferedPublisher
from cachekeeper.delivery.publisher import Publisher
from cachekeeper.door import Door
from cachekeeper.embedded import RedisServer
from cachekeeper.registry import Registry
from cachekeeper.settings import PublisherSettings
from tests.golden.own_event import EVENT
from tests.own_events import OrderPlaced
from tests.real.doors import post, serving, settings, taken

OWN = Registry()
OWN.add_event(OrderPlaced)


def test_every_door_brings_it_as_it_was(redis_server: RedisServer) -> None:
    url = redis_server.url
    publisher = Publisher(PublisherSettings(broker_url=url))
    publisher.publish(EVENT)
    assert publisher.publish_many([EVENT, EVENT]) == 2
    publisher.publish_stored([EVENT.wire_text()])
    publisher.publish_letter(json.dumps(EVENT.to_wire()), count=1, first_ms=0)
    with BufferedPublisher(publisher=publisher) as buffered:
        buffered.publish(EVENT)
    publisher.close()
    wire = EVENT.to_wire()
    body = {"specversion": "1.0", "source": "/shop", **{name: wire.pop(name) for name in ("id", "type", "time")}}
    with serving(Door(settings(url), registry=OWN)) as door:
        assert post(door, {**body, "data": wire}).status == 202
    assert [OWN.decode(found) for found in taken(url)] == [EVENT] * 7
