"""An event of a package of one's own, by every door to a real broker, and read there as a worker reads it."""

from __future__ import annotations

import json
from typing import Any, Literal

import pytest
from pydantic import BaseModel

from cachekeeper.devservers import RedisServer
from cachekeeper.errors import InvalidEvent
from cachekeeper.http_api import Door
from cachekeeper.http_api.messages import BATCHED, STRUCTURED
from cachekeeper.model.events import Event
from cachekeeper.model.registry import Registry, load_registry
from cachekeeper.publishing.buffered import BufferedPublisher
from cachekeeper.publishing.publisher import LONGEST_EVENT, Publisher
from cachekeeper.publishing.wire_format import OutgoingMessage
from cachekeeper.settings import PublisherSettings
from producers import UserLoggedOut
from testkit.doors import AUTHORIZED, Answer, ask, post, serving, settings, taken
from testkit.own_events import OrderPlaced
from tests.golden.own_event import EVENT


class PagesScanned(Event):
    """An event that grows on its way: in the request its texts are UTF-8, on the wire ASCII."""

    type: Literal["pages.scanned"] = "pages.scanned"
    texts: list[str]


OWN = Registry()
OWN.add_event(OrderPlaced)
OWN.add_event(PagesScanned)


def test_every_door_brings_it_as_it_was(redis_server: RedisServer) -> None:
    url = redis_server.url
    publisher = Publisher(PublisherSettings(broker_url=url))
    publisher.publish(EVENT)
    assert publisher.publish_many([EVENT, EVENT]) == 2
    publisher.send(OutgoingMessage([EVENT.wire_text()], stored=True))
    publisher.send(OutgoingMessage([json.dumps(EVENT.to_wire())], failed=(1, 0)))
    with BufferedPublisher(publisher=publisher) as buffered:
        buffered.publish(EVENT)
    publisher.close()
    wire = EVENT.to_wire()
    body = {"specversion": "1.0", "source": "/shop", **{name: wire.pop(name) for name in ("id", "type", "time")}}
    with serving(Door(settings(url), registry=OWN)) as door:
        assert post(door, {**body, "data": wire}).status == 202
    assert [OWN.decode(found) for found in taken(url)] == [EVENT] * 7


class Part(BaseModel):
    kids: list[Part] = []


class Tree(Event):
    type: Literal["tree"] = "tree"
    part: Part


def test_a_deeply_nested_event_is_refused_by_every_door_and_nothing_of_its_batch_is_published(
    redis_server: RedisServer,
) -> None:
    registry = load_registry(["producers"])
    registry.add_event(Tree)
    part = Part()
    for _ in range(20):
        part = Part(kids=[part])
    out, deep = UserLoggedOut(token_id="t1"), Tree(part=part)
    publisher = Publisher(PublisherSettings(broker_url=redis_server.url))
    with pytest.raises(InvalidEvent, match="part: is nested too deeply"):
        publisher.publish_many([out, deep, out])
    with BufferedPublisher(publisher=publisher) as buffered, pytest.raises(InvalidEvent, match="part: is nested"):
        buffered.publish(deep)
    publisher.close()
    body = {"specversion": "1.0", "source": "/shop"}
    batch = [
        {**body, "id": "a", "type": "user.logged_out", "data": {"token_id": "t1"}},
        {**body, "id": "b", "type": "tree", "data": {"part": part.model_dump()}},
    ]
    with serving(Door(settings(redis_server.url), registry=registry)) as door:
        answer = post(door, batch)
    assert (answer.status, answer.faults) == (400, [(1, "data.part")])
    assert taken(redis_server.url) == []


def scanned(**data: object) -> dict[str, Any]:
    return {"specversion": "1.0", "id": "1", "source": "/scans", "type": "pages.scanned", "data": {"texts": [], **data}}


def test_an_event_that_grows_too_large_is_refused_with_all_of_its_batch(redis_server: RedisServer) -> None:
    data = {"texts": ["\u00e9" * (LONGEST_EVENT // 6)]}
    with serving(Door(settings(redis_server.url, http_body_limit_bytes=2**24), registry=OWN)) as url:
        single = post_utf8(url, scanned(**data), STRUCTURED)
        batch = post_utf8(url, [scanned(texts=["x" * 300_000]), scanned(**data)], BATCHED)
        assert post_utf8(url, scanned(texts=["\u00e9" * 1000]), STRUCTURED).status == 202
    assert (single.status, batch.status) == (413, 413)
    (fault,) = single.body["errors"]
    assert (fault["field"], "index" in fault) == ("data", False)
    assert fault["detail"].startswith(f"must be at most {LONGEST_EVENT} bytes as JSON, is 8")
    (fault,) = batch.body["errors"]
    assert (fault["index"], fault["field"]) == (1, "data")
    assert len(taken(redis_server.url)) == 1


def post_utf8(url: str, events: object, kind: str) -> Answer:
    body = json.dumps(events, ensure_ascii=False).encode()
    return ask(url, "/events", body, {**AUTHORIZED, "Content-Type": kind})
