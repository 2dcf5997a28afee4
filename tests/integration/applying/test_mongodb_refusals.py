"""A collection that MongoDB does not let cachekeeper use: code, collection and cure, by whatever command it shows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from cachekeeper.applying.mongo_indexes import IndexRefused, ensure_index
from cachekeeper.applying.mongo_writes import persist_block
from cachekeeper.connections import mongodb_errors as database_module
from cachekeeper.consuming import dead_letters as deadletters
from cachekeeper.consuming.dead_letters import DeadLetter, keep
from cachekeeper.consuming.processor import Processor
from cachekeeper.errors import DatabaseUnavailable, InvalidEvent
from cachekeeper.model.commands import Block
from cachekeeper.settings import Settings
from lookups import BLOCKED
from testkit.delivering import REGISTRY
from testkit.limits import PATIENT
from testkit.mutating import mutated

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cachekeeper.devservers import MongoServer, RedisServer

SECRET = "a-token-1234"
NEEDED = "replace it with an ordinary collection of that name, which cachekeeper needs"


def a_view(db: Any, name: str) -> None:
    db.create_collection(name, viewOn="others", pipeline=[])


def a_time_series(db: Any, name: str) -> None:
    db.create_collection(name, timeseries={"timeField": "at"})


def a_validator(db: Any, name: str) -> None:
    db.create_collection(name, validator={"nope": {"$exists": True}})


def a_unique_index(db: Any, name: str) -> None:
    db[name].create_index("type", unique=True, name="one_of_each")
    db[name].insert_one({"_id": "theirs"})


def capped(db: Any, name: str) -> None:
    db.create_collection(name, capped=True, size=10_000)


def full_of_indexes(db: Any, name: str) -> None:
    db.command("createIndexes", name, indexes=[{"key": {f"f{at}": 1}, "name": f"f{at}"} for at in range(63)])


def both_names_taken(db: Any, name: str) -> None:
    for index in ("expires_at_1", "cachekeeper_expires_at"):
        db[name].create_index(f"of_{index}", name=index)


@pytest.fixture
def delivery(redis_server: RedisServer, mongo_server: MongoServer, database: str) -> Iterator[Processor]:
    settings = Settings(redis_url=redis_server.url, mongodb_url=mongo_server.url_of(database), **PATIENT)
    delivery = Processor(settings, REGISTRY)
    yield delivery
    delivery.keeper.close()


def refused(error: DatabaseUnavailable) -> str:
    """What MongoDB is said to have refused."""
    assert SECRET not in str(error)
    return str(error)


LETTERS: dict[str, tuple[Callable[[Any, str], None], str]] = {
    "a view": (
        a_view,
        f"(CommandNotSupportedOnView, code 166, collection dead_letters): dead_letters is a view: {NEEDED}",
    ),
    "a time series": (
        a_time_series,
        f"(InvalidOptions, code 72, collection dead_letters): dead_letters is a time series collection: {NEEDED}",
    ),
    "a validator": (
        a_validator,
        (
            "(DocumentValidationFailure, code 121, collection dead_letters): the validator of dead_letters forbids "
            "what cachekeeper writes: change or remove the validator"
        ),
    ),
    "a unique index": (
        a_unique_index,
        (
            "(DuplicateKey, code 11000, collection dead_letters): the unique index one_of_each of dead_letters forbids "
            "what cachekeeper writes: drop that index"
        ),
    ),
}


@pytest.mark.parametrize("how", LETTERS)
def test_a_dead_letter_that_cannot_be_kept(delivery: Processor, how: str) -> None:
    make, said = LETTERS[how]
    make(delivery.keeper.database, "dead_letters")
    letters = [DeadLetter(body, InvalidEvent("message", "it is not JSON")) for body in (SECRET, SECRET + "2")]
    with pytest.raises(DatabaseUnavailable) as told:
        keep(delivery.keeper, REGISTRY, letters)
    assert refused(told.value) == f"MongoDB refused while keeping dead letters {said}"


def test_who_takes_the_code_of_pymongos_wrapper_is_found(delivery: Processor, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = mutated(database_module, "if not isinstance(error, BulkWriteError):", "if error is not None:")
    monkeypatch.setattr(deadletters, "database_errors", wrong.database_errors)
    with pytest.raises(AssertionError, match="BulkWriteError, code 65"):
        test_a_dead_letter_that_cannot_be_kept(delivery, "a validator")


@pytest.mark.parametrize("how", ["a view", "a time series"])
def test_what_the_worker_asks_before_it_fetches(delivery: Processor, how: str) -> None:
    make, said = LETTERS[how]
    make(delivery.keeper.database, "dead_letters")
    with pytest.raises(DatabaseUnavailable) as told:
        delivery._probe()
    assert refused(told.value) == f"MongoDB refused while trying a write {said}"


BLOCKS: dict[str, tuple[Callable[[Any, str], None], str]] = {
    "a view": (
        a_view,
        f"(CommandNotSupportedOnView, code 166, collection blocked_tokens): blocked_tokens is a view: {NEEDED}",
    ),
    "a time series": (
        a_time_series,
        f"(InvalidOptions, code 72, collection blocked_tokens): blocked_tokens is a time series collection: {NEEDED}",
    ),
}


@pytest.mark.parametrize("how", BLOCKS)
def test_a_block_that_cannot_be_written(delivery: Processor, how: str) -> None:
    make, said = BLOCKS[how]
    make(delivery.keeper.database, "blocked_tokens")
    with pytest.raises(DatabaseUnavailable) as told:
        persist_block(delivery.keeper, Block(BLOCKED, SECRET, None))
    assert refused(told.value) == f"MongoDB refused while writing blocks {said}"


INDEXES: dict[str, tuple[Callable[[Any, str], None], str]] = {
    "a view": (a_view, f"(CommandNotSupportedOnView, code 166): sessions is a view: {NEEDED}"),
    "a time series": (a_time_series, f"(InvalidOptions, code 72): sessions is a time series collection: {NEEDED}"),
    "capped": (capped, f"(CannotCreateIndex, code 67): sessions is a capped collection: {NEEDED}"),
    "64 indexes": (
        full_of_indexes,
        "(CannotCreateIndex, code 67): sessions has as many indexes as MongoDB allows: drop one of them",
    ),
    "both names taken": (
        both_names_taken,
        (
            "(IndexKeySpecsConflict, code 86): the index cachekeeper_expires_at has the name of cachekeeper's index, "
            "but differs from it: drop that index"
        ),
    ),
}


@pytest.mark.parametrize("how", INDEXES)
def test_an_index_that_cannot_be_made(delivery: Processor, how: str) -> None:
    make, said = INDEXES[how]
    db = delivery.keeper.database
    make(db, "sessions")
    with pytest.raises(IndexRefused) as told:
        ensure_index(db["sessions"], "expires_at", timeout=5, expire_seconds=60)
    assert str(told.value) == f"MongoDB refused while indexing sessions.expires_at {said}"


def test_a_name_that_mongodb_does_not_take(delivery: Processor) -> None:
    name = "system.sessions"
    with pytest.raises(IndexRefused) as told:
        ensure_index(delivery.keeper.database[name], "expires_at", timeout=5, expire_seconds=60)
    assert str(told.value) == (
        f"MongoDB refused while indexing {name}.expires_at (InvalidNamespace, code 73): MongoDB does not allow "
        f"a collection named {name} in this database: choose another name"
    )
