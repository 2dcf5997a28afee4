"""From `publish` to the keys, end to end: a real worker process, with Redis and with RabbitMQ as the broker."""

from __future__ import annotations

import json
import signal
import time
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from cachekeeper.consuming.dead_letters import mask, shown
from lookups import block_token, is_blocked, read_session, read_user, save_session, search_products
from producers import ProductChanged, UserDeleted, UserLoggedOut, UserUpdated
from testkit.delivering import REGISTRY, Site
from testkit.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pymongo.collection import Collection

    from cachekeeper.devservers.worker_process import WorkerProcess

SOON = 30.0


def text(site: Site, key: str) -> str | None:
    """What a plain GET of any client gives."""
    raw: Any = site.client.get(key)
    return None if raw is None else raw.decode()


@contextmanager
def stopped(worker: WorkerProcess) -> Iterator[None]:
    """Without the worker. It has ended by itself, and in time: what has not is killed."""
    worker.stop()
    try:
        assert worker.exit_text == "exited with status 0"
        yield
    finally:
        worker.start()


def expires(collection: Collection[Any]) -> bool:
    """Whether MongoDB removes its documents."""
    return any("expireAfterSeconds" in index for index in collection.index_information().values())


def test_an_update_is_written_and_a_cold_one_read_through(site: Site, worker: WorkerProcess) -> None:
    users = site.db["users"]
    users.insert_one({"_id": 1, "name": "Ada", "version": 1})
    site.publish(UserUpdated(user_id="1", name="Ada", version=1))  # leaves a marker, so the worker reads through
    wait_until(lambda: text(site, "user:1:name") == "Ada", "the name, warm", SOON)
    users.update_one({"_id": 1}, {"$set": {"name": "Grace", "version": 2}})
    site.publish(UserUpdated(user_id="1", name="Grace", version=2))
    wait_until(lambda: text(site, "user:1:name") == "Grace", "the new name", SOON)
    assert read_user(1, keeper=site.keeper) == "Grace"
    assert worker.alive


def test_an_update_without_a_version_takes_the_name_from_the_database(site: Site, worker: WorkerProcess) -> None:
    site.db["users"].insert_one({"_id": 2, "name": "Ada", "version": 1})
    assert read_user(2, keeper=site.keeper) == "Ada"
    site.db["users"].update_one({"_id": 2}, {"$set": {"name": "Grace"}})
    site.publish(UserUpdated(user_id="2", name="nobody is called that"))
    wait_until(lambda: text(site, "user:2:name") == "Grace", "the database's name", SOON)
    assert worker.alive


def test_a_deletion(site: Site, worker: WorkerProcess) -> None:
    site.db["users"].insert_one({"_id": 3, "name": "Ada", "version": 1})
    assert read_user(3, keeper=site.keeper) == "Ada"
    site.db["users"].delete_one({"_id": 3})
    site.publish(UserDeleted(user_id="3"))
    wait_until(lambda: text(site, "user:3:name") is None, "no name", SOON)
    assert read_user(3, keeper=site.keeper) is None
    assert worker.alive


def test_a_logout_ends_the_session_and_blocks_the_token(site: Site, worker: WorkerProcess) -> None:
    save_session("s1", {"cart": [1]}, keeper=site.keeper)
    assert text(site, "session:s1") == '{"cart":[1]}'
    expires = int(time.time()) + 1000
    site.publish(UserLoggedOut(session_id="s1", token_id="t1", token_expires_at=expires, user_id="1"))  # type: ignore[arg-type]  # read as a time
    wait_until(lambda: text(site, "blocked:t1") == "true", "the block", SOON)
    wait_until(lambda: text(site, "session:s1") is None, "no session", SOON)
    ttl: Any = site.client.ttl("blocked:t1")
    assert 1000 < ttl <= 1061  # the leeway
    assert read_session("s1", keeper=site.keeper) is None
    assert is_blocked("t1", keeper=site.keeper)
    session, block = site.db["sessions"].find_one({"_id": "s1"}), site.db["blocked_tokens"].find_one({"_id": "t1"})
    assert session is not None
    assert "ended_at" in session
    assert "data" not in session
    assert block is not None
    assert int(block["expires_at"].timestamp()) in {expires, expires - time.timezone, expires + time.timezone}
    assert worker.alive


def test_a_changed_product_invalidates_the_searches_that_find_it(site: Site, worker: WorkerProcess) -> None:
    site.db["products"].insert_one({"_id": "p1", "name": "Desk Lamp"})
    for words in ("lamp", "SK l", "chair"):
        search_products(words, keeper=site.keeper)
    assert json.loads(text(site, "search:lamp") or "")[0]["name"] == "Desk Lamp"
    site.db["products"].update_one({"_id": "p1"}, {"$set": {"name": "Desk Light"}})
    site.publish(ProductChanged(product_id="p1", name="Desk Light", previous_name="Desk Lamp"))
    wait_until(lambda: text(site, "search:lamp") is None, "no search for lamp", SOON)
    wait_until(lambda: text(site, "search:sk l") is None, "no search for what both names hold", SOON)
    assert text(site, "search:chair") == "[]"
    assert search_products("lamp", keeper=site.keeper) == []
    site.publish(ProductChanged(product_id="p1", name="Desk Light"))  # nobody knows what it was called
    wait_until(lambda: text(site, "search:chair") is None, "no search at all", SOON)
    assert worker.alive


def test_many_events_in_one_message(site: Site, worker: WorkerProcess) -> None:
    site.db["users"].insert_many({"_id": 1000 + n, "name": f"n{n}", "version": 1} for n in range(700))
    site.publish(*(UserUpdated(user_id=str(1000 + n), name=f"n{n}", version=1) for n in range(700)))
    wait_until(lambda: all(site.client.mget([f"user:{1000 + n}:name" for n in range(700)])), "all names", SOON)
    assert text(site, "user:1699:name") == "n699"
    assert worker.alive


def test_a_message_is_acknowledged_when_it_is_applied(site: Site, worker: WorkerProcess) -> None:
    site.publish_each(*(UserLoggedOut(token_id=f"ack{n}") for n in range(40)))
    site.settle()
    wait_until(lambda: site.client.exists(*(f"blocked:ack{n}" for n in range(40))) == 40, "all applied", SOON)
    if not site.is_rabbit:
        wait_until(lambda: not site.held(), "nothing held", SOON)
    # What was applied and not acknowledged would come back.
    with stopped(worker):
        assert site.waiting() == 0


@pytest.mark.parametrize("site", ["rabbitmq"], indirect=True)  # an idle Redis broker wakes the loop each second
def test_an_idle_worker_stops_at_once(site: Site, worker: WorkerProcess) -> None:
    """Celery's event loop sleeps for up to ten seconds, five on average. Asked again, since a machine may be busy."""
    if stops(site, worker) >= 10:
        assert stops(site, worker) < 10


def stops(site: Site, worker: WorkerProcess) -> float:
    """How long three of them take."""
    took = 0.0
    for _ in range(3):
        site.settle()
        asked = time.monotonic()
        with stopped(worker):
            took += time.monotonic() - asked
    return took


BAD: dict[str, object] = {
    "no object": 5,
    "an unknown type": {"type": "user.renamed", "user_id": "1"},
    "a missing field": {"type": "user.updated", "user_id": "1"},
    "a wrong version": {"type": "user.updated", "user_id": "1", "name": "x", "version": True},
    "a wrong id": {"type": "user.logged_out", "token_id": "to{ken}-4711"},
    "an id of the wrong type": {"type": "user.updated", "user_id": "A" * 24, "name": "x", "version": 1},
}


def test_bad_events_are_put_away_and_their_neighbours_applied(site: Site, worker: WorkerProcess) -> None:
    bodies = [UserLoggedOut(token_id="before").to_wire(), *BAD.values(), UserLoggedOut(token_id="behind").to_wire()]
    for deliveries in (1, 2):
        counts = [deliveries] * len(BAD)
        site.send_events(bodies)
        wait_until(partial(lambda counts: [letter["count"] for letter in site.letters] == counts, counts), "all", SOON)
    wait_until(lambda: site.client.exists("blocked:before", "blocked:behind") == 2, "the good ones applied", SOON)
    letters = {letter["body"]: letter for letter in site.letters}
    for body in BAD.values():
        letter = letters[json.dumps(body)]
        assert letter["reason"]
        assert letter["error"] in {"InvalidEvent", "UnknownEvent", "InvalidId"}
        assert letter["first_at"] < letter["last_at"]
        assert "Traceback" in letter["traceback"]
    secret = letters[json.dumps(BAD["a wrong id"])]
    assert shown(secret, REGISTRY)["body"]["token_id"] == mask("to{ken}-4711")
    assert "4711" not in secret["reason"] + secret["traceback"]
    assert "4711" not in worker.log.read_text()
    site.db["dead_letters"].delete_many({})


def test_a_worker_that_is_asked_to_stop_under_load_loses_nothing(site: Site, worker: WorkerProcess) -> None:
    site.publish_each(*(UserLoggedOut(token_id=f"stop{n}") for n in range(300)))
    with stopped(worker):
        pass
    site.settle()
    wait_until(lambda: site.client.exists(*(f"blocked:stop{n}" for n in range(300))) == 300, "all applied", SOON)
    assert site.letters == []


@pytest.mark.parametrize("site", ["rabbitmq"], indirect=True)  # with Redis a kill may lose a message, as is stated
def test_a_worker_that_is_killed_under_load_loses_nothing(site: Site, worker: WorkerProcess) -> None:
    keys, blocks = [f"blocked:kill{n}" for n in range(300)], site.db["blocked_tokens"]
    with site.mongo_client.start_session() as session, session.start_transaction():
        # Nobody else can write these before the transaction ends: whoever applies them is not done.
        blocks.insert_many(({"_id": f"kill{n}"} for n in range(9, 300, 10)), session=session)
        site.publish_each(*(UserLoggedOut(token_id=f"kill{n}") for n in range(300)))
        wait_until(lambda: site.client.exists(*keys), "some applied", SOON)
        worker.kill()
        session.abort_transaction()
    assert worker.exit_text == f"was killed by {signal.SIGKILL.name}"
    assert 0 < site.client.exists(*keys) <= 270
    worker.start()
    site.settle()
    wait_until(lambda: site.client.exists(*keys) == 300, "all applied", SOON)
    assert site.letters == []
    assert site.dead() == 0


def test_two_workers_share_the_work(site: Site, worker: WorkerProcess) -> None:
    with site.working("--hostname", "second@%h", "--concurrency", "2"):
        site.publish_each(*(UserLoggedOut(token_id=f"two{n}") for n in range(200)))
        site.settle()
        wait_until(lambda: site.client.exists(*(f"blocked:two{n}" for n in range(200))) == 200, "all applied", SOON)
    assert worker.alive
    assert site.letters == []


def test_a_worker_keeps_the_blocklist_ready_and_makes_the_indexes(site: Site, worker: WorkerProcess) -> None:
    block_token("early", None, keeper=site.keeper)
    site.client.flushall()
    wait_until(lambda: site.client.exists("cachekeeper:blocked-ready"), "ready", SOON)
    assert text(site, "blocked:early") == "true"
    for collection in (site.db["sessions"], site.db["blocked_tokens"]):
        wait_until(partial(expires, collection), "the index", SOON)
    assert worker.alive
