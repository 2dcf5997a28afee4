"""The outbox on real servers: stored with the change, published until a worker has dealt with it, and what it costs."""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING, Any

import pymongo
import pytest
from bson import Decimal128
from pymongo.errors import PyMongoError

import cachekeeper.delivery.work
from cachekeeper.delivery.outbox import Lag, leave
from cachekeeper.delivery.publisher import EVENTS_PER_MESSAGE, Publisher
from cachekeeper.delivery.relay import Relay
from cachekeeper.delivery.work import Verdict
from cachekeeper.embedded import MongoServer
from cachekeeper.errors import InvalidEvent, NoTransaction
from cachekeeper.keeper import Keeper
from lookups import read_user
from producers import ProductChanged, UserDeleted, UserLoggedOut, UserUpdated, outbox
from tests.real.outbox_lab import Killed, Lab
from tests.shop import threads

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from cachekeeper.embedded import FoundServer, Guardian
    from tests.shop import Shop


@pytest.fixture
def lab(shop: Shop) -> Iterator[Lab]:
    lab = Lab(shop)
    yield lab
    lab.close()


def renamed(number: int, version: int = 2) -> UserUpdated:
    return UserUpdated(user_id=f"u{number}", name=f"name {version} of {number}", version=version)


def old_names_are_cached(lab: Lab, count: int) -> list[UserUpdated]:
    """Users, each of whose cached name the event with the same number makes old."""
    lab.store(*(renamed(number, 1) for number in range(count)))
    lab.shop.db["outbox"].delete_many({})
    for number in range(count):
        assert read_user(f"u{number}", keeper=lab.delivery.keeper) == f"name 1 of {number}"
    return [renamed(number) for number in range(count)]


def stale(lab: Lab, events: Sequence[UserUpdated]) -> list[str]:
    """The users whose cached name is not the one that was committed."""
    return [event.user_id for event in events if read_user(event.user_id, keeper=lab.delivery.keeper) != event.name]


# --- storing ---------------------------------------------------------------------------------------------------------


def test_an_event_is_stored_with_its_change_or_not_at_all(lab: Lab) -> None:
    db, event = lab.shop.db, renamed(1)
    with db.client.start_session() as session:
        with session.start_transaction():
            db["users"].insert_one({"_id": "u1"}, session=session)
            outbox.add(db, session, event)
            assert lab.stored() == []  # nobody else sees it before the commit
        assert lab.stored() == [event.id]
        session.start_transaction()
        db["users"].insert_one({"_id": "u2"}, session=session)
        outbox.add(db, session, renamed(2))
        session.abort_transaction()
    assert lab.stored() == [event.id]
    assert db["users"].count_documents({}) == 1


def test_what_is_stored_is_the_wire_form(lab: Lab) -> None:
    event = ProductChanged(product_id="7", name='Lämp \\ "x" 💡', previous_name=None)
    lab.store(event)
    record: Any = lab.shop.db["outbox"].find_one()
    assert json.loads(record["body"]) == event.to_wire()
    assert (record["_id"], record["due_at"], record["attempts"]) == (event.id, None, 0)


def test_outside_of_a_transaction_it_is_refused(lab: Lab) -> None:
    with lab.shop.db.client.start_session() as session:
        for none in (session, None):
            with pytest.raises(NoTransaction, match="no transaction is under way"):
                outbox.add(lab.shop.db, none, renamed(1))
    assert lab.stored() == []


def test_only_events_are_stored(lab: Lab) -> None:
    with (
        lab.shop.db.client.start_session() as session,
        pytest.raises(InvalidEvent, match="event: must be an Event, got dict"),
        session.start_transaction(),
    ):
        outbox.add(lab.shop.db, session, {"type": "user.updated"})  # type: ignore[arg-type]  # on purpose


def test_an_id_that_is_in_use_is_refused_and_the_change_with_it(lab: Lab) -> None:
    lab.store(first := UserDeleted(user_id="u1"))
    with pytest.raises(InvalidEvent, match="id: is in the outbox already"):
        lab.store(renamed(1), UserDeleted(user_id="u2", id=first.id))
    assert lab.stored() == [first.id]
    assert lab.shop.db["users"].count_documents({}) == 0


def test_a_transaction_that_mongodb_wants_repeated_is_repeated(lab: Lab) -> None:
    """What `with_transaction` goes by is the error's label; it must come through as it is."""
    db = lab.shop.db
    db["users"].insert_one({"_id": "u1", "n": 0})
    attempts = 0

    def change(session: Any) -> None:
        nonlocal attempts
        attempts += 1
        outbox.add(db, session, renamed(1))
        if attempts == 1:
            db["users"].update_one({"_id": "u1"}, {"$inc": {"n": 1}})  # somebody else is quicker
        db["users"].update_one({"_id": "u1"}, {"$inc": {"n": 1}}, session=session)

    with db.client.start_session() as session:
        session.with_transaction(change)
    assert attempts == 2
    assert len(lab.stored()) == 1


class Standalone(MongoServer):
    """A mongod without a replica set."""

    def _command(self) -> Sequence[str]:
        words = list(super()._command())
        at = words.index("--replSet")
        return [*words[:at], *words[at + 2 :]]

    def plain(self) -> pymongo.MongoClient[dict[str, Any]]:
        """A client that expects no replica set."""
        return pymongo.MongoClient("127.0.0.1", self.port, serverSelectionTimeoutMS=2000)

    def _not_ready(self) -> str | None:
        try:
            with self.plain() as client:
                return None if client.admin.command("serverStatus")["pid"] == self.pid else "another process"
        except PyMongoError as error:
            return str(error)


def test_a_standalone_server_is_told_by_name_and_cure(guardian: Guardian, mongo_found: FoundServer) -> None:
    server = Standalone(guardian, mongo_found, name="standalone")
    server.start()
    try:
        with (
            server.plain() as client,
            client.start_session() as session,
            pytest.raises(NoTransaction, match=r"standalone.*--replSet"),
            session.start_transaction(),
        ):
            outbox.add(client["shop"], session, renamed(1))
    finally:
        server.kill()


# --- from the record to the key --------------------------------------------------------------------------------------


def test_an_event_leaves_when_it_is_applied_and_not_before(lab: Lab) -> None:
    events = old_names_are_cached(lab, 3)
    lab.store(*events)
    relay = lab.relay()
    assert relay.round() == 3
    assert lab.stored() == sorted(event.id for event in events)
    assert relay.round() == 0  # under way
    assert lab.work_all() == 3
    assert lab.stored() == []
    assert stale(lab, events) == []


def test_one_that_is_ignored_as_old_leaves_too(lab: Lab) -> None:
    events = old_names_are_cached(lab, 1)
    lab.store(*events)
    relay = lab.relay()
    relay.round()
    lab.work_all()
    lab.store(renamed(0, 1))  # told late
    lab.shop.db["users"].update_one({"_id": "u0"}, {"$set": {"name": events[0].name, "version": 2}})
    assert relay.round() == 1
    assert lab.work_all() == 1
    assert lab.stored() == []
    assert stale(lab, events) == []


def test_a_published_event_that_is_not_stored_removes_nothing(lab: Lab) -> None:
    """Only a message that says that it is from the outbox; else anybody could empty it."""
    lab.store(event := renamed(1))
    publisher = Publisher(lab.delivery.keeper.settings)
    publisher.publish(event)
    publisher.close()
    assert lab.work_all() == 1
    assert lab.stored() == [event.id]


def test_poison_becomes_a_dead_letter_and_leaves_and_its_neighbours_are_applied(lab: Lab) -> None:
    events = old_names_are_cached(lab, 2)
    deep = '{"id": "deep", "type": "user.deleted", "user_id": ' + "[" * 40 + "]" * 40 + "}"
    records: list[dict[str, Any]] = [
        {"_id": "unknown", "body": '{"id": "unknown", "type": "user.promoted"}'},
        {"_id": "invalid", "body": '{"id": "invalid", "type": "user.deleted"}'},
        {"_id": "no event", "body": "[]"},
        {"_id": "no JSON", "body": '{"id": "no JSON"'},
        {"_id": "no text", "body": {"id": "no text"}},
        {"_id": "nothing"},
        {"_id": "other id", "body": '{"id": "deep", "type": "user.promoted"}'},
        {"_id": "deep", "body": deep},
        {"_id": "many digits", "body": "9" * 5000},
        {"_id": "odd count", "body": "{}", "attempts": "many"},
        {"_id": "decimal", "body": "{}", "attempts": Decimal128("NaN")},
        {"_id": "too long", "body": '"' + "x" * (9 * 1024 * 1024) + '"'},
    ]
    lab.store(events[0])
    lab.shop.db["outbox"].insert_many(records)
    lab.store(events[1])
    assert lab.relay().round() == len(records) + 2
    assert lab.broker.llen("cachekeeper") == 1  # all in one message
    lab.work_all()
    assert lab.stored() == []
    assert stale(lab, events) == []
    letters = lab.shop.db["dead_letters"]
    assert letters.count_documents({}) == len(records)
    assert {json.loads(letter["body"])["id"] for letter in letters.find()} == {record["_id"] for record in records}


def test_records_of_a_service_that_knows_only_the_format(lab: Lab) -> None:
    (event,) = old_names_are_cached(lab, 1)
    lab.store(event)
    lab.shop.db["outbox"].delete_many({})
    lab.shop.db["outbox"].insert_one({"_id": event.id, "body": json.dumps(event.to_wire())})
    assert lab.relay().round() == 1
    lab.work_all()
    assert (lab.stored(), stale(lab, [event])) == ([], [])


# --- what is lost is published again ---------------------------------------------------------------------------------


class DeletesWhenPublished(Relay):
    """A known-bad relay: an ordinary outbox, which trusts the broker."""

    def _publish(self, records: Sequence[Mapping[str, Any]]) -> int:
        published = super()._publish(records)
        self._outbox.delete_many({"_id": {"$in": [record["_id"] for record in records]}})
        return published


def the_broker_loses_everything(lab: Lab, kind: type[Relay]) -> list[str]:
    events = old_names_are_cached(lab, 20)
    lab.store(*events)
    relay = lab.relay(kind)
    assert relay.round() == 20
    lab.broker.flushdb()
    for _ in range(10):
        if not lab.stored():
            break
        lab.again(relay)
        lab.work_all()
    return stale(lab, events)


def test_what_a_broker_loses_is_published_again(lab: Lab) -> None:
    assert the_broker_loses_everything(lab, Relay) == []
    assert lab.stored() == []


def test_a_relay_that_trusts_the_broker_loses_it(lab: Lab) -> None:
    assert len(the_broker_loses_everything(lab, DeletesWhenPublished)) == 20


GAPS = ["before the database", "before Redis", "before it leaves", "before the acknowledgement"]


def kill_worker_at(monkeypatch: pytest.MonkeyPatch, gap: str) -> None:
    def killed(*_: object) -> None:
        raise Killed

    work: Any = cachekeeper.delivery.work
    match gap:
        case "before the database":
            monkeypatch.setattr(work, "apply", killed)
        case "before Redis":
            monkeypatch.setattr("cachekeeper.applying._Plan.run", killed)
        case "before it leaves":
            monkeypatch.setattr(work, "leave", killed)
        case "before the acknowledgement":
            monkeypatch.setattr(work.Delivery, "_warm", killed)


def a_worker_is_killed(lab: Lab, monkeypatch: pytest.MonkeyPatch, gap: str) -> list[str]:
    """The broker loses its message besides, as Redis does now and then."""
    events = old_names_are_cached(lab, 5)
    lab.store(*events)
    relay = lab.relay()
    relay.round()
    message = lab.take()
    assert message is not None
    with monkeypatch.context() as patch:
        kill_worker_at(patch, gap)
        with pytest.raises(Killed):
            lab.work(message)
    lab.new_worker()
    for _ in range(10):
        if not lab.stored():
            break
        lab.again(relay)
        lab.work_all()
    return stale(lab, events)


@pytest.mark.parametrize("gap", GAPS)
def test_a_worker_killed_at_any_point_leaves_the_record_or_has_applied_it(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, gap: str
) -> None:
    assert a_worker_is_killed(lab, monkeypatch, gap) == []
    assert lab.stored() == []


@pytest.mark.parametrize("gap", GAPS[:2])
def test_a_worker_that_removes_before_it_applies_loses_it(lab: Lab, monkeypatch: pytest.MonkeyPatch, gap: str) -> None:
    """Known-bad: acknowledged early, as Celery does by default."""
    process = lab.delivery._process

    def leaves_first(message: Any, strikes: int) -> None:
        leave(lab.delivery.keeper, message.events)
        process(message, strikes)

    monkeypatch.setattr(lab.delivery, "_process", leaves_first)
    assert len(a_worker_is_killed(lab, monkeypatch, gap)) == 5


def test_where_the_record_cannot_be_removed_the_message_goes_back(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    events = old_names_are_cached(lab, 1)
    lab.store(*events)
    lab.relay().round()
    message = lab.take()
    assert message is not None
    blind = Keeper(lab.shop.settings(mongodb_url="mongodb://127.0.0.1:1/none", load_timeout_seconds=0.1))
    with monkeypatch.context() as patch:
        patch.setattr(cachekeeper.delivery.work, "leave", lambda _, bodies: leave(blind, bodies))
        assert lab.work(message) is Verdict.AWAY
    assert len(lab.stored()) == 1
    blind.close()


# --- what it costs ---------------------------------------------------------------------------------------------------


class AllAtOnce(Relay):
    """A known-bad relay: publishes again whatever is due."""

    def _publish_again(self) -> int:
        self._retries.last, self._retries.size = (), EVENTS_PER_MESSAGE
        return super()._publish_again()


def without_workers(lab: Lab, kind: type[Relay]) -> int:
    """How many copies wait in the broker after each of 100 events was due again ten times."""
    lab.store(*(renamed(number) for number in range(100)))
    relay = lab.relay(kind)
    for _ in range(11):
        relay.round()
        lab.time_passes()
    assert len(lab.stored()) == 100
    return sum(lab.published().values())


def test_a_long_time_without_workers_costs_one_backlog_and_some(lab: Lab) -> None:
    assert without_workers(lab, Relay) == 100 + 16


def test_a_relay_that_publishes_all_that_is_due_costs_many(lab: Lab) -> None:
    assert without_workers(lab, AllAtOnce) == 11 * 100


def test_without_workers_a_few_are_tried_now_and_then(lab: Lab) -> None:
    """Else a broker that has lost everything would never be given anything that could open the way."""
    lab.store(*(renamed(number) for number in range(100)))
    relay = lab.relay()
    assert [relay.round(), *(lab.again(relay) for _ in range(4))] == [100, 16, 16, 16, 16]
    assert len(lab.published()) == 100


def test_each_time_it_takes_twice_as_long_until_it_is_published_again(lab: Lab) -> None:
    lab.store(renamed(1))
    relay = lab.relay(outbox_retry_seconds=100)
    waits = []
    for _ in range(8):
        lab.again(relay)
        (found,) = lab.shop.db["outbox"].aggregate([{"$set": {"ms": {"$subtract": ["$due_at", "$$NOW"]}}}])
        waits.append(found["ms"] / 100_000)
    for wait, least in zip(waits, [1, 2, 4, 8, 16, 32, 32, 32], strict=True):
        assert 0.9 * least < wait <= 1.5 * least
    assert len({wait / least for wait, least in zip(waits, [1, 2, 4, 8, 16, 32, 32, 32], strict=True)}) == 8  # spread


def test_no_more_are_under_way_than_the_limit(lab: Lab) -> None:
    lab.store(*(renamed(number) for number in range(30)))
    relay = lab.relay(outbox_limit_events=10)
    assert [relay.round() for _ in range(3)] == [10, 0, 0]
    assert lab.work_all() == 10
    assert [relay.round() for _ in range(3)] == [10, 0, 0]
    lag = outbox.outbox_lag(lab.shop.db)
    assert (lag.events, lag.under_way) == (20, 10)


def test_when_a_worker_is_back_what_was_lost_comes_in_ever_larger_parts(lab: Lab) -> None:
    lab.store(*(renamed(number) for number in range(600)))
    relay = lab.relay()
    assert [relay.round() for _ in range(3)] == [500, 100, 0]
    lab.broker.flushdb()
    lab.time_passes()
    sizes = []
    while lab.stored():
        sizes.append(relay.round())  # no more time passes
        lab.work_all()
    assert sizes == [16, 32, 64, 128, 256, 104]


def test_one_that_never_leaves_does_not_keep_the_others_waiting(lab: Lab) -> None:
    lab.store(*(renamed(number) for number in range(100)))
    relay = lab.relay()
    relay.round()
    lab.broker.flushdb()
    lab.time_passes()
    never = lab.shop.db["outbox"].find_one(sort=[("due_at", 1)])
    assert never is not None
    for _ in range(10):
        relay.round()
        lab.work_all()
        lab.shop.db["outbox"].update_one({"_id": never["_id"]}, {"$set": never}, upsert=True)  # it is back
    assert lab.stored() == [never["_id"]]


def test_a_record_that_was_published_often_travels_alone(lab: Lab) -> None:
    lab.store(*(renamed(number) for number in range(4)))
    lab.shop.db["outbox"].update_one({"_id": lab.stored()[0]}, {"$set": {"attempts": 3}})
    lab.relay().round()
    assert lab.broker.llen("cachekeeper") == 2


class ClaimsWhatItSaw(Relay):
    """A known-bad relay: does not look again whether a record is still due."""

    def _claim(self, due: Mapping[str, Any], limit: int) -> list[dict[str, Any]]:
        chosen = list(self._outbox.find(due).limit(limit))
        ids = [record["_id"] for record in chosen]
        self._outbox.update_many({"_id": {"$in": ids}}, self._claimed("mine"))
        return [{**record, "attempts": 1} for record in chosen]


def two_relays(lab: Lab, kind: type[Relay]) -> list[int]:
    """How often each event was published by two relays at work at once."""
    for start in (0, 1000):
        lab.store(*(renamed(number) for number in range(start, start + 1000)))
    relays = [lab.relay(kind) for _ in range(2)]
    ready = threading.Barrier(2)

    def publish(relay: Relay) -> int:
        ready.wait(20)
        total = 0
        while lab.shop.db["outbox"].find_one({"due_at": None}) is not None:
            total += relay.round()
        return total

    with threads() as go:
        shares = [go(publish, relay) for relay in relays]
        assert sum(share.result(60) for share in shares) >= 2000
    seen = lab.published()
    assert sorted(seen) == lab.stored()
    return list(seen.values())


def test_two_relays_share_the_work(lab: Lab) -> None:
    assert set(two_relays(lab, Relay)) == {1}


def test_two_relays_that_do_not_look_again_publish_twice(lab: Lab) -> None:
    assert 2 in two_relays(lab, ClaimsWhatItSaw)


def test_the_lag(lab: Lab) -> None:
    assert outbox.outbox_lag(lab.shop.db) == Lag(0, 0, None)
    lab.store(renamed(1), UserLoggedOut(token_id="t"))
    lab.shop.db["outbox"].update_one(
        {"_id": lab.stored()[0]}, [{"$set": {"created_at": {"$subtract": ["$created_at", 90_000]}}}]
    )
    lag = outbox.outbox_lag(lab.shop.db)
    assert (lag.events, lag.under_way) == (2, 0)
    assert lag.oldest_seconds == pytest.approx(95, abs=5)
    lab.relay().round()
    assert outbox.outbox_lag(lab.shop.db).under_way == 2
