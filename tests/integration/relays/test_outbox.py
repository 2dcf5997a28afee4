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
    from tests.integration.relays.outbox_lab import Lab


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


TOO_DEEP = re.compile("^event: is nested too deeply")


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
        # Shorter as they lie here than as JSON.
        {"_id": "too wide", "body": '{"id": "another", "name": "' + "\u2603" * (2 * 1024 * 1024) + '"}'},
        {
            "_id": "too wide as it is",
            "body": '{"id": "too wide as it is", "name": "' + "\u2603" * (3 * 1024 * 1024) + '"}',
        },
        {"_id": "no text, too wide", "body": b"\\" * (3 * 1024 * 1024)},
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
    bodies = {letter["reason"]: json.loads(letter["body"]) for letter in letters.find()}
    assert {json.loads(letter["body"])["id"] for letter in letters.find({"reason": {"$not": TOO_DEEP}})} == {
        record["_id"] for record in records if record["_id"] != "deep"
    }
    (text,) = (body for reason, body in bodies.items() if TOO_DEEP.search(reason))
    assert json.loads(text) == json.loads(deep)


def test_records_of_a_service_that_knows_only_the_format(lab: Lab) -> None:
    (event,) = old_names_are_cached(lab, 1)
    lab.store(event)
    lab.shop.db["outbox"].delete_many({})
    lab.shop.db["outbox"].insert_one({"_id": event.id, "body": json.dumps(event.to_wire())})
    assert lab.relay().round() == 1
    lab.work_all()
    assert (lab.stored(), stale(lab, [event])) == ([], [])


def test_the_lag(lab: Lab) -> None:
    assert outbox.outbox_lag(lab.shop.db) == Lag(0, 0, None, None)
    lab.store(renamed(1), UserLoggedOut(token_id="t"))
    lab.shop.db["outbox"].update_one(
        {"_id": lab.stored()[0]}, [{"$set": {"created_at": {"$subtract": ["$created_at", 90_000]}}}]
    )
    lag = outbox.outbox_lag(lab.shop.db)
    assert (lag.events, lag.under_way) == (2, 0)
    assert lag.oldest_seconds == pytest.approx(95, abs=5)
    lab.relay().round()
    lag = outbox.outbox_lag(lab.shop.db)
    assert (lag.under_way, lag.unpublished_seconds) == (2, None)
    assert lag.oldest_seconds == pytest.approx(95, abs=5)
    hour = datetime.now(UTC) - timedelta(hours=1)
    lab.shop.db["outbox"].insert_many([{"_id": 7, "created_at": hour}, {"_id": "by others", "created_at": hour}])
    lag = outbox.outbox_lag(lab.shop.db)
    assert lag.unpublished_seconds == pytest.approx(3605, abs=5)
    lab.shop.db["outbox"].delete_one({"_id": "by others"})
    assert outbox.outbox_lag(lab.shop.db).unpublished_seconds is None  # that of id 7 waits for nobody
