"""Indexes that MongoDB refuses: what does not need them goes on, and the log says which, why, and the cure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pymongo
import pytest

from cachekeeper.applying.mongo_indexes import ExpiringIndex, IndexRefused, ensure_index
from cachekeeper.applying.ttl_indexes import IndexKeeper
from cachekeeper.consuming.messages import EventMessage
from cachekeeper.consuming.processor import Processor, Verdict
from cachekeeper.devservers import FoundServer, Guardian, MongoServer, RedisServer
from cachekeeper.errors import DatabaseUnavailable
from cachekeeper.model.registry import TtlIndex, load_registry
from cachekeeper.relays.outbox_index import PlainIndex
from cachekeeper.relays.outbox_relay import Relay
from cachekeeper.settings import RelaySettings, Settings
from producers import UserUpdated
from testkit.failpoints import be_well, fail_indexing
from testkit.limits import PATIENT
from testkit.verdicts import verdicts
from testkit.waiting import wait_until

MODULES = ("producers", "lookups", "worker")
READER = ("reader", "only-reads-1234")
WRITER = ("writer", "writes-all-1234")
NOWHERE = "redis://127.0.0.1:1/0"
ADMIN = ("admin", "administers-1234")


class Guarded(MongoServer):
    """A MongoDB with users, once `guard` has been called."""

    def __init__(self, guardian: Guardian, found: FoundServer, key_file: Path) -> None:
        super().__init__(guardian, found)
        self.key_file: Path | None = None
        self._made = key_file

    def guard(self) -> None:
        """Make the users, and start again with authentication."""
        with self.client() as client:
            shop = client["shop"]
            client.admin.command("createUser", ADMIN[0], pwd=ADMIN[1], roles=["root"])
            shop.command("createUser", READER[0], pwd=READER[1], roles=["read"])
            shop.command(
                "createRole", "writes", roles=[],
                privileges=[{
                    "resource": {"db": "shop", "collection": ""},
                    "actions": ["find", "insert", "update", "remove"],
                }],
            )  # fmt: skip
            shop.command("createUser", WRITER[0], pwd=WRITER[1], roles=["writes"])
        self._made.write_text("a key that members of a replica set share")
        self._made.chmod(0o400)
        self.key_file = self._made
        self.restart()

    def url_as(self, name: str, password: str) -> str:
        """The URL for a user of the database `shop`; for none where it has no name."""
        return self.url if not name else self.url.replace("mongodb://", f"mongodb://{name}:{password}@")

    def direct_client(self, **options: Any) -> pymongo.MongoClient[dict[str, Any]]:
        login = {"username": ADMIN[0], "password": ADMIN[1]} if self.key_file else {}
        return super().direct_client(**options, **login)

    def _command(self) -> Sequence[str]:
        return [*super()._command(), *(("--keyFile", str(self.key_file)) if self.key_file else ())]


@pytest.fixture(scope="module")
def guarded(
    guardian: Guardian, mongo_found: FoundServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Guarded]:
    server = Guarded(guardian, mongo_found, tmp_path_factory.mktemp("key") / "key")
    server.start()
    server.guard()
    yield server
    server.kill()


@pytest.fixture
def db(mongo_server: MongoServer, database: str) -> Iterator[Any]:
    with mongo_server.client() as client:
        yield client[database]


def work(delivery: Processor) -> Verdict:
    (verdict,) = verdicts(delivery, [EventMessage("m1", [UserUpdated(user_id="1", name="Ada", version=1).to_wire()])])
    return verdict


def ensure(db: Any, seconds: int | None = 60) -> None:
    ensure_index(db["sessions"], "expires_at", timeout=5, expire_seconds=seconds)


def times(db: Any) -> dict[str, Any]:
    return {name: index.get("expireAfterSeconds") for name, index in db["sessions"].index_information().items()}


OTHERS: dict[str, tuple[Any, dict[str, Any], dict[str, Any]]] = {
    "without a time": ("expires_at", {}, {"expires_at_1": 60}),
    "with another time": ("expires_at", {"expireAfterSeconds": 5}, {"expires_at_1": 60}),
    "by another name": ("expires_at", {"name": "theirs"}, {"theirs": 60}),
    "unique": ("expires_at", {"unique": True}, {"expires_at_1": 60}),
    "sparse": ("expires_at", {"sparse": True}, {"expires_at_1": 60}),
    "partial": (
        "expires_at",
        {"partialFilterExpression": {"user": 1}},
        {"expires_at_1": None, "cachekeeper_expires_at": 60},
    ),
    "of other fields, by our name": (
        [("expires_at", 1), ("user", 1)],
        {"name": "expires_at_1"},
        {"expires_at_1": None, "cachekeeper_expires_at": 60},
    ),
    "the other way round": ([("expires_at", -1)], {}, {"expires_at_-1": None, "expires_at_1": 60}),
    "none": (None, {}, {"expires_at_1": 60}),
}


@pytest.mark.parametrize("other", OTHERS)
def test_an_index_of_others_is_used_or_stood_beside(db: Any, other: str) -> None:
    keys, options, expected = OTHERS[other]
    if keys is not None:
        db["sessions"].create_index(keys, **options)
    for _ in range(2):
        ensure(db)
        assert times(db) == {"_id_": None, **expected}
    ensure(db, 90)
    assert times(db) == {"_id_": None, **{name: seconds and 90 for name, seconds in expected.items()}}


EXPIRING: dict[str, tuple[Any, dict[str, Any]]] = {
    "on the field": ("due_at", {}),
    "on the field, by another name": ("due_at", {"name": "theirs"}),
    "sparse": ("due_at", {"sparse": True}),
    "hidden": ("due_at", {"hidden": True}),
    "partial": ("due_at", {"partialFilterExpression": {"attempts": 1}}),
    "the other way round": ([("due_at", -1)], {}),
    "on another field": ("created_at", {}),
}


@pytest.mark.parametrize("other", EXPIRING)
def test_a_time_to_live_of_the_outbox_is_named_and_left(db: Any, other: str) -> None:
    keys, options = EXPIRING[other]
    name = db["outbox"].create_index(keys, expireAfterSeconds=3600, **options)
    for _ in range(2):
        with pytest.raises(ExpiringIndex) as told:
            ensure_index(db["outbox"], "due_at", timeout=5)
        assert str(told.value) == (
            f"the index {name} of the collection outbox has expireAfterSeconds, so MongoDB deletes events that are not "
            "published yet: drop that index"
        )
    assert db["outbox"].index_information()[name]["expireAfterSeconds"] == 3600
    db["outbox"].drop_index(name)
    ensure_index(db["outbox"], "due_at", timeout=5)
    assert "due_at_1" in db["outbox"].index_information()


def test_an_index_that_does_not_serve_the_outbox_is_stood_beside(db: Any) -> None:
    outbox = db["outbox"]
    outbox.create_index("due_at", sparse=True)
    for _ in range(2):
        ensure_index(outbox, "due_at", timeout=5)
        assert {*outbox.index_information()} == {"_id_", "due_at_1", "cachekeeper_due_at"}
    outbox.insert_many([{"_id": str(each), "due_at": None} for each in range(3)])
    plan = outbox.find({"due_at": None}).sort("due_at", 1).explain()["queryPlanner"]["winningPlan"]
    assert "cachekeeper_due_at" in str(plan)


def test_a_hidden_index_of_the_outbox_is_named(db: Any) -> None:
    outbox = db["outbox"]
    outbox.create_index("due_at", hidden=True)
    with pytest.raises(IndexRefused, match=r"the index due_at_1 of the collection outbox is hidden.*unhide it or drop"):
        ensure_index(outbox, "due_at", timeout=5)
    db.command("collMod", "outbox", index={"name": "due_at_1", "hidden": False})
    ensure_index(outbox, "due_at", timeout=5)


def test_a_view_is_refused_by_name(db: Any) -> None:
    db.create_collection("sessions", viewOn="others", pipeline=[])
    with pytest.raises(IndexRefused) as told:
        ensure(db)
    assert str(told.value) == (
        "MongoDB refused while indexing sessions.expires_at (CommandNotSupportedOnView, code 166): "
        "sessions is a view: replace it with an ordinary collection of that name, which cachekeeper needs"
    )


def test_a_worker_without_the_role_to_index_applies_events(
    guarded: Guarded, redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    settings = Settings(redis_url=redis_server.url, mongodb_url=guarded.url_as(*WRITER), **PATIENT)
    delivery = Processor(settings, load_registry(MODULES))
    delivery.start()
    try:
        wait_until(lambda: delivery.pause.is_over, "events are fetched")
        assert work(delivery) is Verdict.DONE
        said = "MongoDB refused while indexing sessions.expires_at (Unauthorized, code 13): the user of"
        wait_until(lambda: said in caplog.text, "the log names the index")
    finally:
        delivery.stop()
        delivery.keeper.close()
    assert WRITER[1] not in caplog.text


def test_a_refused_index_is_made_once_the_role_is_there(
    guarded: Guarded, redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    settings = Settings(redis_url=redis_server.url, mongodb_url=guarded.url_as(*WRITER), **PATIENT)
    delivery = Processor(settings, load_registry(MODULES))
    keeper = IndexKeeper(delivery.keeper, [TtlIndex("later", "at", lambda _: 60)])
    try:
        for _ in range(3):
            keeper.run_once()
        assert caplog.text.count("refused while indexing later.at") == 1, "said once"
        with guarded.direct_client() as client:
            client["shop"].command("grantRolesToUser", WRITER[0], roles=["readWrite"])
        keeper.run_once()
        assert "the index on later.at has been created" in caplog.text
        with guarded.direct_client() as client:
            assert client["shop"]["later"].index_information()["at_1"]["expireAfterSeconds"] == 60
            client["shop"].command("revokeRolesFromUser", WRITER[0], roles=["readWrite"])
    finally:
        delivery.keeper.close()


@pytest.mark.parametrize(
    ("login", "said"),
    [
        (
            ("writer", "not-its-password"),
            "(AuthenticationFailed, code 18): the user, the password or the authSource of this connection is wrong",
        ),
        (
            READER,
            (
                "(Unauthorized, code 13, collection dead_letters): the user of this connection lacks a "
                "role: grant it readWrite"
            ),
        ),
        (("", ""), "(Unauthorized, code 13): this connection does not log in: give a user and a password in"),
    ],
    ids=["a wrong password", "a role that only reads", "no user"],
)
def test_what_nothing_works_without_stops_fetching_and_names_the_cure(
    guarded: Guarded,
    redis_server: RedisServer,
    caplog: pytest.LogCaptureFixture,
    login: tuple[str, str],
    said: str,
) -> None:
    settings = Settings(redis_url=redis_server.url, mongodb_url=guarded.url_as(*login), **PATIENT)
    delivery = Processor(settings, load_registry(MODULES))
    try:
        with pytest.raises(DatabaseUnavailable) as told:
            delivery._probe()
        assert said in str(told.value)
        delivery.pause.start()
        assert not delivery.pause.is_over
        # After a refused login the driver may find no server at first.
        wait_until(lambda: f"events wait in the broker: {told.value}" in caplog.text, "the log names the cause")
        assert not login[1] or login[1] not in caplog.text
    finally:
        delivery.pause.stop()
        delivery.keeper.close()


def test_a_relay_goes_on_without_the_index_and_makes_it_once_it_may(
    guarded: Guarded, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    relay = Relay(RelaySettings(mongodb_url=guarded.url_as(*WRITER), broker_url=NOWHERE))
    assert PlainIndex.look_seconds == 60
    monkeypatch.setattr(PlainIndex, "look_seconds", 0)
    try:
        for _ in range(3):
            assert relay.run_once() == 0
        assert caplog.text.count("MongoDB refused while indexing outbox.due_at (Unauthorized, code 13)") == 1
        with guarded.direct_client() as client:
            client["shop"].command("grantRolesToUser", WRITER[0], roles=["readWrite"])
            relay.run_once()
            assert "the index on outbox.due_at is correct now" in caplog.text
            assert "due_at_1" in client["shop"]["outbox"].index_information()
            client["shop"].command("revokeRolesFromUser", WRITER[0], roles=["readWrite"])
            client["shop"].drop_collection("outbox")
    finally:
        relay.close()


def test_a_relay_says_again_and_again_that_an_index_deletes_events(
    db: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    relay = Relay(RelaySettings(mongodb_url="mongodb://127.0.0.1:1/x", broker_url=NOWHERE), db)
    try:
        relay.run_once()
        db["outbox"].drop_index("due_at_1")
        db["outbox"].create_index("due_at", expireAfterSeconds=3600)  # while it runs
        monkeypatch.setattr(PlainIndex, "look_seconds", 0)
        relay._index._look_at = 0
        for _ in range(3):
            assert relay.run_once() == 0
        said = "the index due_at_1 of the collection outbox has expireAfterSeconds"
        assert caplog.text.count(said) == 3
        db["outbox"].drop_index("due_at_1")
        relay.run_once()
        relay.run_once()
        assert caplog.text.count(said) == 3
        assert caplog.text.count("the index on outbox.due_at is correct now") == 1
        assert "expireAfterSeconds" not in db["outbox"].index_information()["due_at_1"]
    finally:
        relay.close()


PASSING: dict[str, dict[str, Any]] = {
    "a write concern": {"writeConcernError": {"code": 64, "errmsg": "failing"}},
    "a time limit": {"errorCode": 50},
    "an aborted build": {"errorCode": 276},
    "a write conflict": {"errorCode": 112},
    "a primary that steps down": {"errorCode": 11602},
    "a label": {"errorCode": 4242, "errorLabels": ["RetryableWriteError"]},
}


@pytest.mark.parametrize("how", PASSING)
def test_what_passes_is_an_outage_of_one_round_and_no_refusal(
    failing: MongoServer, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    with failing.client() as client:
        client["shop"].drop_collection("outbox")
        relay = Relay(RelaySettings(mongodb_url=failing.url, broker_url=NOWHERE), client["shop"])
        try:
            fail_indexing(failing, PASSING[how])
            with pytest.raises(DatabaseUnavailable, match=r"^MongoDB failed while indexing outbox\.due_at"):
                relay.run_once()
            assert relay.run_once() == 0, "events do not wait for the index"
            be_well(failing)
            relay._index._look_at = 0
            relay.run_once()
            assert "due_at_1" in client["shop"]["outbox"].index_information()
        finally:
            relay.close()
    assert "refused" not in caplog.text


def test_the_roles_that_the_docs_name_are_enough(guarded: Guarded) -> None:
    with guarded.direct_client() as client:
        client["shop"].command("createUser", "documented", pwd="documented-1234", roles=["readWrite", "dbAdmin"])
        client["shop"]["sessions"].create_index("expires_at", expireAfterSeconds=5)
    with pymongo.MongoClient[Any](guarded.url_as("documented", "documented-1234")) as client:
        ensure(client["shop"])
        assert times(client["shop"])["expires_at_1"] == 60
