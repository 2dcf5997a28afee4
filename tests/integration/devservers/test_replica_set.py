"""The replica set that benchmarks and fault runs use: it elects, lags, and rolls back, as they rely on."""

from collections.abc import Iterator
from typing import Any

import bson
import pytest
from pymongo.read_concern import ReadConcern

from cachekeeper.devservers import FoundServer, Guardian
from testkit.replica_set import Client, Member, ReplicaSet
from testkit.waiting import wait_until


@pytest.fixture(scope="module")
def replica_set(guardian: Guardian, mongo_found: FoundServer) -> Iterator[ReplicaSet]:
    # A primary that stands still for a second keeps its office. (With more than 2 s each election here takes longer.)
    with ReplicaSet(guardian, mongo_found, election_seconds=2) as started:
        yield started


@pytest.fixture
def set_client(replica_set: ReplicaSet) -> Iterator[Client]:
    """A client whose writes are acknowledged by a majority, on a set that is in step and empty."""
    replica_set.await_in_step()
    with replica_set.client() as client:
        client.drop_database("shop")
        yield client
    replica_set.await_in_step()


def seen(client: Client, concern: str = "local") -> object:
    """What a client reads of the one document."""
    names = client.shop.get_collection("names", read_concern=ReadConcern(concern))
    return (names.find_one({"_id": 1}) or {}).get("name")


def seen_by(member: Member) -> object:
    with member.direct_client() as client:
        return seen(client)


def test_another_member_takes_over_and_keeps_what_a_majority_had(replica_set: ReplicaSet, set_client: Client) -> None:
    set_client.shop.names.insert_one({"_id": 1, "name": "Ann"})
    first = replica_set.await_primary()
    second = replica_set.step_down()
    assert second is not first
    assert seen(set_client) == "Ann"
    second.kill()
    third = replica_set.await_primary()
    assert third is not second
    assert seen(set_client) == "Ann"
    second.restart()


def test_a_deposed_primary_that_was_frozen_follows_the_new_one(replica_set: ReplicaSet, set_client: Client) -> None:
    frozen = replica_set.await_primary()
    frozen.pause()
    try:
        elected = replica_set.await_primary(other_than=frozen)
        set_client.shop.names.insert_one({"_id": 1, "name": "Ann"})
    finally:
        frozen.resume()
    assert replica_set.await_in_step() is elected
    wait_until(lambda: frozen in replica_set.secondaries(), "an answer in time")
    assert seen_by(frozen) == "Ann"


def test_a_secondary_lags_and_answers_until_it_catches_up(replica_set: ReplicaSet, set_client: Client) -> None:
    set_client.shop.names.insert_one({"_id": 1, "name": "Ann"})
    lagging, other = replica_set.others(replica_set.await_in_step())
    replica_set.lag(lagging)
    set_client.shop.names.update_one({"_id": 1}, {"$set": {"name": "Bea"}})
    replica_set.lag(lagging)  # twice is no error
    assert seen_by(lagging) == "Ann"
    assert seen_by(other) == "Bea"  # a majority has it
    replica_set.catch_up(lagging)
    replica_set.await_in_step()
    assert seen_by(lagging) == "Bea"


def test_a_failover_rolls_back_what_one_member_had_and_keeps_the_rest(
    replica_set: ReplicaSet, set_client: Client
) -> None:
    set_client.shop.names.insert_one({"_id": 1, "name": "Ann"})
    saw: dict[str, object] = {}

    def write(doomed: Client) -> None:
        acknowledged = doomed.shop.names.update_one({"_id": 1}, {"$set": {"name": "Bea"}})
        assert acknowledged.modified_count == 1
        saw.update({concern: seen(set_client, concern) for concern in ("local", "majority")})

    doomed = replica_set.roll_back(write)
    assert saw == {"local": "Bea", "majority": "Ann"}
    assert [seen_by(member) for member in replica_set.members] == ["Ann"] * 3
    # It was not lost with the process: its member had it, and has put it aside.
    assert {"_id": 1, "name": "Bea"} in put_aside(doomed)


def put_aside(member: Member) -> list[dict[str, Any]]:
    """The documents that a member's rollbacks have undone."""
    files = (member.data / "rollback").rglob("*.bson")
    return [document for file in files for document in bson.decode_all(file.read_bytes())]
