"""The change stream while processes die, servers are away, and several copies run: no change is left out."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from pymongo import MongoClient
from pymongo.read_concern import ReadConcern

from cachekeeper.devservers import MongoServer
from cachekeeper.errors import DatabaseUnavailable, NoTransaction
from cachekeeper.model.registry import Registry, load_registry
from cachekeeper.relays import change_stream_relay as streaming
from cachekeeper.relays import outbox
from cachekeeper.relays.change_stream_relay import ChangeRelay
from cachekeeper.settings import StreamSettings
from lookups import read_user
from testkit.gates import threads
from testkit.limits import LONG
from testkit.waiting import wait_until
from tests.integration.relays.outbox_lab import REGISTRY, Killed
from tests.integration.relays.stream_lab import COLLECTIONS, StreamLab
from tests.integration.relays.test_outbox import Standalone

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pymongo.client_session import ClientSession

    from cachekeeper.devservers import FoundServer, Guardian
    from cachekeeper.model.events import Event


# --- killed anywhere -------------------------------------------------------------------------------------------------


class SavesThePlaceFirst(ChangeRelay):
    """A known-bad relay: the place is stored before the events, in a write of its own."""

    def _write(self, session: ClientSession, events: Sequence[Event], place: Mapping[str, Any] | None) -> None:
        changed = {"token": {"$literal": place}, "collections": COLLECTIONS}
        self._state.update_one({"_id": "events", "leader": self._me}, [{"$set": changed}])
        outbox.add(self._database, session, *events)


def killed_while_storing(lab: StreamLab, kind: type[ChangeRelay], monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    """Twenty changes; whoever stores the events of some is killed, again and again."""
    lab.db["users"].insert_many({"_id": number, "name": "old", "version": 1} for number in range(20))
    lab.begun(kind)
    for number in range(20):
        assert read_user(number, keeper=lab.keeper) == "old"
    real, deaths = outbox.add, iter(range(3))

    def dying_add(*arguments: Any) -> None:
        due = len(arguments) > 2 and next(deaths, None) is not None
        if due and where == "before the events":
            raise Killed
        real(*arguments)
        if due:
            raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(outbox, "add", dying_add)
        for start in range(0, 20, 5):
            lab.db["users"].update_many(
                {"_id": {"$gte": start, "$lt": start + 5}}, {"$set": {"name": "new"}, "$inc": {"version": 1}}
            )
            try:
                lab.drain(lab.stream(kind))
            except Killed:
                continue
    lab.drain(lab.stream(kind))
    lab.apply()


def stale(lab: StreamLab) -> list[int]:
    return [number for number in range(20) if read_user(number, keeper=lab.keeper) != "new"]


@pytest.mark.parametrize("where", ["before the events", "before the place"])
def test_killed_while_storing(stream_lab: StreamLab, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    killed_while_storing(stream_lab, ChangeRelay, monkeypatch, where)
    assert stale(stream_lab) == []


@pytest.mark.parametrize("where", ["before the events", "before the place"])
def test_a_place_stored_apart_loses_events(stream_lab: StreamLab, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    killed_while_storing(stream_lab, SavesThePlaceFirst, monkeypatch, where)
    assert len(stale(stream_lab)) >= 5


def test_what_is_stored_is_not_stored_again(stream_lab: StreamLab) -> None:
    stream_lab.begun()
    stream_lab.db["users"].insert_one({"_id": 1, "name": "Ann"})
    stream_lab.drain(stream_lab.stream())
    stream_lab.drain(stream_lab.stream())
    assert [event["name"] for event in stream_lab.told()] == ["Ann"]


class CannotStoreMuch(ChangeRelay):
    """A server that takes no more than so many events within the time limit."""

    def _store(self, events: Sequence[Event], place: Mapping[str, Any] | None) -> None:
        if len(events) > 10:
            raise DatabaseUnavailable("too much")
        super()._store(events, place)


def test_what_is_too_much_for_the_time_limit_is_stored_in_smaller_parts(stream_lab: StreamLab) -> None:
    stream = stream_lab.begun(CannotStoreMuch)
    stream_lab.db["users"].insert_many({"_id": number, "name": f"{number}"} for number in range(200))
    refused = 0
    while stream_lab.db["outbox"].count_documents({}) < 200:
        assert refused < 100, "no part is small enough"
        try:
            stream.run_once()
        except DatabaseUnavailable:
            refused += 1
    assert refused > 5
    assert stream_lab.db["outbox"].count_documents({}) == 200


def test_many_changes_are_stored_in_their_order_and_all(stream_lab: StreamLab) -> None:
    stream = stream_lab.begun()
    stream_lab.db["users"].insert_many({"_id": number, "name": f"{number}"} for number in range(1500))
    assert stream_lab.drain(stream) == 1500
    assert stream_lab.db["outbox"].count_documents({}) == 1500


# --- several copies --------------------------------------------------------------------------------------------------


def test_one_leads_and_another_takes_over_when_it_dies(stream_lab: StreamLab) -> None:
    first, second = stream_lab.begun(lease=60), stream_lab.stream(lease=60)
    assert second.run_once() == 0
    assert not second.leads
    stream_lab.db["users"].insert_one({"_id": 1, "name": "Ann"})
    stream_lab.drain(first)
    stream_lab.db["users"].insert_one({"_id": 2, "name": "Bea"})  # its last sign of life was before this
    stream_lab.db["change_streams"].update_one({}, [{"$set": {"until": "$$NOW"}}])
    stream_lab.take_over(second)
    stream_lab.drain(second)
    assert [event["name"] for event in stream_lab.told()] == ["Ann", "Bea"]


def test_who_stops_gives_the_lease_back(stream_lab: StreamLab) -> None:
    first, second = stream_lab.begun(lease=60), stream_lab.stream(lease=60)
    first.stop()
    first.run()
    second.run_once()
    assert second.leads


class StoresWhoeverLeads(ChangeRelay):
    """A known-bad relay: does not look whether it still leads."""

    def _write(self, session: ClientSession, events: Sequence[Event], place: Mapping[str, Any] | None) -> None:
        outbox.add(self._database, session, *events)
        self._state.update_one({"_id": "events"}, [{"$set": {"token": {"$literal": place}}}], session=session)


def a_leader_that_was_paused(lab: StreamLab, kind: type[ChangeRelay]) -> str:
    """Reads a change, is paused, and stores it when another one has led for long."""
    first = lab.begun(kind)
    lab.db["users"].insert_one({"_id": 1, "name": "Ann"})
    taken = first._read()
    second = lab.stream(lease=60)
    lab.take_over(second)
    lab.db["users"].insert_one({"_id": 2, "name": "Bea"})
    lab.drain(second)
    reached: Any = lab.db["change_streams"].find_one()
    try:
        first._store([event for change in taken.changes for event in first._events(change)], taken.place)
    except streaming._Deposed:
        return "stored nothing"
    found: Any = lab.db["change_streams"].find_one()
    return "the place went back" if found["token"] != reached["token"] else "?"


def test_a_leader_that_was_paused_stores_nothing(stream_lab: StreamLab) -> None:
    assert a_leader_that_was_paused(stream_lab, ChangeRelay) == "stored nothing"


def test_one_that_does_not_look_puts_the_place_back(stream_lab: StreamLab) -> None:
    assert a_leader_that_was_paused(stream_lab, StoresWhoeverLeads) == "the place went back"


# --- outages and processes -------------------------------------------------------------------------------------------


class NotesFailures(ChangeRelay):
    """Notes why its turns have failed."""

    def __init__(self, settings: StreamSettings, registry: Registry, *, lease_seconds: float) -> None:
        super().__init__(settings, registry, lease_seconds=lease_seconds)
        self.failures: list[type] = []

    def run_once(self) -> int:
        try:
            return super().run_once()
        except DatabaseUnavailable as error:
            self.failures.append(type(error.__cause__))
            raise

    def failed_alike(self, since: int) -> bool:
        """Whether it has failed twice for one cause, after so many failures."""
        failures = self.failures[since:]
        return len(set(failures)) < len(failures)


def said(caplog: pytest.LogCaptureFixture, what: str, since: int) -> bool:
    """Whether it has been logged after so many messages."""
    return any(what in message for message in caplog.messages[since:])


def causes_of_outages(caplog: pytest.LogCaptureFixture) -> list[list[str]]:
    """Of each outage that is over, why the change stream said that it waits."""
    causes: list[list[str]] = [[]]
    for message in caplog.messages:
        if message.startswith("change stream paused"):
            causes[-1].append(message[message.rindex("(") :])
        elif message.startswith("change stream has resumed"):
            causes.append([])
    assert causes.pop() == [], "it still waits"
    return causes


def stored(client: MongoClient[Any], events: int) -> bool:
    # By a majority: what a first start has stored for itself alone is gone with a server that is killed just then.
    outbox = client.shop.get_collection("outbox", read_concern=ReadConcern("majority"))
    return outbox.count_documents({}) == events


@pytest.mark.parametrize("how", ["frozen", "killed"])
def test_mongodb_away(own_mongo: MongoServer, how: str, caplog: pytest.LogCaptureFixture) -> None:
    """It says so once for each cause, waits, and goes on by itself; what changed meanwhile is stored."""
    # The limit is also how long it takes to notice; much less, and a slow moment of the server would be an outage too.
    patience = 5
    settings = StreamSettings(mongodb_url=own_mongo.url, load_timeout_seconds=patience)
    relay = NotesFailures(settings, REGISTRY, lease_seconds=2)
    with threads() as go, own_mongo.client() as client, caplog.at_level(logging.WARNING):
        running = go(relay.run)
        try:
            wait_until(partial(stored, client, 4), "a first start")
            for number in (1, 2):
                before, failed = len(caplog.messages), len(relay.failures)
                own_mongo.pause() if how == "frozen" else own_mongo.kill()
                wait_until(partial(said, caplog, "change stream paused", before), "an outage noticed")
                relay._limit = 0.2  # the server is away in any case
                wait_until(partial(relay.failed_alike, failed), "a failure of which nothing new is to be said")
                relay._limit = patience
                own_mongo.resume() if how == "frozen" else own_mongo.start()
                client.shop["users"].insert_one({"_id": number, "name": "Ann"})
                wait_until(partial(stored, client, 4 + number), "the change stored")
                wait_until(partial(said, caplog, "change stream has resumed", before), "the end of it said")
        finally:
            relay.stop()
            running.result(LONG)
            relay.close()
    causes = causes_of_outages(caplog)
    assert len(causes) == 2
    # An outage may have two: what was under way is cut off, and then no server is found.
    assert all(outage and len(set(outage)) == len(outage) for outage in causes), causes
    assert caplog.text.count("everything cached") == 4  # at the first start; never for an outage


def stream_command(url: str, *arguments: str, **more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", "from cachekeeper.cli import main; main()", "stream", *arguments],
        env={**os.environ, "CACHEKEEPER_MONGODB_URL": url, **more},
        stderr=subprocess.PIPE,
        text=True,
    )


def test_the_command_is_killed_and_started_again(stream_lab: StreamLab) -> None:
    """SIGKILL at any moment, while changes come in; the last one ends with SIGTERM."""
    url = stream_lab.shop.mongo.url_of(stream_lab.shop.name)
    stream_lab.db["users"].insert_many({"_id": number, "name": "old", "version": 1} for number in range(20))

    def write() -> None:
        for version in range(2, 40):
            stream_lab.db["users"].update_many({}, {"$set": {"name": f"{version}", "version": version}})

    running = stream_command(url)
    try:
        wait_until(lambda: stream_lab.db["outbox"].count_documents({}) >= 4, "a first start")
        stream_lab.apply()
        for number in range(20):
            read_user(number, keeper=stream_lab.keeper)
        with threads() as go:
            writing = go(write)
            wait_until(lambda: stream_lab.db["outbox"].count_documents({}) >= 20, "events stored")
            running.kill()
            running.communicate()
            # Whoever was killed cannot give its lease back.
            stream_lab.db["change_streams"].update_one({}, {"$set": {"leader": None}})
            running = stream_command(url)
            writing.result(60)
        wait_until(lambda: stream_lab.db["change_streams"].find_one({"leader": {"$ne": None}}), "the next one at work")
        stream_lab.db["users"].update_many({}, {"$set": {"name": "new", "version": 40}})
        last = '"name":"new"'
        wait_until(
            lambda: stream_lab.db["outbox"].count_documents({"body": {"$regex": last}}) == 20, "the last changes"
        )
        running.send_signal(signal.SIGTERM)
        _, said = running.communicate(timeout=LONG)
    finally:
        running.kill()
    assert running.returncode == 0
    assert said.splitlines()[0] == "watching users, products, sessions, blocked_tokens"
    assert said.splitlines()[-1] == "ended"
    assert "Traceback" not in said
    assert stream_lab.lost() == []  # it went on where the killed one was
    stream_lab.apply()
    assert stale(stream_lab) == []


def test_the_command_without_anything_to_watch(stream_lab: StreamLab) -> None:
    running = stream_command(stream_lab.shop.mongo.url_of(stream_lab.shop.name), CACHEKEEPER_MODULES="lookups")
    _, said = running.communicate(timeout=60)
    assert running.returncode == 1
    assert "CACHEKEEPER_MODULES: none of these modules registers changes in MongoDB to watch" in said
    assert load_registry(["lookups"]).watches == {}


def test_a_standalone_server_is_told_by_name_and_cure(guardian: Guardian, mongo_found: FoundServer) -> None:
    server = Standalone(guardian, mongo_found, name="standalone")
    server.start()
    try:
        with server.plain() as client:
            relay = ChangeRelay(StreamSettings(mongodb_url=server.url), REGISTRY, client["shop"])
            with pytest.raises(NoTransaction, match=r"standalone.*--replSet"):
                relay.run()
    finally:
        server.kill()
