"""Whatever happens while a view is being warmed: nothing stale is left behind."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import redis
from pymongo.database import Database

from cachekeeper import Command, Expire, Invalidate, Keeper, Write
from cachekeeper.applying.batch import apply
from cachekeeper.devservers import RedisServer
from cachekeeper.protocol import scripts
from cachekeeper.protocol.outcomes import Acquired
from cachekeeper.reading import leases
from cachekeeper.upkeep import warming as views
from cachekeeper.upkeep.warming import warm_view
from cachekeeper.values.keys import meta_key
from lookups import USER_NAME, read_user
from testkit.limits import PATIENT
from testkit.taps import MongoTap, RedisTap
from testkit.tokens import keeping
from testkit.users import key_of, names, users

pytestmark = pytest.mark.usefixtures("small_batches")


def _load_first(self: views._Run, documents: Any) -> Any:
    """A mutant: what was read before the leases is filled under them."""
    view, store, limits = self._view, self._store, self._binding.reader.limits
    loaded = {view.template.key(str(document["_id"])): view.interpret(document) for document in documents}
    nonces = {key: scripts.new_nonce() for key in loaded}
    answers = store.run_all([leases.take(key, nonce, limits) for key, nonce in nonces.items()])
    granted = [key for key, answer in zip(nonces, answers, strict=True) if answer is Acquired.GRANTED]
    life = self._binding.ttl_ms
    store.run_all([leases.bring(key, nonces[key], loaded[key], limits, ttl_ms=life, spare=False) for key in granted])
    return Counter()


def _blind(self: views._Run, documents: Any) -> Any:
    """A mutant: SET where there is nothing, without any lease."""
    for document in documents:
        self._store.client.set(self._view.template.key(document["_id"]), document["name"], nx=True)
    return Counter()


class Upstream:
    """What upstream services do to user 1 while it is warmed: the commit, and some time later the event."""

    def __init__(self, keeper: Keeper, users: Database[Any]) -> None:
        self.keeper = keeper
        self.users = users["users"]
        self.event: list[Command] = []
        """What comes when the run has ended."""

    def _apply(self, command: Command) -> None:
        # An event that was lost would look like a stale key, or hide one.
        assert [result.error for result in apply(self.keeper, [[command]])] == [None]

    def change(self) -> None:
        self.users.update_one({"_id": 1}, {"$set": {"name": "new", "version": 2}})
        self._apply(Write(USER_NAME, "1", "new", 2))

    def change_twice(self) -> None:
        self.change()
        self.users.update_one({"_id": 1}, {"$set": {"name": "newest", "version": 3}})
        self._apply(Write(USER_NAME, "1", "newest", 3))

    def change_and_eviction(self) -> None:
        self.change()
        self.keeper.store(USER_NAME.server).client.delete(meta_key(key_of(1)))

    def commit_of_a_change(self) -> None:
        self.users.update_one({"_id": 1}, {"$set": {"name": "new", "version": 2}})
        self.event = [Write(USER_NAME, "1", "new", 2)]

    def commit_of_a_deletion(self) -> None:
        self.users.delete_one({"_id": 1})
        self.event = [Invalidate(USER_NAME, "1")]

    def change_without_version(self) -> None:
        self.users.update_one({"_id": 1}, {"$set": {"name": "new"}, "$unset": {"version": 1}})
        self._apply(Invalidate(USER_NAME, "1"))

    def delete(self) -> None:
        self.users.delete_one({"_id": 1})
        self._apply(Invalidate(USER_NAME, "1"))

    def expire(self) -> None:
        self.users.delete_one({"_id": 1})
        self._apply(Expire(USER_NAME, "1"))

    def flush_and_change(self) -> None:
        self.keeper.store(USER_NAME.server).client.flushall()
        self.change()


HAPPENINGS = [name for name in vars(Upstream) if not name.startswith("_")]


def stale(redis_server: RedisServer, mongo: MongoTap, client: redis.Redis, happening: str) -> list[str]:
    """Let it happen before each command of a run in turn, to either server: what is cached that is not so?"""
    found: list[str] = []
    with (
        RedisTap(redis_server) as tap,
        # What happens before a command is sent takes of the time that the command has.
        keeping(tap.url, mongo, **PATIENT) as keeper,
        keeping(redis_server.url, mongo, **PATIENT) as other,
    ):

        def run(at: int | None) -> int:
            upstream, count, inside = Upstream(other, mongo.database), 0, False

            def before(_: object) -> None:
                nonlocal count, inside
                if inside:
                    return  # a command of the happening itself
                if count == at:
                    inside = True
                    getattr(upstream, happening)()
                    inside = False
                count += 1

            client.flushall()
            mongo.database["users"].delete_many({})
            users(mongo, 3)
            tap.before = before
            mongo.before = before
            warm_view(keeper, USER_NAME, concurrency=1)
            tap.before = lambda _words: None
            mongo.before = lambda _event: None
            assert [result.error for result in apply(other, [upstream.event])] == [None]
            true = {str(user["_id"]): user["name"] for user in mongo.database["users"].find()}
            for part, name in names(client).items():
                if true.get(part) != name:
                    found.append(f"{happening} before command {at}: {part} is {name!r}, should be {true.get(part)!r}")
            if not any(f"before command {at}:" in line for line in found):
                assert read_user(1, keeper=other) == true.get("1")
            return count

        for at in range(run(None)):
            run(at)
    return found


@pytest.mark.parametrize("happening", HAPPENINGS)
def test_nothing_that_happens_meanwhile_leaves_a_stale_key(
    redis_server: RedisServer, mongo: MongoTap, client: redis.Redis, happening: str
) -> None:
    assert stale(redis_server, mongo, client, happening) == []


@pytest.mark.parametrize("mutant", [_load_first, _blind])
@pytest.mark.parametrize("happening", ["change_and_eviction", "change_without_version", "delete"])
def test_mutants_leave_stale_keys(
    redis_server: RedisServer,
    mongo: MongoTap,
    client: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
    mutant: Callable[..., Any],
    happening: str,
) -> None:
    monkeypatch.setattr(views._Run, "_warm", mutant)
    assert stale(redis_server, mongo, client, happening) != []
