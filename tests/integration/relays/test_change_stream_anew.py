"""The change stream begins anew: the new stream is opened first, and then everything that was cached is dropped."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import pytest
from pymongo.errors import OperationFailure

from cachekeeper.devservers import MongoServer
from cachekeeper.model.registry import Registry
from cachekeeper.relays import change_stream_cursor
from cachekeeper.relays.change_stream_relay import ChangeRelay
from cachekeeper.settings import StreamSettings
from cachekeeper.upkeep.blocklist_warming import Passed, warm_blocklist, write_blocks
from lookups import BLOCKED, is_blocked, read_user, search_products
from testkit.counting import counted
from testkit.waiting import wait_until
from tests.integration.relays.outbox_lab import REGISTRY
from tests.integration.relays.stream_lab import COLLECTIONS, StreamLab, in_an_hour
from tests.integration.relays.test_outbox import Standalone

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from cachekeeper.devservers import FoundServer, Guardian


class DropsFirst(ChangeRelay):
    """A known-bad relay: has everything dropped, and then opens the new stream."""

    between: Callable[[], object] = staticmethod(lambda: None)

    def _begin_anew(self, why: str) -> None:
        self._store(change_stream_cursor.drops(self._watches, why), None)
        self.between()
        self._close_stream()
        self._stream = self._open(None)


class OpensFirst(ChangeRelay):
    """The right one, with a place to step in between."""

    between: Callable[[], object] = staticmethod(lambda: None)

    def _watch(self, token: Mapping[str, Any] | None) -> Any:
        stream = super()._watch(token)
        self.between()
        return stream


def a_change_in_between(lab: StreamLab, kind: type[DropsFirst | OpensFirst]) -> str | None:
    """A first start; between its two halves a reader fills a key, and the document changes."""
    lab.db["users"].insert_one({"_id": 1, "name": "Ann", "version": 1})

    def between() -> None:
        lab.apply()
        assert read_user(1, keeper=lab.keeper) == "Ann"
        lab.db["users"].update_one({"_id": 1}, {"$set": {"name": "Bea"}, "$inc": {"version": 1}})

    stream = lab.stream(kind)
    assert isinstance(stream, DropsFirst | OpensFirst)
    stream.between = between
    lab.drain(stream)
    lab.apply()
    return read_user(1, keeper=lab.keeper)


def test_the_stream_is_open_before_anything_is_dropped(stream_lab: StreamLab) -> None:
    assert a_change_in_between(stream_lab, OpensFirst) == "Bea"


def test_the_other_order_leaves_a_gap(stream_lab: StreamLab) -> None:
    assert a_change_in_between(stream_lab, DropsFirst) == "Ann"


def test_a_first_start_drops_every_view_loudly(stream_lab: StreamLab, caplog: pytest.LogCaptureFixture) -> None:
    stream_lab.db["users"].insert_one({"_id": 1, "name": "Ann", "version": 1})
    read_user(1, keeper=stream_lab.keeper)
    stream_lab.db["users"].update_one(
        {"_id": 1}, {"$set": {"name": "Bea"}, "$inc": {"version": 1}}
    )  # nobody watches yet
    with counted() as seen, caplog.at_level(logging.WARNING):
        stream_lab.drain(stream_lab.stream())
    assert stream_lab.lost() == COLLECTIONS
    assert (seen["change_stream_begun_anew"], seen["change_stream_collection_lost"]) == (1, 4)
    assert sum("everything cached from collection" in line for line in caplog.messages) == 4
    stream_lab.apply()
    assert read_user(1, keeper=stream_lab.keeper) == "Bea"


@pytest.mark.parametrize(
    "token",
    [None, {"_data": "zz"}, {"_data": "826500"}, {"other": 1}, "text", 5],
)
def test_a_place_that_is_none_begins_anew(stream_lab: StreamLab, token: object) -> None:
    stream_lab.begun()
    stream_lab.db["users"].insert_one({"_id": 1, "name": "Ann"})  # not read: its event is lost with the place
    stream_lab.db["change_streams"].update_one({}, {"$set": {"token": token}})
    stream_lab.drain(stream_lab.stream())
    assert stream_lab.lost() == COLLECTIONS


def test_the_state_removed_is_how_to_begin_anew(stream_lab: StreamLab) -> None:
    stream = stream_lab.begun()
    stream_lab.db["change_streams"].delete_many({})
    stream_lab.drain(stream)
    stream_lab.db["users"].insert_one({"_id": 1, "name": "Ann"})
    stream_lab.drain(stream)
    wait_until(lambda: stream_lab.drain(stream) or stream_lab.lost() == COLLECTIONS, "begun anew")


def test_an_oplog_that_no_longer_reaches_back(guardian: Guardian, mongo_found: FoundServer) -> None:
    """The server's own refusal (ChangeStreamHistoryLost), not a made-up one."""
    server = MongoServer(guardian, mongo_found, name="forgetful")
    server.start()
    settings = StreamSettings(mongodb_url=server.url, load_timeout_seconds=20)  # just started, it may be slow
    try:
        turn_once(settings)
        with server.client() as client:
            client.shop["users"].insert_many({"_id": number} for number in range(20))
        server.stop()
        forget_the_oplog(guardian, mongo_found, server)
        server.start()
        with counted() as seen:
            turn_once(settings)
        assert seen["change_stream_begun_anew"] == 1
        with server.client() as client:
            assert client.shop["outbox"].count_documents({}) == 2 * len(COLLECTIONS)
    finally:
        server.kill()


def turn_once(settings: StreamSettings) -> None:
    relay = ChangeRelay(settings, REGISTRY)
    relay.run_once()
    relay.step_down()
    relay.close()


def forget_the_oplog(guardian: Guardian, found: FoundServer, server: MongoServer) -> None:
    """All but its end. A server makes room only after a gigabyte; as a standalone one it lets others do so."""
    alone = Standalone(guardian, found, name="alone", data=server.data)
    alone.start()
    with alone.plain() as client:
        oplog = client.local["oplog.rs"]
        kept = list(oplog.find().sort("$natural", -1).limit(3))
        assert oplog.delete_many({"ts": {"$lt": kept[-1]["ts"]}}).deleted_count > 20
    alone.stop()


def test_a_stream_that_the_server_ends_begins_anew(stream_lab: StreamLab) -> None:
    stream = stream_lab.begun()
    real: Any = stream._stream

    class Ended:
        resume_token = real.resume_token
        close = staticmethod(real.close)

        def try_next(self) -> None:
            raise OperationFailure("too large", 10334)

    stream._stream = Ended()  # type: ignore[assignment]  # a change of more than 16 MB would take a minute to make
    stream_lab.drain(stream)
    assert stream_lab.lost() == COLLECTIONS


def test_a_dropped_and_a_renamed_collection(stream_lab: StreamLab) -> None:
    stream_lab.db["users"].insert_one({"_id": 1, "name": "Ann", "version": 5})
    stream_lab.db["staging"].insert_one({"_id": 1, "name": "Lamp 2"})
    stream_lab.db["products"].insert_one({"_id": 1, "name": "Lamp"})
    stream = stream_lab.begun()
    read_user(1, keeper=stream_lab.keeper)
    search_products("lamp", keeper=stream_lab.keeper)
    stream_lab.db["users"].drop()
    stream_lab.db["users"].insert_one({"_id": 1, "name": "Bea", "version": 1})
    stream_lab.drain(stream)
    assert stream_lab.lost() == ["users"]
    stream_lab.apply()
    assert read_user(1, keeper=stream_lab.keeper) == "Bea"
    stream_lab.db["staging"].rename("products", dropTarget=True)
    stream_lab.drain(stream)
    assert set(stream_lab.lost()) == {"products"}
    stream_lab.apply()
    assert [product["name"] for product in search_products("lamp", keeper=stream_lab.keeper)] == ["Lamp 2"]
    stream_lab.db["products"].rename("old")
    stream_lab.drain(stream)
    assert set(stream_lab.lost()) == {"products"}
    stream_lab.apply()
    assert search_products("lamp", keeper=stream_lab.keeper) == []


def test_a_dropped_database(stream_lab: StreamLab) -> None:
    """Its state is gone with it, and the stream ends."""
    stream_lab.db["users"].insert_one({"_id": 1, "name": "Ann"})
    stream = stream_lab.begun()
    assert read_user(1, keeper=stream_lab.keeper) == "Ann"
    stream_lab.db.client.drop_database(stream_lab.shop.name)
    stream_lab.drain(stream)
    wait_until(lambda: stream_lab.drain(stream) or stream_lab.lost() == COLLECTIONS, "begun anew")
    stream_lab.apply()
    assert read_user(1, keeper=stream_lab.keeper) is None


def test_a_collection_that_is_watched_only_now(stream_lab: StreamLab) -> None:
    few = Registry()
    for watch in REGISTRY.watches.values():
        if watch.collection != "products":
            few.add_watch(watch)
    stream_lab.drain(stream_lab.stream(registry=few))
    assert stream_lab.lost() == ["blocked_tokens", "sessions", "users"]
    stream_lab.apply()
    stream_lab.drain(stream_lab.stream())
    assert stream_lab.lost() == ["products"]
    stream_lab.apply()
    stream_lab.drain(stream_lab.stream())
    assert stream_lab.lost() == []


def test_blocks_stay_and_only_ready_goes(stream_lab: StreamLab) -> None:
    """A block that MongoDB alone has got is found, although Redis said that it holds all."""
    stream_lab.db["blocked_tokens"].insert_one({"_id": "t1", "expires_at": in_an_hour()})
    warm_blocklist(stream_lab.keeper, BLOCKED)
    stream_lab.db["blocked_tokens"].insert_one({"_id": "t2", "expires_at": in_an_hour()})  # nobody watches
    assert not is_blocked("t2", keeper=stream_lab.keeper)
    stream_lab.begun()
    assert is_blocked("t2", keeper=stream_lab.keeper)
    assert stream_lab.shop.redis.exists("blocked:t1")


def test_a_pass_under_way_does_not_say_ready_afterwards(stream_lab: StreamLab) -> None:
    """It may have read past the place of a block that nobody told of."""
    stream_lab.db["blocked_tokens"].insert_one({"_id": "t1", "expires_at": in_an_hour()})
    begun = stream_lab.stream()

    def tell(written: int) -> None:
        if written:
            stream_lab.db["blocked_tokens"].insert_one({"_id": "t0", "expires_at": in_an_hour()})
            stream_lab.drain(begun)
            stream_lab.db["outbox"].delete_many({"body": {"$regex": "t0"}})
            stream_lab.apply()

    assert write_blocks(stream_lab.keeper, BLOCKED, tell=tell) is Passed.LOST
    assert is_blocked("t0", keeper=stream_lab.keeper)
