"""Whatever takes somebody's client, database or session refuses what it cannot use, before it is used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from unittest.mock import AsyncMock, MagicMock, Mock

import fakeredis
import pymongo
import pytest
import redis
import redis.asyncio
from pymongo.client_session import ClientSession
from pymongo.database import Database
from redis.backoff import NoBackoff
from redis.retry import Retry

from cachekeeper import Keeper, NoTransaction, load_registry, make_redis_client
from cachekeeper.connections.redis_clients import connect_redis
from cachekeeper.consuming.dead_letter_admin import DeadLetters
from cachekeeper.errors import InvalidId
from cachekeeper.relays.change_stream_relay import ChangeRelay
from cachekeeper.relays.outbox_relay import Relay
from cachekeeper.settings import DEFAULT_MODULES, PublisherSettings, RelaySettings, Settings, StreamSettings
from lookups import block_token, is_blocked, read_session, read_user, save_session, search_products
from producers import BufferedPublisher, Publisher, UserDeleted, outbox

if TYPE_CHECKING:
    from collections.abc import Callable

MONGO: pymongo.MongoClient[Any] = pymongo.MongoClient("mongodb://127.0.0.1:1", connect=False)
ASYNC: pymongo.AsyncMongoClient[Any] = pymongo.AsyncMongoClient("mongodb://127.0.0.1:1", connect=False)
REGISTRY = load_registry(DEFAULT_MODULES)
NO_DATABASES: dict[str, Any] = {
    "AsyncDatabase": ASYNC["shop"],
    "AsyncMongoClient": ASYNC,
    "AsyncCollection": ASYNC["shop"]["users"],
    "MongoClient": MONGO,
    "Collection": MONGO["shop"]["users"],
    "URL": "mongodb://user:secret@127.0.0.1/shop",
    "Mock": Mock(),
    "Mock of one": Mock(spec=Database),
    "AsyncMock": AsyncMock(spec=Database),
    "MagicMock": MagicMock(),
    "dict": {},
    "class": Database,
}
NO_CLIENTS: dict[str, Any] = {
    "asyncio": redis.asyncio.Redis(),
    "asyncio Cluster": redis.asyncio.RedisCluster(host="127.0.0.1"),
    "fake asyncio": fakeredis.FakeAsyncRedis(),
    "pool": redis.ConnectionPool(),
    "pipeline": redis.Redis().pipeline(),
    "late Cluster": connect_redis("redis+cluster://127.0.0.1:1", 1),
    "URL": "redis://:secret@127.0.0.1",
    "Mock": Mock(),
    "Mock of one": Mock(spec=redis.Redis),
    "MagicMock": MagicMock(),
    "class": redis.Redis,
}
DOORS: dict[str, Callable[[Any], object]] = {
    "Keeper": lambda database: Keeper(database=database),
    "outbox.add": lambda database: outbox.add(database, None, UserDeleted(user_id="1")),
    "outbox_lag": outbox.outbox_lag,
    "Relay": lambda database: Relay(RelaySettings(mongodb_url="mongodb://h/shop", broker_url="redis://h"), database),
    "ChangeRelay": lambda database: ChangeRelay(StreamSettings(mongodb_url="mongodb://h/shop"), REGISTRY, database),
    "DeadLetters": lambda database: DeadLetters(database, REGISTRY, 60),
}


@pytest.mark.parametrize("given", NO_DATABASES)
@pytest.mark.parametrize("door", DOORS)
def test_what_is_no_database(door: str, given: str) -> None:
    with pytest.raises(TypeError, match=r"^database: must be a pymongo\.database\.Database, .*: pass ") as raised:
        DOORS[door](NO_DATABASES[given])
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("given", NO_CLIENTS)
@pytest.mark.parametrize("field", ["cache", "security"])
def test_what_is_no_client(field: str, given: str) -> None:
    with pytest.raises(
        TypeError, match=rf"^{field}: must be a redis\.Redis or redis\.RedisCluster, .*: pass "
    ) as raised:
        Keeper(**{field: NO_CLIENTS[given]})
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    "given",
    [ASYNC.start_session(), MONGO, Mock(in_transaction=True), Mock(spec=ClientSession), MONGO["shop"], "s", True],
)
def test_what_is_no_session(given: Any) -> None:
    with pytest.raises(TypeError, match=r"^session: must be a pymongo\.client_session\.ClientSession, .*: pass "):
        outbox.add(MONGO["shop"], given, UserDeleted(user_id="1"))


def test_the_cure_is_named() -> None:
    for given, cure in (("AsyncDatabase", "asynchronous"), ("MongoClient", r'client\["shop"\]'), ("Mock", "Mock")):
        with pytest.raises(TypeError, match=cure):
            Keeper(database=NO_DATABASES[given])
    with pytest.raises(TypeError, match=r"asynchronous.*make_redis_client"):
        Keeper(cache=NO_CLIENTS["asyncio"])


def test_what_is_one_is_taken() -> None:
    class Own(Database[Any]):
        pass

    Keeper(database=MONGO["shop"])
    Keeper(database=Own(MONGO, "shop"))
    Keeper(cache=make_redis_client("redis://127.0.0.1:1"))
    Keeper(cache=fakeredis.FakeRedis(protocol=2, retry=Retry(NoBackoff(), 0)))
    with pytest.raises(NoTransaction):
        outbox.add(MONGO["shop"], None, UserDeleted(user_id="1"))


URL = "amqp://me:correcthorse@broker//"


@pytest.mark.parametrize("given", [URL, b"amqp://", {"broker_url": URL}, 5, Mock(), Mock(spec=Settings), Settings])
@pytest.mark.parametrize("kind", [Publisher, Keeper])
def test_what_are_no_settings(kind: Any, given: Any) -> None:
    with pytest.raises(TypeError, match=r"^settings: must be a .*Settings.*: pass .*_url=") as caught:
        kind(given)
    assert "correct" not in str(caught.value)


@pytest.mark.parametrize("given", [URL, Mock(), Mock(spec=Publisher), Publisher, Settings, 5])
def test_what_is_no_publisher(given: Any) -> None:
    with pytest.raises(TypeError, match=r"^publisher: must be a producers\.Publisher, .*: pass "):
        BufferedPublisher(given)


@pytest.mark.parametrize("given", [URL, Mock(), Mock(spec=Keeper), Keeper, 5, 0, "", MONGO["shop"]])
def test_what_is_no_keeper(given: Any) -> None:
    """A mock would say of every token that it is blocked, and an empty text was the keeper of the environment."""
    calls: list[Any] = [
        lambda: read_user(1, keeper=given),
        lambda: read_session("s", keeper=given),
        lambda: save_session("s", {}, keeper=given),
        lambda: block_token("t", None, keeper=given),
        lambda: is_blocked("t", keeper=given),
        lambda: search_products("a", keeper=given),
    ]
    for call in calls:
        with pytest.raises(TypeError, match=r"^keeper: must be a cachekeeper\.Keeper, .*: pass "):
            call()


def test_settings_and_publishers_that_are_some() -> None:
    class OwnKeeper(Keeper):
        pass

    settings = Settings(redis_url="redis://127.0.0.1:1", mongodb_url="mongodb://127.0.0.1:1/shop", broker_url=URL)
    Publisher(settings)
    BufferedPublisher(Publisher(PublisherSettings(broker_url=URL))).close()
    Keeper(settings)
    with pytest.raises(InvalidId):
        read_user("", keeper=OwnKeeper(settings))
