"""The outbox on real servers: stored with the change, and what becomes of each kind of record."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pymongo
import pytest
from bson import Decimal128
from pymongo.errors import PyMongoError

from cachekeeper.devservers import MongoServer
from cachekeeper.errors import InvalidEvent, NoTransaction
from cachekeeper.publishing.publisher import Publisher
from cachekeeper.relays.outbox import Lag
from producers import ProductChanged, UserDeleted, UserLoggedOut, outbox
from tests.integration.relays.outbox_lab import old_names_are_cached, renamed, stale

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cachekeeper.devservers import FoundServer, Guardian
    from tests.integration.relays.outbox_lab import OutboxLab


# --- storing ---------------------------------------------------------------------------------------------------------


def test_an_event_is_stored_with_its_change_or_not_at_all(outbox_lab: OutboxLab) -> None:
    db, event = outbox_lab.shop.db, renamed(1)
    with db.client.start_session() as session:
        with session.start_transaction():
            db["users"].insert_one({"_id": "u1"}, session=session)
            outbox.add(db, session, event)
            assert outbox_lab.stored() == []  # nobody else sees it before the commit
        assert outbox_lab.stored() == [event.id]
        session.start_transaction()
        db["users"].insert_one({"_id": "u2"}, session=session)
        outbox.add(db, session, renamed(2))
        session.abort_transaction()
    assert outbox_lab.stored() == [event.id]
    assert db["users"].count_documents({}) == 1


def test_what_is_stored_is_the_wire_form(outbox_lab: OutboxLab) -> None:
    event = ProductChanged(product_id="7", name='Lämp \\ "x" 💡', previous_name=None)
    outbox_lab.store(event)
    record: Any = outbox_lab.shop.db["outbox"].find_one()
    assert json.loads(record["body"]) == event.to_wire()
    assert (record["_id"], record["due_at"], record["attempts"]) == (event.id, None, 0)


def test_outside_of_a_transaction_it_is_refused(outbox_lab: OutboxLab) -> None:
    with outbox_lab.shop.db.client.start_session() as session:
        for none in (session, None):
            with pytest.raises(NoTransaction, match="no transaction is open"):
                outbox.add(outbox_lab.shop.db, none, renamed(1))
    assert outbox_lab.stored() == []


def test_only_events_are_stored(outbox_lab: OutboxLab) -> None:
    with (
        outbox_lab.shop.db.client.start_session() as session,
        pytest.raises(InvalidEvent, match="event: must be an Event, got dict"),
        session.start_transaction(),
    ):
        outbox.add(outbox_lab.shop.db, session, {"type": "user.updated"})  # type: ignore[arg-type]  # on purpose


def test_an_id_that_is_in_use_is_refused_and_the_change_with_it(outbox_lab: OutboxLab) -> None:
    outbox_lab.store(first := UserDeleted(user_id="u1"))
    with pytest.raises(InvalidEvent, match="id: is in the outbox already"):
        outbox_lab.store(renamed(1), UserDeleted(user_id="u2", id=first.id))
    assert outbox_lab.stored() == [first.id]
    assert outbox_lab.shop.db["users"].count_documents({}) == 0


def test_a_transaction_that_mongodb_wants_repeated_is_repeated(outbox_lab: OutboxLab) -> None:
    """What `with_transaction` goes by is the error's label; it must come through as it is."""
    db = outbox_lab.shop.db
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
    assert len(outbox_lab.stored()) == 1


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


def test_an_event_leaves_when_it_is_applied_and_not_before(outbox_lab: OutboxLab) -> None:
    events = old_names_are_cached(outbox_lab, 3)
    outbox_lab.store(*events)
    relay = outbox_lab.relay()
    assert relay.run_once() == 3
    assert outbox_lab.stored() == sorted(event.id for event in events)
    assert relay.run_once() == 0  # under way
    assert outbox_lab.work_all() == 3
    assert outbox_lab.stored() == []
    assert stale(outbox_lab, events) == []


def test_one_that_is_ignored_as_old_leaves_too(outbox_lab: OutboxLab) -> None:
    events = old_names_are_cached(outbox_lab, 1)
    outbox_lab.store(*events)
    relay = outbox_lab.relay()
    relay.run_once()
    outbox_lab.work_all()
    outbox_lab.store(renamed(0, 1))  # told late
    outbox_lab.shop.db["users"].update_one({"_id": "u0"}, {"$set": {"name": events[0].name, "version": 2}})
    assert relay.run_once() == 1
    assert outbox_lab.work_all() == 1
    assert outbox_lab.stored() == []
    assert stale(outbox_lab, events) == []


def test_a_published_event_that_is_not_stored_removes_nothing(outbox_lab: OutboxLab) -> None:
    """Only a message that says that it is from the outbox; else anybody could empty it."""
    outbox_lab.store(event := renamed(1))
    publisher = Publisher(outbox_lab.delivery.keeper.settings)
    publisher.publish(event)
    publisher.close()
    assert outbox_lab.work_all() == 1
    assert outbox_lab.stored() == [event.id]


TOO_DEEP = re.compile("^event: is nested too deeply")


def test_poison_becomes_a_dead_letter_and_leaves_and_its_neighbours_are_applied(outbox_lab: OutboxLab) -> None:
    events = old_names_are_cached(outbox_lab, 2)
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
        # Shorter as they lie here than as JSON.
        {"_id": "too wide", "body": '{"id": "another", "name": "' + "\u2603" * (2 * 1024 * 1024) + '"}'},
        {
            "_id": "too wide as it is",
            "body": '{"id": "too wide as it is", "name": "' + "\u2603" * (3 * 1024 * 1024) + '"}',
        },
        {"_id": "no text, too wide", "body": b"\\" * (3 * 1024 * 1024)},
    ]
    outbox_lab.store(events[0])
    outbox_lab.shop.db["outbox"].insert_many(records)
    outbox_lab.store(events[1])
    assert outbox_lab.relay().run_once() == len(records) + 2
    assert outbox_lab.broker.llen("cachekeeper") == 1  # all in one message
    outbox_lab.work_all()
    assert outbox_lab.stored() == []
    assert stale(outbox_lab, events) == []
    letters = outbox_lab.shop.db["dead_letters"]
    assert letters.count_documents({}) == len(records)
    bodies = {letter["reason"]: json.loads(letter["body"]) for letter in letters.find()}
    assert {json.loads(letter["body"])["id"] for letter in letters.find({"reason": {"$not": TOO_DEEP}})} == {
        record["_id"] for record in records if record["_id"] != "deep"
    }
    (text,) = (body for reason, body in bodies.items() if TOO_DEEP.search(reason))
    assert json.loads(text) == json.loads(deep)


def test_records_of_a_service_that_knows_only_the_format(outbox_lab: OutboxLab) -> None:
    (event,) = old_names_are_cached(outbox_lab, 1)
    outbox_lab.store(event)
    outbox_lab.shop.db["outbox"].delete_many({})
    outbox_lab.shop.db["outbox"].insert_one({"_id": event.id, "body": json.dumps(event.to_wire())})
    assert outbox_lab.relay().run_once() == 1
    outbox_lab.work_all()
    assert (outbox_lab.stored(), stale(outbox_lab, [event])) == ([], [])


def test_the_lag(outbox_lab: OutboxLab) -> None:
    assert outbox.outbox_lag(outbox_lab.shop.db) == Lag(0, 0, None, None)
    outbox_lab.store(renamed(1), UserLoggedOut(token_id="t"))
    outbox_lab.shop.db["outbox"].update_one(
        {"_id": outbox_lab.stored()[0]}, [{"$set": {"created_at": {"$subtract": ["$created_at", 90_000]}}}]
    )
    lag = outbox.outbox_lag(outbox_lab.shop.db)
    assert (lag.events, lag.under_way) == (2, 0)
    assert lag.oldest_seconds == pytest.approx(95, abs=5)
    outbox_lab.relay().run_once()
    lag = outbox.outbox_lag(outbox_lab.shop.db)
    assert (lag.under_way, lag.unpublished_seconds) == (2, None)
    assert lag.oldest_seconds == pytest.approx(95, abs=5)
    hour = datetime.now(UTC) - timedelta(hours=1)
    outbox_lab.shop.db["outbox"].insert_many([{"_id": 7, "created_at": hour}, {"_id": "by others", "created_at": hour}])
    lag = outbox.outbox_lag(outbox_lab.shop.db)
    assert lag.unpublished_seconds == pytest.approx(3605, abs=5)
    outbox_lab.shop.db["outbox"].delete_one({"_id": "by others"})
    assert outbox.outbox_lag(outbox_lab.shop.db).unpublished_seconds is None  # that of id 7 waits for nobody
