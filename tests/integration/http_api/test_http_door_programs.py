"""The HTTP door as a program, and its Node.js client: start, end, what stands in the log, and sending again."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from cachekeeper.devservers import RedisServer
from cachekeeper.http_api import Door, app
from testkit.doors import KEY, REGISTRY, ask, bodies, post, serving, settings, user_deleted
from testkit.leftovers import CACHEKEEPER
from testkit.node import EXAMPLE, find_node
from testkit.patient_publishing import IN_A_CHILD, PUBLISH_SECONDS
from testkit.taps import RedisTap, Words
from testkit.waiting import wait_until

CANARY = "canary0123456789"


@dataclass
class Program:
    """`cachekeeper serve` as a child process."""

    process: subprocess.Popen[str]
    url: str
    said: str = ""

    def end(self) -> int:
        """Ask it to end; its exit status. All that it wrote to standard error is in `said`."""
        self.process.send_signal(signal.SIGTERM)
        self.said += self.process.communicate(timeout=30)[1]
        return self.process.returncode


def listens(url: str) -> bool:
    host, _, port = url.removeprefix("http://").partition(":")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except ConnectionRefusedError:
        return False
    return True


def environment(**variables: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CACHEKEEPER_")}
    return {**kept, **{f"CACHEKEEPER_{name}": value for name, value in variables.items()}}


# The command with a publisher that sends nothing twice: it is counted.
PATIENTLY = IN_A_CHILD + "from cachekeeper.cli import main\nmain()"


@contextmanager
def program(broker_url: str, **variables: str) -> Iterator[Program]:
    variables = {
        "BROKER_URL": broker_url,
        "HTTP_API_KEYS": KEY,
        "PUBLISH_TIMEOUT_SECONDS": str(PUBLISH_SECONDS),
        **variables,
    }
    process = subprocess.Popen(
        [sys.executable, "-c", PATIENTLY, "serve", "--port", "0"],
        env=environment(**variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        yield Program(process, process.stdout.readline().strip())
    finally:
        process.kill()
        process.communicate()


def test_it_serves_and_ends_and_keeps_secrets_out_of_its_log(own_redis: RedisServer) -> None:
    logout = {"type": "user.logged_out", "data": {"token_id": CANARY}}
    with program(own_redis.url) as door:
        assert door.url.startswith("http://127.0.0.1:")
        assert post(door.url, user_deleted(1, **logout)).status == 202
        assert bodies(own_redis)[0]["token_id"] == CANARY
        refused = [
            post(door.url, user_deleted(2, type="user.logged_out", data={"token_id": f"{CANARY} {{}}"})),
            post(door.url, user_deleted(2, **{**logout, "time": CANARY})),
            post(door.url, user_deleted(2), Authorization=f"Bearer {CANARY}"),
            ask(door.url, f"/events?token={CANARY}"),
            ask(door.url, f"/{CANARY}"),
        ]
        assert [answer.status for answer in refused] == [400, 400, 401, 405, 404]
        own_redis.kill()
        refused.append(post(door.url, user_deleted(3, **logout)))
        assert refused[-1].status == 503
        assert door.end() in {0, -signal.SIGTERM}  # uvicorn ends by the signal, once all is done
        assert "the broker is unavailable" in door.said
        assert CANARY not in door.said + json.dumps([answer.body for answer in refused])
        assert KEY not in door.said + json.dumps([answer.body for answer in refused])


def test_what_is_being_published_at_the_end_is_finished(own_redis: RedisServer) -> None:
    arrived, confirm = threading.Event(), threading.Event()

    def hold(words: Words) -> None:
        if words[0].upper() == b"LPUSH":
            arrived.set()
            assert confirm.wait(20)

    with (
        RedisTap(own_redis) as tap,
        program(tap.url) as door,
        ThreadPoolExecutor() as pool,
    ):
        tap.before = hold
        answer = pool.submit(post, door.url, user_deleted(1))
        assert arrived.wait(20)
        ended = pool.submit(door.end)
        wait_until(lambda: not listens(door.url), "no more requests")
        confirm.set()
        assert answer.result(30).status == 202
        ended.result(30)
    assert [body["user_id"] for body in bodies(own_redis)] == ["1"]


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({}, "CACHEKEEPER_HTTP_API_KEYS: is not set"),
        ({"HTTP_API_KEYS": "short"}, "CACHEKEEPER_HTTP_API_KEYS: each key"),
        ({"HTTP_API_KEYS": KEY, "BROKER_URL": "http://x"}, "CACHEKEEPER_BROKER_URL: must be"),
        ({"HTTP_API_KEYS": KEY, "MODULES": "nothing_there"}, "CACHEKEEPER_MODULES: there is no module"),
    ],
)
def test_without_its_settings_it_does_not_start(variables: dict[str, str], said: str) -> None:
    done = subprocess.run(
        [*CACHEKEEPER, "serve", "--port", "0"],
        env=environment(**{"BROKER_URL": "redis://127.0.0.1:1", **variables}),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_port_that_is_taken(redis_server: RedisServer) -> None:
    done = subprocess.run(
        [*CACHEKEEPER, "serve", "--port", str(redis_server.port)],
        env=environment(BROKER_URL=redis_server.url, HTTP_API_KEYS=KEY),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert f"cannot listen on 127.0.0.1, port {redis_server.port}" in done.stderr


# --- Node.js ---------------------------------------------------------------------------------------------------------


def node(url: str, events: object, key: str = KEY) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [find_node(), str(EXAMPLE / "publish.mjs")],
        input=json.dumps(events),
        env={**os.environ, "DOOR_URL": url, "DOOR_KEY": key},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


EVENTS: list[dict[str, Any]] = [
    {"type": "user.updated", "data": {"user_id": "42", "name": "Ada ☃", "version": 7}},
    {"type": "product.changed", "data": {"product_id": 1, "name": "Lamp", "previous_name": None}},
]


@pytest.mark.usefixtures("patient_publishing")
def test_nodejs_publishes_with_fetch_alone(redis_server: RedisServer) -> None:
    assert "import " not in (EXAMPLE / "publish.mjs").read_text("utf-8").replace(
        "import { setTimeout as pause } from", ""
    )
    door = Door(settings(redis_server.url, publish_timeout_seconds=PUBLISH_SECONDS), registry=REGISTRY)
    with serving(door) as url:
        done = node(url, EVENTS)
    assert (done.returncode, done.stdout, done.stderr) == (0, "2\n", "")
    found = [REGISTRY.decode(body) for body in bodies(redis_server)]
    assert [event.type for event in found] == ["user.updated", "product.changed"]
    assert found[0].version == 7
    assert bodies(redis_server)[1]["previous_name"] is None  # a new product; left out it would be unknown


def test_nodejs_is_told_what_is_refused(redis_server: RedisServer) -> None:
    with serving(Door(settings(redis_server.url), registry=REGISTRY)) as url:
        wrong = node(url, [EVENTS[0], {"type": "user.deleted", "data": {}}])
        stranger = node(url, EVENTS, key="nobody")
    assert (wrong.returncode, stranger.returncode) == (1, 1)
    assert "event 1, data.user_id: is missing" in wrong.stderr
    assert "401: " in stranger.stderr
    assert bodies(redis_server) == []


def test_nodejs_sends_again_until_the_broker_is_back(own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    find_node()  # here: a skip in the pool's thread would be lost
    monkeypatch.setattr(app, "RETRY_SECONDS", 0)
    refused = threading.Event()

    class Telling(Door):
        def _note(self, *, away: bool) -> None:
            super()._note(away=away)
            if away:
                refused.set()

    door = Telling(settings(own_redis.url, publish_timeout_seconds=0.5), registry=REGISTRY)
    with serving(door) as url, ThreadPoolExecutor() as pool:
        own_redis.pause()
        done = pool.submit(node, url, EVENTS)
        assert refused.wait(30)
        own_redis.resume()
        assert done.result(60).stdout == "2\n"
    # Each at least once, under one id however often.
    ids = {body["type"]: body["id"] for body in bodies(own_redis)}
    assert {(body["type"], body["id"]) for body in bodies(own_redis)} == set(ids.items())
    assert len(ids) == len(EVENTS)
