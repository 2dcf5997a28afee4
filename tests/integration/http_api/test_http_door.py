"""The HTTP door over a real socket and with real brokers: what 202 means, what refusals leave behind, and outages."""

from __future__ import annotations

import http.client
import json
import logging
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import anyio
import pytest

from cachekeeper.devservers import RedisServer
from cachekeeper.http_api import Door, app
from cachekeeper.http_api.messages import BATCHED, BINARY, STRUCTURED
from cachekeeper.publishing import publisher as publishers
from cachekeeper.publishing.publisher import Publisher
from cachekeeper.publishing.wire_format import OutgoingMessage
from cachekeeper.settings import PublisherSettings
from producers import UserUpdated
from testkit.doors import AUTHORIZED, REGISTRY, ask, bodies, post, serving, settings, taken, user_deleted
from testkit.patient_publishing import PUBLISH_SECONDS
from testkit.servers import RabbitServer
from testkit.taps import RedisTap, Words
from testkit.waiting import wait_until

LIMIT = 2.0
ON_TOP = 10.0  # for a machine that is busy with other tests
PATIENT: dict[str, Any] = {"publish_timeout_seconds": PUBLISH_SECONDS}  # where the broker is well

# A message that is only late must not be sent twice: the messages are counted.
pytestmark = pytest.mark.usefixtures("patient_publishing")
MOST = 20
BYTES = 20_000


@pytest.fixture
def url(redis_server: RedisServer) -> Iterator[str]:
    fields: dict[str, Any] = {"http_batch_limit_events": MOST, "http_body_limit_bytes": BYTES, **PATIENT}
    with serving(Door(settings(redis_server.url, **fields), registry=REGISTRY)) as url:
        yield url


# --- what 202 means --------------------------------------------------------------------------------------------------


def test_each_mode_reaches_the_broker(url: str, redis_server: RedisServer) -> None:
    event = {
        "specversion": "1.0",
        "id": "1",
        "source": "/tests",
        "type": "user.updated",
        "time": "2026-01-31T12:00:00Z",
    }
    data = {"user_id": 42, "name": "Adaß", "version": 7}
    assert post(url, {**event, "data": data}).body == {"accepted": 1}
    assert post(url, [{**event, "id": "2", "data": data}, {**event, "id": "3", "data": data}]).body == {"accepted": 2}
    headers = {f"ce-{name}": value for name, value in {**event, "id": "4"}.items()}
    binary = ask(url, "/events", json.dumps(data).encode(), {**AUTHORIZED, **headers, "Content-Type": BINARY})
    assert (binary.status, binary.body) == (202, {"accepted": 1})
    found = [REGISTRY.decode(body) for body in bodies(redis_server)]
    assert [event.id for event in found] == ["1", "2", "3", "4"]
    wanted = UserUpdated(time="2026-01-31T12:00:00Z", user_id=42, name="Adaß", version=7)  # type: ignore[arg-type]
    assert {event.model_copy(update={"id": wanted.id}) for event in found} == {wanted}


def test_an_empty_batch_is_one_and_costs_nothing(url: str, redis_server: RedisServer) -> None:
    assert post(url, []).body == {"accepted": 0}
    assert bodies(redis_server) == []


def test_a_connection_serves_many_requests(url: str, redis_server: RedisServer) -> None:
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=30)
    for number in range(20):
        body = json.dumps(user_deleted(number))
        connection.request("POST", "/events", body, {**AUTHORIZED, "Content-Type": STRUCTURED})
        response = connection.getresponse()
        assert (response.status, response.read()) == (202, b'{"accepted":1}')
    connection.close()
    assert [body["user_id"] for body in bodies(redis_server)] == [str(number) for number in range(20)]


class _Hasty(Door):
    """Known bad: answers first, and publishes then."""

    async def _publish(self, texts: Sequence[str]) -> None:
        publish = super()._publish
        threading.Thread(target=anyio.run, args=(publish, texts)).start()


def answers_before_the_broker(kind: type[Door], server: RedisServer, seconds: float) -> bool:
    """Whether there is an answer, so long, while the broker has not yet read the message."""
    arrived, confirm = threading.Event(), threading.Event()

    def hold(words: Words) -> None:
        if words[0].upper() == b"LPUSH":
            arrived.set()
            assert confirm.wait(20)

    with (
        RedisTap(server) as tap,
        serving(kind(settings(tap.url, **PATIENT), registry=REGISTRY)) as url,
        ThreadPoolExecutor() as pool,
    ):
        tap.before = hold
        answer = pool.submit(post, url, user_deleted(1))
        assert arrived.wait(20)
        early, _ = wait([answer], timeout=seconds)
        confirm.set()
        assert answer.result(30).status == 202
    return bool(early)


def test_202_comes_after_the_brokers_confirmation(redis_server: RedisServer) -> None:
    assert not answers_before_the_broker(Door, redis_server, 0.5)
    assert len(bodies(redis_server)) == 1


def test_a_202_before_the_confirmation_is_found(redis_server: RedisServer) -> None:
    assert answers_before_the_broker(_Hasty, redis_server, 15)


# --- refusals leave nothing behind -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bad", [{"data": {}}, {"data": {"user_id": "a b"}}, {"data": {"user_id": 1, "x": 1}}, {"type": "x"}, {"source": ""}]
)
def test_of_a_batch_with_one_bad_event_nothing_is_published(
    url: str, redis_server: RedisServer, bad: dict[str, Any]
) -> None:
    events = [user_deleted(number) for number in range(7)]
    answer = post(url, [*events, user_deleted(7, **bad)])
    ((index, field),) = answer.faults
    assert (answer.status, index) == (400, 7)
    assert field.startswith(next(iter(bad)))
    assert bodies(redis_server) == []
    assert post(url, events).status == 202
    assert len(bodies(redis_server)) == len(events)


@pytest.mark.parametrize("given", [None, "Bearer wrong", "Basic YTpi"])
def test_without_a_key_nothing_is_even_read(url: str, redis_server: RedisServer, given: str | None) -> None:
    headers = {"Content-Type": "nonsense", "Content-Length": "999999999", **({"Authorization": given} if given else {})}
    answer = ask(url, "/events", b"", headers)
    assert (answer.status, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert bodies(redis_server) == []


def test_other_content_types(url: str, redis_server: RedisServer) -> None:
    answer = post(url, user_deleted(1), **{"Content-Type": "text/plain"})
    assert (answer.status, STRUCTURED in answer.body["detail"]) == (415, True)
    assert post(url, user_deleted(1), **{"Content-Encoding": "gzip"}).status == 415
    assert bodies(redis_server) == []


def test_what_is_too_large(url: str, redis_server: RedisServer) -> None:
    assert post(url, [user_deleted(number) for number in range(MOST + 1)]).status == 413
    assert post(url, user_deleted(1, comment="x" * BYTES)).status == 413
    headers = {**AUTHORIZED, "Content-Type": STRUCTURED}
    # By what is announced alone: of this body nothing ever arrives.
    assert ask(url, "/events", b"", {**headers, "Content-Length": str(BYTES + 1)}).status == 413
    # And by what arrives, of a body whose length nobody has announced.
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=30)
    connection.request("POST", "/events", iter([b" " * BYTES, b" " * 10]), headers, encode_chunked=True)
    assert connection.getresponse().status == 413
    connection.close()
    assert bodies(redis_server) == []


def test_a_body_of_the_largest_size_is_taken(url: str) -> None:
    event = json.dumps(user_deleted(1)).encode()
    body = event + b" " * (BYTES - len(event))
    assert ask(url, "/events", body, {**AUTHORIZED, "Content-Type": STRUCTURED}).status == 202


def test_a_body_that_does_not_come(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "BODY_SECONDS", 0.2)
    headers = {**AUTHORIZED, "Content-Type": STRUCTURED, "Content-Length": "100"}
    assert ask(url, "/events", b"{", headers).status == 408


@pytest.mark.parametrize(
    ("path", "method", "status"),
    [("/", "GET", 404), ("/events/", "POST", 404), ("/events", "GET", 405), ("/healthz", "POST", 405)],
)
def test_other_paths_and_methods(url: str, path: str, method: str, status: int) -> None:
    assert ask(url, path, headers=AUTHORIZED, method=method).status == status


def test_what_is_not_secret_needs_no_key(url: str) -> None:
    assert [ask(url, path).status for path in ("/healthz", "/readyz", "/openapi.json")] == [200, 200, 200]
    assert ask(url, "/openapi.json").body["openapi"] == "3.1.0"


# --- outages ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("server", ["own_redis", "own_rabbit"])
def test_a_broker_that_hangs_or_is_gone(
    request: pytest.FixtureRequest, server: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "READY_SECONDS", 0.0)
    caplog.set_level(logging.WARNING, "cachekeeper.door")
    broker: RedisServer | RabbitServer = request.getfixturevalue(server)

    def said() -> list[str]:
        return [record.getMessage() for record in caplog.records if record.name == "cachekeeper.door"]

    # A door with time to spare, since a new RabbitMQ makes the queue first.
    with serving(Door(settings(broker.url, **PATIENT), registry=REGISTRY)) as url:
        assert post(url, user_deleted(1)).status == 202
        assert ask(url, "/readyz").status == 200
        assert [body["user_id"] for body in taken(broker.url)] == ["1"]
    assert said() == []
    with serving(Door(settings(broker.url, publish_timeout_seconds=LIMIT), registry=REGISTRY)) as url:
        # A connection that the outage finds in use. With its limits a broker that is only late is away, and back.
        wait_until(lambda: post(url, user_deleted(2)).status == 202, "a broker that is in time")
        caplog.clear()

        broker.pause()
        for _ in range(2):
            answer = post(url, user_deleted(2))
            assert (answer.status, answer.headers.get("retry-after")) == (503, "5"), answer.body
            assert answer.seconds < LIMIT + ON_TOP
        ready = ask(url, "/readyz")
        assert (ready.status, ready.headers.get("retry-after")) == (503, "5"), ready.body
        assert ready.seconds < LIMIT + ON_TOP
        assert ask(url, "/healthz").status == 200
        broker.resume()
        # It may be late at first. Only a change is logged, however often it is asked.
        wait_until(lambda: post(url, user_deleted(3)).status == 202, "a broker that takes events")
        # What was answered with 503 may have arrived all the same.
        assert {"3"} <= {body["user_id"] for body in taken(broker.url)} <= {"2", "3"}

        broker.kill()
        answer = post(url, user_deleted(4))
        assert (answer.status, ask(url, "/readyz").status, ask(url, "/healthz").status) == (503, 503, 200)
        assert answer.seconds < LIMIT + ON_TOP
        assert "harm" in answer.body["detail"]
    assert said() == [
        "the broker is unavailable; requests get status 503",
        "the broker is available again",
        "the broker is unavailable; requests get status 503",
    ]


class _Held(Publisher):
    """Publishes when it is told to: whoever has come before is still there when the next ones come."""

    def __init__(self, settings: PublisherSettings) -> None:
        super().__init__(settings)
        self.go = threading.Event()

    def send(self, message: OutgoingMessage) -> None:
        assert self.go.wait(30)
        super().send(message)


def test_a_hung_broker_gathers_no_crowd(own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "AT_ONCE", 1)
    monkeypatch.setattr(app, "WAITING", 1)
    monkeypatch.setattr(publishers, "_CALL_SECONDS", 0.5)  # soon given up, while the second may wait long for its turn
    limit = 5.0
    given = settings(own_redis.url, publish_timeout_seconds=limit)
    publisher = _Held(given)
    door = Door(given, registry=REGISTRY, publisher=publisher)

    def full() -> bool:
        now = door._slots.statistics()
        return (now.borrowed_tokens, now.tasks_waiting) == (1, 1)

    with serving(door) as url, ThreadPoolExecutor(6) as pool:
        own_redis.pause()
        answers = [pool.submit(post, url, user_deleted(number)) for number in range(2)]
        wait_until(full, "one that publishes and one that waits")
        crowd = [pool.submit(post, url, user_deleted(number)) for number in range(2, 6)]
        wait(crowd, timeout=30)
        publisher.go.set()
        answers += crowd
        found = [answer.result(30) for answer in answers]
        assert {answer.status for answer in found} == {503}
        details = sorted(answer.body["detail"].partition(";")[0] for answer in found)
        assert details[2:] == ["too many requests already wait for the broker"] * 4
        # One waits its turn; it comes at the limit's end, more or less together with the end of the turn itself.
        assert all(answer.seconds < 2 * limit + ON_TOP for answer in found)
        own_redis.resume()
        wait_until(lambda: post(url, user_deleted(9)).status == 202, "a broker that takes events")
    assert "9" in {body["user_id"] for body in taken(own_redis.url)}


def test_batches_of_several_messages(redis_server: RedisServer) -> None:
    with serving(Door(settings(redis_server.url, **PATIENT), registry=REGISTRY)) as url:
        events = [user_deleted(number) for number in range(1000)]
        answer = ask(url, "/events", json.dumps(events).encode(), {**AUTHORIZED, "Content-Type": BATCHED})
        assert answer.body == {"accepted": 1000}
    assert [body["user_id"] for body in bodies(redis_server)] == [str(number) for number in range(1000)]
