"""The example's functions, called by Node.js on real servers."""

import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from bson import Int64, ObjectId
from bson.datetime_ms import DatetimeMS
from pymongo.database import Database
from redis import Redis

from cachekeeper.devservers import MongoServer, RedisServer
from cachekeeper.values.fold import escape_braces, fold
from cachekeeper.values.mongoose_json import dumps
from testkit.node import find_node, with_script

OBJECT_ID = "0123456789abcdef01234567"
NOW = datetime.now(UTC)
LATER = NOW + timedelta(hours=1)
JUST_NOW = NOW - timedelta(seconds=1)
LIMIT_MS = 4000  # half a second for Redis and two for MongoDB, on a machine that is busy with other tests


class NodeError(Exception):
    """What the called function threw."""


class Service:
    """One Node.js process with the example's functions, connected."""

    def __init__(self, script: Path, servers: dict[str, Any]) -> None:
        command: list[str | Path] = [find_node(), script, json.dumps(servers)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8")
        self.slowest_ms = 0.0
        assert self._line() == "connected"

    def __call__(self, function: str, *arguments: object) -> Any:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([function, *arguments]) + "\n")
        self.process.stdin.flush()
        answer = self._line()
        self.slowest_ms = max(self.slowest_ms, answer["ms"])
        if "error" in answer:
            raise NodeError(answer["error"])
        return answer["value"]

    def _line(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "Node.js has ended"
        return json.loads(line)

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


Start = Callable[..., Service]


@pytest.fixture
def mongodb(mongo_server: MongoServer, database: str) -> Iterator[Database[dict[str, Any]]]:
    with mongo_server.client() as client:
        yield client[database]


@pytest.fixture
def redis(redis_server: RedisServer) -> Iterator[Redis]:
    with redis_server.client() as client:
        yield client


@pytest.fixture
def start(node_packages: Path, redis_server: RedisServer, mongo_server: MongoServer, database: str) -> Iterator[Start]:
    """Starts Node.js with the example, on the usual servers unless told otherwise."""
    servers = {"redisUrl": redis_server.url, "mongodbUrl": mongo_server.url_of(database)}
    script = with_script("reader_calls.mjs", node_packages)
    with ExitStack() as stack:

        def started(**changed: object) -> Service:
            service = Service(script, servers | changed)
            stack.callback(service.close)
            return service

        yield started


@pytest.fixture
def node(start: Start) -> Service:
    return start()


def test_what_redis_has_is_served_from_there(node: Service, redis: Redis) -> None:
    redis.mset(
        {"user:42:name": "Ada \u00e9", "session:s": '{"n":1}', f"search:{escape_braces('{lamp}')}": '[{"_id":1}]'}
    )
    assert node("readUser", 42) == "Ada \u00e9"
    assert node("readSession", "s") == {"n": 1}
    assert node("searchProducts", "{LAMP}") == [{"_id": 1}]


def test_what_redis_lacks_comes_from_mongodb_and_is_not_written(
    node: Service, redis: Redis, mongodb: Database[dict[str, Any]]
) -> None:
    ids = [ObjectId(OBJECT_ID), 42, -7, Int64(2**60), "007", "text", "99999999999999999999"]
    mongodb["users"].insert_many([{"_id": identity, "name": f"name of {identity}"} for identity in ids])
    mongodb["sessions"].insert_one({"_id": "s", "data": {"n": 1.0, "at": NOW}, "expires_at": LATER})
    mongodb["sessions"].insert_one({"_id": 77, "data": {"as": "save_session maps it"}, "expires_at": LATER})
    assert node("readSession", "77") == {"as": "save_session maps it"}
    assert [node("readUser", str(identity)) for identity in ids] == [f"name of {identity}" for identity in ids]
    assert node("readUser", "nobody") is None
    with pytest.raises(NodeError, match="lower case"):
        node("readUser", OBJECT_ID.upper())
    assert node("readSession", "s") == {"n": 1, "at": json.loads(dumps(NOW))}
    assert node("readSession", "none") is None
    assert redis.dbsize() == 0


def test_a_session_that_has_ended_or_expired_does_not_exist(node: Service, mongodb: Database[dict[str, Any]]) -> None:
    mongodb["sessions"].insert_many(
        [
            {"_id": "ended", "data": {}, "expires_at": LATER, "ended_at": JUST_NOW},
            {"_id": "expired", "data": {}, "expires_at": JUST_NOW},
            {"_id": "alive", "data": {}, "expires_at": LATER, "ended_at": None},
        ]
    )
    assert [node("readSession", session) for session in ("ended", "expired", "alive")] == [None, None, {}]


def test_a_late_save_does_not_raise_a_session(node: Service, redis: Redis) -> None:
    assert node("saveSession", "s", {"n": 1}, {"login": True}) is True
    assert node("saveSession", "s", {"n": 2}, {"login": True}) is False
    assert node("readSession", "s") == {"n": 1}
    assert node("saveSession", "s", {"n": 3}) is True
    assert node("readSession", "s") == {"n": 3}
    assert 1790 <= redis.ttl("session:s") <= 1800
    assert node("saveSession", "ended", {"n": 4}) is False
    assert redis.exists("session:ended") == 0


def test_a_damaged_session_is_no_missing_one(node: Service, redis: Redis) -> None:
    redis.set("session:s", "{")
    with pytest.raises(NodeError, match="JSON"):
        node("readSession", "s")
    assert redis.get("session:s") == b"{"


def test_a_token_is_free_only_if_somebody_knows(
    node: Service, start: Start, redis: Redis, mongodb: Database[dict[str, Any]]
) -> None:
    redis.set("blocked:plain", "true")
    redis.hset("blocked:odd", mapping={"any": "thing"})
    mongodb["blocked_tokens"].insert_many(
        [
            {"_id": "endless", "expires_at": None},
            {"_id": "future", "expires_at": LATER},
            {"_id": "beyond", "expires_at": DatetimeMS(2**62)},  # later than JavaScript's dates
            {"_id": "within the leeway", "expires_at": datetime.now(UTC) - timedelta(seconds=5)},
            {"_id": "past", "expires_at": datetime.now(UTC) - timedelta(seconds=90)},
        ]
    )

    def blocked(service: Service) -> set[str]:
        tokens = ("plain", "odd", "endless", "future", "beyond", "within the leeway", "past", "unknown")
        return {token for token in tokens if service("isBlocked", token)}

    everybody = {"plain", "odd", "endless", "future", "beyond", "within the leeway"}
    assert blocked(node) == everybody
    redis.set("cachekeeper:blocked-ready", "1")  # now Redis is believed when it says no
    assert blocked(node) == {"plain", "odd"}
    assert blocked(start(securityMayLose=True)) == everybody


def test_a_search_that_is_not_cached_gives_what_a_cached_one_would(
    node: Service, mongodb: Database[dict[str, Any]]
) -> None:
    lamp = {"_id": 2, "name": "\u212aelvin {lamp}", "price": 1.0, "at": NOW, "big": Int64(2**60), "9": 1, "raw": b"abc"}
    language = {"_id": 1, "name": "C++ KELVIN", "nested": {"id": ObjectId(OBJECT_ID), "list": [None, 0.5]}}
    mongodb["products"].insert_many([lamp, language, {"_id": 3, "name": ["kelvin"]}, {"_id": 4, "name": "other"}])
    assert node("searchProducts", "kelvin") == json.loads(dumps([language, lamp]))
    assert node("searchProducts", "{LAMP}") == json.loads(dumps([lamp]))
    assert node("searchProducts", "c++") == json.loads(dumps([language]))
    assert node("searchProducts", ".*") == []


def test_a_search_key_is_used_only_where_it_can_be_right(
    node: Service, redis: Redis, mongodb: Database[dict[str, Any]]
) -> None:
    longest = "\U00010400" * 64
    redis.set(f"search:{fold(longest)}", '[{"_id":"cached"}]')
    redis.set(f"search:{fold(longest)}a", '[{"_id":"stale"}]')
    redis.set("search:damaged", "[{")
    redis.hset("search:odd", mapping={"any": "thing"})
    mongodb["products"].insert_many([{"_id": 1, "name": "damaged, odd"}, {"_id": 2, "name": f"{longest}a"}])
    assert node("searchProducts", longest) == [{"_id": "cached"}]
    assert [product["_id"] for product in node("searchProducts", f"{longest}a")] == [2]
    assert [product["_id"] for product in node("searchProducts", "damaged")] == [1]
    assert [product["_id"] for product in node("searchProducts", "odd")] == [1]


@pytest.mark.parametrize("text", ["", "a\0", "\u00e9" * 257], ids=["empty", "NUL", "too long"])
def test_a_text_that_cannot_be_searched_for_is_refused(text: str, node: Service) -> None:
    with pytest.raises(NodeError, match="text: "):
        node("searchProducts", text)


# --- outages ----------------------------------------------------------------------------------------------------------


def check_served_by_mongodb(node: Service, mongodb: Database[dict[str, Any]]) -> None:
    mongodb["users"].insert_one({"_id": 1, "name": "from MongoDB"})
    mongodb["sessions"].insert_one({"_id": "s", "data": {}, "expires_at": LATER})
    mongodb["products"].insert_one({"_id": 1, "name": "lamp"})
    mongodb["blocked_tokens"].insert_many([{"_id": each, "expires_at": None} for each in ("blocked", "42")])
    assert node("readUser", 1) == "from MongoDB"
    assert node("readSession", "s") == {}
    with pytest.raises(NodeError):
        node("readSession", "one-that-only-redis-may-know")
    assert node("searchProducts", "lamp") == [{"_id": 1, "name": "lamp"}]
    assert node("isBlocked", "blocked") is True
    assert node("isBlocked", 42) is True
    assert node("isBlocked", "free") is False
    with pytest.raises(NodeError):
        node("saveSession", "s", {})
    assert node.slowest_ms < LIMIT_MS


def test_while_redis_refuses_mongodb_answers(start: Start, mongodb: Database[dict[str, Any]]) -> None:
    # Nobody listens at port 1; one that was free a moment ago may be another process's by now.
    check_served_by_mongodb(start(redisUrl="redis://127.0.0.1:1"), mongodb)


def test_while_redis_hangs_mongodb_answers(
    start: Start, mongodb: Database[dict[str, Any]], own_redis: RedisServer
) -> None:
    node = start(redisUrl=own_redis.url)
    with own_redis.client() as client:
        client.set("user:1:name", "from Redis")
    assert node("readUser", 1) == "from Redis"
    own_redis.pause()
    check_served_by_mongodb(node, mongodb)


@pytest.mark.parametrize("outage", [MongoServer.kill, MongoServer.pause], ids=["killed", "hung"])
def test_while_mongodb_is_away_hits_are_served_and_all_else_is_an_error(
    outage: Callable[[MongoServer], None], start: Start, redis: Redis, own_mongo: MongoServer
) -> None:
    redis.mset({"user:1:name": "Ada", "blocked:blocked": "true"})
    node = start(mongodbUrl=own_mongo.url_of("shop"))
    assert node("readUser", 2) is None
    assert node("isBlocked", "free") is False
    outage(own_mongo)
    assert node("readUser", 1) == "Ada"
    assert node("isBlocked", "blocked") is True
    for call in (("readUser", 2), ("isBlocked", "free"), ("readSession", "s"), ("searchProducts", "lamp")):
        with pytest.raises(NodeError):
            node(*call)
    assert node.slowest_ms < LIMIT_MS
