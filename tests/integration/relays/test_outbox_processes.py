"""The outbox in real processes: SIGKILL at each gap, both brokers, outages, and the command."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from cachekeeper.devservers.ports import free_port
from cachekeeper.devservers.worker_process import WorkerProcess
from lookups import read_user
from producers import UserLoggedOut, UserUpdated, outbox
from testkit.compose import health_seconds
from testkit.delivering import RELAY_SAYS, Program, Site, forget_queues
from testkit.faults import VARIABLE
from testkit.leftovers import ROOT
from testkit.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pymongo.client_session import ClientSession

    from cachekeeper.devservers import Guardian, MongoServer, RedisServer, ServerProcess
    from testkit.servers import RabbitServer

RELAY_GAPS = ["relay-claimed", "relay-published"]
# Each start of a worker takes seconds, so each of these gaps is left to one of the brokers.
WORKER_GAPS = {"redis": ["worker-persisted", "worker-applied"], "rabbitmq": ["worker-received", "worker-left"]}
USERS = 30
SOON = 60.0


class Stand:
    """One broker, its worker and its relay."""

    def __init__(self, site: Site, faults: Path) -> None:
        self.site = site
        self.faults = faults
        environment = {
            "CACHEKEEPER_MONGODB_URL": site.mongo.url_of(site.database),
            "CACHEKEEPER_BROKER_URL": site.broker.url,
            "CACHEKEEPER_OUTBOX_RETRY_SECONDS": "0.5",
            VARIABLE: str(faults),
        }
        redis = {"CACHEKEEPER_REDIS_URL": site.cache.url}
        self.relay = Program(site.guardian, "testkit.faults", "relay", environment, says=RELAY_SAYS)
        self.worker = WorkerProcess(
            site.guardian, {**environment, **redis}, app="testkit.faults_worker", arguments=["--without-mingle"]
        )
        self.version = 0

    def change_all(self) -> None:
        """Every user's name, with its event; and with each a token that is void, in a transaction of its own."""
        self.version += 1
        with self.site.db.client.start_session() as session:
            for number in range(USERS):
                session.with_transaction(partial(self._change, number))

    def _change(self, number: int, session: ClientSession) -> None:
        db, name = self.site.db, f"name {self.version} of {number}"
        change = {"$set": {"name": name, "version": self.version}}
        db["users"].update_one({"_id": number}, change, upsert=True, session=session)
        told = UserUpdated(user_id=str(number), name=name, version=self.version)
        outbox.add(db, session, told, UserLoggedOut(token_id=f"t-{number}-{self.version}"))

    def cache_all(self) -> None:
        """The names that the next change makes old."""
        for number in range(USERS):
            read_user(number, keeper=self.site.keeper)

    def lost(self) -> list[str]:
        """Keys that are not as the database and the events say."""
        names = [
            number for number in range(USERS) if self._name(number) not in {None, f"name {self.version} of {number}"}
        ]
        tokens = [
            f"{number}-{version}"
            for number in range(USERS)
            for version in range(1, self.version + 1)
            if not self.site.client.exists(f"blocked:t-{number}-{version}")
        ]
        return [f"name {number}" for number in names] + [f"token {token}" for token in tokens]

    def _name(self, number: int) -> str | None:
        raw: Any = self.site.client.get(f"user:{number}:name")
        return None if raw is None else raw.decode()

    def drained(self) -> bool:
        return self.site.db["outbox"].find_one() is None

    def wait_until_drained(self) -> None:
        wait_until(self.drained, "an empty outbox", SOON)


@contextmanager
def standing(site: Site, faults: Path) -> Iterator[Stand]:
    """A stand; what it started ends."""
    stand = Stand(site, faults)
    try:
        yield stand
    finally:
        stand.relay.kill()
        stand.worker.kill()
        site.close()


@pytest.fixture
def quiet(
    guardian: Guardian,
    redis_server: RedisServer,
    own_redis: RedisServer,
    mongo_server: MongoServer,
    database: str,
    tmp_path: Path,
) -> Iterator[Stand]:
    """A Redis of its own as the broker; nothing runs yet, and the broker hangs or refuses for short."""
    with standing(Site(guardian, own_redis, redis_server, mongo_server, database), tmp_path) as stand:
        short = {"CACHEKEEPER_PUBLISH_TIMEOUT_SECONDS": "1", "CACHEKEEPER_LOAD_TIMEOUT_SECONDS": "3"}
        stand.relay.environment.update({**short, "CACHEKEEPER_OUTBOX_RETRY_SECONDS": "60"})
        yield stand


@pytest.fixture(params=["redis", "rabbitmq"])
def stand(request: pytest.FixtureRequest, guardian: Guardian, tmp_path: Path) -> Iterator[Stand]:
    mongo: MongoServer = request.getfixturevalue("mongo_server")
    cache: RedisServer = request.getfixturevalue("redis_server")
    broker: RedisServer | RabbitServer
    if request.param == "redis":
        broker = request.getfixturevalue("own_redis")
    else:
        broker = request.getfixturevalue("rabbit_server")
        forget_queues(broker)
    with standing(Site(guardian, broker, cache, mongo, request.getfixturevalue("database")), tmp_path) as stand:
        yield stand


def is_dead(process: ServerProcess) -> bool:
    return not process.alive


def test_nothing_is_lost_whoever_is_killed_and_where(stand: Stand) -> None:
    stand.worker.start()
    stand.relay.start()
    for gap in [*RELAY_GAPS, *WORKER_GAPS["rabbitmq" if stand.site.is_rabbit else "redis"]]:
        victim = stand.relay if gap in RELAY_GAPS else stand.worker
        (stand.faults / gap).touch()
        stand.cache_all()
        stand.change_all()
        wait_until(partial(is_dead, victim), f"the end at {gap}", SOON)
        assert victim.exit_text == "was killed by SIGKILL"
        assert not (stand.faults / gap).exists()
        if gap not in {"worker-left", "relay-published"}:  # there, all that was published may be done
            assert not stand.drained()
        victim.start()
    stand.wait_until_drained()
    assert stand.lost() == []


SERVICE = """
import os, signal, sys
import pymongo
from producers import UserUpdated, outbox
with pymongo.MongoClient(sys.argv[1]) as client:
    db = client.get_default_database()
    with client.start_session() as session:
        with session.start_transaction():
            db.users.update_one({"_id": 1}, {"$set": {"name": "Grace", "version": 2}}, session=session)
            outbox.add(db, session, UserUpdated(user_id="1", name="Grace", version=2))
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_service_killed_after_its_commit_has_said_enough(quiet: Stand) -> None:
    site = quiet.site
    site.db["users"].insert_one({"_id": 1, "name": "Ada", "version": 1})
    assert read_user(1, keeper=site.keeper) == "Ada"
    ended = subprocess.run(
        [sys.executable, "-c", SERVICE, site.mongo.url_of(site.database)], cwd=ROOT, check=False, timeout=SOON
    )
    assert ended.returncode == -signal.SIGKILL
    quiet.relay.start()
    quiet.worker.start()
    quiet.wait_until_drained()
    assert read_user(1, keeper=site.keeper) == "Grace"


def published(stand: Stand) -> int:
    """How many events wait in the outbox, published."""
    return outbox.outbox_lag(stand.site.db).under_way


@pytest.mark.parametrize("hangs", [False, True], ids=["refused", "hung"])
def test_while_the_broker_is_away_the_relay_waits_and_says_so_once(quiet: Stand, *, hangs: bool) -> None:
    broker = quiet.site.broker
    quiet.relay.start()
    (broker.pause if hangs else broker.kill)()
    quiet.change_all()
    wait_until(lambda: "outbox relay paused" in quiet.relay.log_tail(), "word of the outage", SOON)
    # What was not published is not under way, so it need not wait for its second time.
    wait_until(lambda: not published(quiet), "records put back", SOON)
    (broker.resume if hangs else broker.start)()
    wait_until(lambda: published(quiet) == 2 * USERS, "all published", SOON)
    wait_until(lambda: "outbox relay has resumed, after" in quiet.relay.log_tail(), "word of its end", SOON)
    assert quiet.relay.log_tail().count("outbox relay paused") == 1


def test_while_mongodb_is_away_the_relay_waits_and_says_so_once(own_mongo: MongoServer, quiet: Stand) -> None:
    quiet.site.mongo_client.close()
    site = quiet.site
    site.mongo, site.mongo_client = own_mongo, own_mongo.client()
    quiet.relay.environment["CACHEKEEPER_MONGODB_URL"] = own_mongo.url_of(site.database)
    quiet.relay.start()
    quiet.change_all()
    wait_until(lambda: published(quiet) == 2 * USERS, "all published", SOON)
    own_mongo.pause()
    wait_until(lambda: "outbox relay paused" in quiet.relay.log_tail(), "word of the outage", SOON)
    own_mongo.resume()
    wait_until(lambda: "outbox relay has resumed, after" in quiet.relay.log_tail(), "word of its end", SOON)
    own_mongo.restart()
    quiet.change_all()
    wait_until(lambda: published(quiet) == 4 * USERS, "all published", SOON)
    assert quiet.relay.alive


def test_sigterm_ends_it_cleanly(quiet: Stand) -> None:
    quiet.relay.start()
    quiet.relay.stop()
    assert quiet.relay.exit_text == "exited with status 0"
    assert quiet.relay.log_tail().splitlines() == ["publishing what is in the outbox", "ended"]


def command(stand: Stand, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`cachekeeper relay` with these words, run to its end."""
    return subprocess.run(
        [sys.executable, "-m", "testkit.faults", "relay", *words],
        cwd=ROOT,
        env={**stand.relay.environment, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=SOON,
    )


def test_the_lag_is_printed_without_a_broker(quiet: Stand) -> None:
    quiet.relay.environment.pop("CACHEKEEPER_BROKER_URL")
    assert command(quiet, "--lag").stdout == "events 0\nunder_way 0\noldest_seconds none\nunpublished_seconds none\n"
    quiet.change_all()
    found = dict(line.split() for line in command(quiet, "--lag").stdout.splitlines())
    assert (found["events"], found["under_way"]) == (str(2 * USERS), "0")
    assert 0 < float(found["oldest_seconds"]) < SOON
    assert found["unpublished_seconds"] == found["oldest_seconds"]


def test_the_check_finds_what_was_never_published(quiet: Stand) -> None:
    records = quiet.site.db["outbox"]
    hour, now = datetime.now(UTC) - timedelta(hours=1), datetime.now(UTC)
    records.insert_one({"_id": "published", "body": "{}", "created_at": hour, "due_at": now, "attempts": 1})
    assert command(quiet, "--check").returncode == 0  # it is the workers that are away
    records.insert_one({"_id": "waits", "body": "{}", "created_at": hour})
    ended = command(quiet, "--check")
    assert (ended.returncode, ended.stderr[:50]) == (1, "cachekeeper: one event in the outbox has waited 36")
    assert command(quiet, "--check", CACHEKEEPER_OUTBOX_LIMIT_EVENTS="2").returncode == 0  # no room for it
    records.update_one({"_id": "waits"}, {"$set": {"created_at": now}})
    assert command(quiet, "--check").returncode == 0  # it has only just come


@pytest.mark.parametrize("hangs", [False, True])
def test_the_check_says_in_time_that_mongodb_is_away(quiet: Stand, own_redis: RedisServer, *, hangs: bool) -> None:
    """Compose kills a check that takes longer, and with it what it would have said."""
    relay = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))["services"]["relay"]
    port = own_redis.port if hangs else free_port()
    if hangs:
        own_redis.pause()  # it takes a connection, and says nothing: whatever it is
    began = time.monotonic()
    ended = command(quiet, "--check", CACHEKEEPER_MONGODB_URL=f"mongodb://127.0.0.1:{port}/shop")
    assert time.monotonic() - began < health_seconds(relay)
    assert ended.returncode == 1
    assert ended.stderr.startswith("cachekeeper: MongoDB failed while counting the events in the outbox (")


def test_what_it_needs_is_said_by_name(quiet: Stand) -> None:
    ended = command(quiet, CACHEKEEPER_MONGODB_URL="mongodb://nowhere", CACHEKEEPER_OUTBOX_RETRY_SECONDS="0")
    assert ended.returncode == 1
    assert [line.split(":")[0].strip() for line in ended.stderr.splitlines()] == [
        "cachekeeper",
        "CACHEKEEPER_MONGODB_URL",
        "CACHEKEEPER_OUTBOX_RETRY_SECONDS",
    ]
