"""Full passes over a blocklist: *ready* only ever says that Redis holds every live block, whatever comes between."""

import logging
from collections.abc import Callable
from typing import Any

import pytest
import redis
from pymongo.database import Database

from cachekeeper import CacheUnavailable, Keeper, metrics
from cachekeeper.applying.batch import block_step
from cachekeeper.devservers import RedisServer
from cachekeeper.protocol import scripts
from cachekeeper.reading.blocklist import key_text
from cachekeeper.upkeep import blocklist_warming as blocklist
from cachekeeper.upkeep.blocklist_warming import Passed, _Pass, write_blocks
from cachekeeper.upkeep.paging import in_order
from lookups import BLOCKED, block_token, is_blocked
from testkit.taps import Cut, MongoTap, RedisTap, Words
from testkit.tokens import FOREIGN_IDS, LEEWAY, NONCE, READY, RESTED, TOKEN, keeping, life_of, soon

TOKENS = ["a", "b", "c"]


@pytest.fixture
def blocks(mongo: MongoTap, monkeypatch: pytest.MonkeyPatch) -> Database[Any]:
    """Three blocks that only MongoDB has, and passes in batches of two."""
    monkeypatch.setattr(blocklist, "BATCH", 2)
    mongo.database["blocked_tokens"].insert_many([{"_id": token, "expires_at": None} for token in TOKENS])
    return mongo.database


def blocked(client: redis.Redis) -> set[str]:
    keys: Any = client.keys("blocked:*")
    return {key.decode().removeprefix("blocked:") for key in keys}


# --- one pass ---------------------------------------------------------------------------------------------------------


def test_a_pass_brings_every_live_block_and_says_ready(any_redis: RedisServer, mongo: MongoTap) -> None:
    documents: list[dict[str, Any]] = [
        {"_id": "until soon", "expires_at": soon(1000)},
        {"_id": "null", "expires_at": None},
        {"_id": "missing"},
        {"_id": "text", "expires_at": "soon"},
        {"_id": "within the leeway", "expires_at": soon(-LEEWAY + 20)},
        {"_id": "over", "expires_at": soon(-LEEWAY - 1)},
        {"_id": "{any} text\0 at all", "expires_at": None},
    ]
    mongo.database["blocked_tokens"].insert_many(documents)
    with keeping(any_redis.url, mongo) as keeper, any_redis.client() as client:
        assert write_blocks(keeper, BLOCKED) is Passed.READY
        assert blocked(client) == {document["_id"] for document in documents} - {"over"}
        assert life_of(client, "blocked:until soon") == pytest.approx(1000 + LEEWAY, abs=5)
        assert 0 < life_of(client, "blocked:within the leeway") <= 20
        assert {client.pttl(f"blocked:{name}") for name in ("null", "missing", "text")} == {-1}
        assert client.get("blocked:null") == b"true"
        assert (client.get(READY), client.pttl(READY)) == (b"true", -1)
        assert client.exists(NONCE) == 0
        assert 0 < life_of(client, RESTED) <= 60
        mongo.commands.clear()
        assert [is_blocked(token, keeper=keeper) for token in ("null", "over", "free")] == [True, False, False]
        assert mongo.commands == []


@pytest.mark.parametrize(("document_id", "token"), FOREIGN_IDS, ids=repr)
def test_what_mongodb_would_find_redis_has_too(
    keeper: Keeper, mongo: MongoTap, document_id: object, token: str
) -> None:
    mongo.database["blocked_tokens"].insert_one({"_id": document_id})
    assert is_blocked(token, keeper=keeper) is True
    assert write_blocks(keeper, BLOCKED) is Passed.READY
    mongo.commands.clear()
    assert is_blocked(token, keeper=keeper) is True
    assert mongo.commands == []


def test_batches_go_on_across_types_of_ids(keeper: Keeper, client: redis.Redis, blocks: Database[Any]) -> None:
    for document_id, _ in FOREIGN_IDS:  # to MongoDB, some of them are one
        blocks["blocked_tokens"].replace_one({"_id": document_id}, {}, upsert=True)
    blocks["blocked_tokens"].insert_many([{"_id": float("nan")}, {"_id": {"a": 1}}, {"_id": None}, {"_id": 4.5}])
    counted = metrics.COUNTERS["block_unspelt"]
    told: list[int] = []
    assert write_blocks(keeper, BLOCKED, tell=told.append) is Passed.READY
    assert blocked(client) == {*TOKENS, "4.5", *(token for _, token in FOREIGN_IDS)}
    assert told[-1] == blocks["blocked_tokens"].count_documents({})
    assert metrics.COUNTERS["block_unspelt"] == counted + 3


def test_ids_without_a_text_are_counted_and_logged_once_without_them(
    keeper: Keeper, blocks: Database[Any], caplog: pytest.LogCaptureFixture
) -> None:
    blocks["blocked_tokens"].insert_many([{"_id": {"iss": "x", "jti": TOKEN}}, {"_id": True}])
    with caplog.at_level(logging.WARNING, "cachekeeper"):
        assert write_blocks(keeper, BLOCKED) is Passed.READY
    assert len([record for record in caplog.records if "blocks no token" in record.message]) == 1
    assert TOKEN not in caplog.text
    assert key_text(float("inf")) is None


def test_an_empty_blocklist_is_ready_too(keeper: Keeper, client: redis.Redis) -> None:
    assert write_blocks(keeper, BLOCKED) is Passed.READY
    assert client.exists(READY) == 1


def test_a_pass_shortens_nothing(keeper: Keeper, client: redis.Redis, mongo: MongoTap) -> None:
    mongo.database["blocked_tokens"].insert_one({"_id": "a", "expires_at": soon(1000)})
    client.set("blocked:a", "true", ex=5000)
    client.hset("blocked:b", "other", "type")
    write_blocks(keeper, BLOCKED)
    assert life_of(client, "blocked:a") > 4900
    assert client.type("blocked:b") == b"hash"


def test_it_stops_between_batches_and_lets_others_begin(
    keeper: Keeper, client: redis.Redis, blocks: Database[Any]
) -> None:
    assert blocks is not None
    assert write_blocks(keeper, BLOCKED, stopped=lambda: True) is Passed.STOPPED
    assert client.exists(READY, NONCE) == 0
    assert len(blocked(client)) == 2


# --- whatever comes between -------------------------------------------------------------------------------------------


def _blind_ready(self: _Pass) -> bool:
    """A mutant: ready without a nonce."""
    self._store.client.set(self._view.warming_key, self._nonce)
    return True


def _renew_anew(self: _Pass) -> bool:
    """A mutant: the nonce is renewed by writing it."""
    self._store.client.set(self._view.warming_key, self._nonce, px=self._nonce_ms)
    return True


def _renew_over_others(self: _Pass) -> bool:
    """A mutant: the nonce is renewed by writing it where there is one, whosever it is."""
    return bool(self._store.client.set(self._view.warming_key, self._nonce, px=self._nonce_ms, xx=True))


def _nonce_at_the_end(self: _Pass) -> Passed:
    """A mutant: the nonce covers nothing."""
    for documents in in_order(self._keeper, self._view.collection, ("expires_at",), size=2):
        self._store.run_all(
            [block_step(self._keeper, self._view, str(document["_id"]), None) for document in documents]
        )
    _renew_anew(self)
    self._store.run(scripts.declare_ready(self._view.warming_key, self._view.ready_key, self._nonce))
    return Passed.READY


def _ready_first(self: _Pass) -> Passed:
    """A mutant: says it before it is so."""
    self._store.run(scripts.declare_ready(self._view.warming_key, self._view.ready_key, self._nonce))
    return _write(self)


_write = _Pass._write

MUTANTS: dict[str, tuple[str, Callable[[_Pass], object]]] = {
    "ready without nonce": ("_renew", _blind_ready),
    "nonce written anew": ("_renew", _renew_anew),
    "nonce over another's": ("_renew", _renew_over_others),
    "nonce at the end": ("_write", _nonce_at_the_end),
    "ready first": ("_write", _ready_first),
}


class World:
    """What may happen while a pass is under way."""

    def __init__(self, client: redis.Redis, other: Keeper) -> None:
        self.client = client
        self.other = other
        self.acknowledged: set[str] = set(TOKENS)

    def flush(self) -> None:
        self.client.flushall()

    def flush_and_another_begins(self) -> None:
        self.client.flushall()
        self.client.set(NONCE, "another's", px=60_000)

    def another_pass(self) -> None:
        write_blocks(self.other, BLOCKED)

    def flush_and_another_pass(self) -> None:
        self.client.flushall()
        write_blocks(self.other, BLOCKED)

    def another_pass_and_flush(self) -> None:
        self.client.delete(NONCE)
        write_blocks(self.other, BLOCKED)
        self.client.flushall()

    def new_block(self) -> None:
        block_token("0", None, keeper=self.other)  # behind the place that the pass has reached
        block_token("z", None, keeper=self.other)
        self.acknowledged |= {"0", "z"}

    def new_block_and_flush(self) -> None:
        self.new_block()
        self.client.flushall()

    def flush_and_new_block(self) -> None:
        self.client.flushall()
        self.new_block()


HAPPENINGS = [name for name in vars(World) if not name.startswith("_")]


def lies(
    redis_server: RedisServer, mongo: MongoTap, client: redis.Redis, happening: str, *, cut: bool = False
) -> list[str]:
    """Let something happen before each command of a pass in turn: when did *ready* say what was not so?"""
    found: list[str] = []
    with (
        RedisTap(redis_server) as tap,
        keeping(tap.url, mongo) as keeper,
        keeping(redis_server.url, mongo) as other,
    ):

        def run(at: int | None) -> None:
            world = World(client, other)

            def before(words: Words) -> None:
                nonlocal at
                if at is not None and len(tap.commands) == at:
                    at = None
                    getattr(world, happening)()
                    if cut:
                        raise Cut
                look(words[0].decode())

            def look(when: str) -> None:
                missing = world.acknowledged - blocked(client)
                if client.exists(READY) and missing:
                    found.append(f"{happening} before command {begun}: before {when} without {sorted(missing)}")

            begun = at
            client.flushall()
            mongo.database["blocked_tokens"].delete_many({"_id": {"$in": ["0", "z"]}})
            keeper.store(BLOCKED.server).client.ping()
            tap.commands.clear()
            tap.before = before
            try:
                write_blocks(keeper, BLOCKED)
            except CacheUnavailable:
                assert cut
            finally:
                tap.before = lambda _words: None
            look("the end")

        run(None)
        commands = len(tap.commands)
        for at in range(commands):
            run(at)
    return found


@pytest.mark.parametrize("happening", HAPPENINGS)
def test_ready_never_lies(
    redis_server: RedisServer, mongo: MongoTap, client: redis.Redis, blocks: Database[Any], happening: str
) -> None:
    assert blocks is mongo.database
    assert lies(redis_server, mongo, client, happening) == []


@pytest.mark.parametrize("happening", ["flush", "another_pass", "new_block"])
def test_ready_never_lies_where_a_connection_breaks_besides(
    redis_server: RedisServer, mongo: MongoTap, client: redis.Redis, blocks: Database[Any], happening: str
) -> None:
    assert blocks is mongo.database
    assert lies(redis_server, mongo, client, happening, cut=True) == []


@pytest.mark.parametrize(
    ("mutant", "happening"),
    [
        ("ready without nonce", "flush"),
        ("nonce written anew", "flush"),
        ("nonce over another's", "flush_and_another_begins"),
        ("nonce at the end", "flush"),
        ("ready first", "another_pass"),
    ],
)
def test_mutants_lie(
    redis_server: RedisServer,
    mongo: MongoTap,
    client: redis.Redis,
    blocks: Database[Any],
    monkeypatch: pytest.MonkeyPatch,
    mutant: str,
    happening: str,
) -> None:
    assert blocks is mongo.database
    monkeypatch.setattr(_Pass, *MUTANTS[mutant])
    assert lies(redis_server, mongo, client, happening) != []
