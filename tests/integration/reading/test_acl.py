"""A user of Redis with just the rights that docs/operations/users.md lists can do its role; with one fewer not."""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from cachekeeper import Expire, Keeper, Settings
from cachekeeper.applying.batch import apply
from cachekeeper.consuming.messages import EventMessage
from cachekeeper.consuming.processor import Processor, Verdict
from cachekeeper.errors import CachekeeperError
from cachekeeper.settings import WorkerSettings
from cachekeeper.upkeep.blocklist_warming import write_blocks
from cachekeeper.upkeep.warming import warm_view
from lookups import (
    BLOCKED,
    SESSION,
    USER_NAME,
    block_token,
    is_blocked,
    read_session,
    read_user,
    save_session,
    search_products,
)
from testkit.delivering import REGISTRY
from testkit.limits import ONE_SECOND, PATIENT
from testkit.verdicts import verdicts

if TYPE_CHECKING:
    from collections.abc import Callable

    from pymongo.database import Database

    from cachekeeper.devservers import MongoServer, RedisServer

LONG_NAME = "Ann" * 50
DOCS = Path(__file__).resolve().parents[3] / "docs" / "operations" / "users.md"


@dataclass
class Lab:
    """A Redis, a MongoDB, and what lies in them before a role is played."""

    server: RedisServer
    mongodb_url: str
    db: Database[Any]
    limits: dict[str, Any] = field(default_factory=lambda: PATIENT)
    made: list[Keeper] = field(default_factory=list)

    def close(self) -> None:
        while self.made:
            self.made.pop().close()

    def prepare(self) -> None:
        for name in self.db.list_collection_names():
            self.db.drop_collection(name)
        self.db.users.insert_many([{"_id": each, "name": "Ann", "version": 1} for each in (1, 2, 3)])
        self.db.users.insert_one({"_id": 4, "name": LONG_NAME, "version": 1})
        self.db.products.insert_one({"_id": 1, "name": "Lamp"})
        with self.server.client() as client:
            client.flushall()
            client.script_flush()

    def keeper(self, url: str, **changes: Any) -> Keeper:
        made = Keeper(Settings(redis_url=url, mongodb_url=self.mongodb_url, **self.limits, **changes))
        self.made.append(made)
        return made

    def foreign(self, do: Callable[[Keeper], object]) -> None:
        """Something that another process does, with all rights."""
        do(self.keeper(self.server.url))


def read(lab: Lab, url: str) -> None:
    """What services do: all of `lookups`, and what it meets."""
    keeper = lab.keeper(url, value_limit_bytes=100)
    save_session("s1", {"cart": [1]}, keeper=keeper)
    assert read_session("s1", keeper=keeper) == {"cart": [1]}
    with lab.server.client() as client:
        for damaged in (3, 4):
            client.hset(f"user:{damaged}:name", "a", "b")
    for each, name in ((1, "Ann"), (1, "Ann"), (99, None), (99, None), (3, "Ann"), (4, LONG_NAME)):
        assert read_user(each, keeper=keeper) == name
    for _ in range(2):
        assert len(search_products("lamp", keeper=keeper)) == 1
    block_token("t1", datetime.now(UTC) + timedelta(hours=1), keeper=keeper)
    block_token("t1", datetime.now(UTC) + timedelta(hours=2), keeper=keeper)
    block_token("t1", None, keeper=keeper)
    assert is_blocked("t1", keeper=keeper)
    assert not is_blocked("t2", keeper=keeper)


def event(kind: str, /, **fields: object) -> dict[str, object]:
    return {"type": kind, **fields}


def work(lab: Lab, url: str) -> None:
    """What a worker does."""
    settings = WorkerSettings(redis_url=url, mongodb_url=lab.mongodb_url, broker_url="redis://127.0.0.1:1", **PATIENT)
    for each in ("s1", "s2"):
        lab.foreign(lambda keeper, each=each: save_session(each, {}, keeper=keeper))  # type: ignore[misc]
    lab.foreign(lambda keeper: read_user(1, keeper=keeper))
    lab.foreign(lambda keeper: search_products("lamp", keeper=keeper))
    delivery = Processor(settings, REGISTRY)
    lab.made.append(delivery.keeper)
    delivery._probe()
    delivery.pause._over = True
    for thread in (*delivery._watches, *delivery._threads):
        thread.run_once()
    events = [
        event("user.updated", user_id="1", name="Bob", version=2),
        event("user.updated", user_id="1", name="Bob", version=3),
        event("user.updated", user_id="2", name="Bob"),
        event("user.deleted", user_id="3"),
        event("user.logged_out", session_id="s1", token_id="t1", token_expires_at="2100-01-01T00:00:00Z"),
        event("user.logged_out", token_id="t1"),
        event("product.changed", product_id="1", name="Lamp", previous_name="Desk"),
        event("product.changed", product_id="1", name="Lamp"),
        event("collection.changed", collection="users"),
    ]
    for number, body in enumerate(events):
        assert verdicts(delivery, [EventMessage(f"m{number}", [body])]) == [Verdict.DONE], body
    (later,) = apply(delivery.keeper, [[Expire(SESSION, "s2", datetime.now(UTC) + timedelta(minutes=1))]])
    assert later.error is None


def warm(lab: Lab, url: str) -> None:
    """What `cachekeeper warm` does."""
    keeper = lab.keeper(url)
    lab.foreign(lambda other: block_token("t1", None, keeper=other))
    warm_view(keeper, USER_NAME)
    write_blocks(keeper, BLOCKED)


ROLES: dict[str, Callable[[Lab, str], None]] = {"reader": read, "worker": work, "warm": warm}


def rules(role: str) -> list[str]:
    """What the docs give a user of this role."""
    found = re.search(rf"^ACL SETUSER {role} on >PASSWORD (.*(?:\n  .*)*)", DOCS.read_text("utf-8"), re.MULTILINE)
    assert found is not None
    return found[1].split()


def played(lab: Lab, role: str, given: list[str]) -> list[str]:
    """What a user with these rights was refused."""
    for _ in range(3):
        lab.prepare()
        with lab.server.client() as client:
            client.execute_command("ACL", "SETUSER", role, "reset", "on", ">secret", *given)
            client.execute_command("ACL", "LOG", "RESET")
            failed = True
            with contextlib.suppress(CachekeeperError, AssertionError):
                ROLES[role](lab, lab.server.url.replace("//", f"//{role}:secret@"))
                failed = False
            lab.close()
            entries: list[Any] = client.acl_log()
        refused = [entry["object"] for entry in entries if not entry["object"].startswith("client|")]
        # What failed and was refused nothing met a server too busy to answer in time: it says nothing of the rights.
        if refused or not failed:
            return refused
    raise AssertionError(f"{role} failed three times, and was refused nothing")


@pytest.mark.parametrize("role", ROLES)
def test_the_rights_that_the_docs_list(
    own_redis: RedisServer, mongo_server: MongoServer, database: str, role: str
) -> None:
    with mongo_server.client() as client:
        lab = Lab(own_redis, mongo_server.url_of(database), client[database])
        assert played(lab, role, rules(role)) == []
        lab.prepare()
        ROLES[role](lab, own_redis.url.replace("//", f"//{role}:secret@"))  # nothing raised, either
        lab.close()
        # Without SET or EXISTS a key stays under a lease that nothing fills, and each later lookup waits for it.
        lab.limits = ONE_SECOND
        for right in rules(role):
            assert played(lab, role, [each for each in rules(role) if each != right]), f"{right} is not needed"
