"""Whatever `_id` a block has: Redis while *ready*, MongoDB before that, and MongoDB in an outage say the same."""

import uuid
from collections.abc import Iterator
from contextlib import suppress
from decimal import Context
from typing import Any

import pytest
from bson import Binary, Code, Decimal128, Int64, MinKey, ObjectId
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pymongo.errors import DuplicateKeyError

from cachekeeper import Keeper
from cachekeeper.devservers import RedisServer
from cachekeeper.errors import InvalidId
from cachekeeper.reading import blocklist
from cachekeeper.reading.blocklist import ids_of, key_text
from cachekeeper.upkeep.blocklist_warming import Passed, write_blocks
from cachekeeper.values.ids import check_id
from lookups import BLOCKED, is_blocked
from testkit.taps import MongoTap
from testkit.tokens import FOREIGN_IDS, NOWHERE_REDIS, OBJECT_ID, TOKEN_UUID, keeping

Keepers = tuple[Keeper, Keeper]


@pytest.fixture
def keepers(redis_server: RedisServer, mongo: MongoTap) -> Iterator[Keepers]:
    """One whose servers are well, and one whose Redis is away."""
    with keeping(redis_server.url, mongo) as well, keeping(NOWHERE_REDIS, mongo) as alone:
        yield well, alone


def answers(mongo: MongoTap, keepers: Keepers, ids: list[object], tokens: set[str]) -> dict[str, list[bool]]:
    """Is each of the tokens blocked? When not ready, when ready, and in an outage."""
    well, alone = keepers
    mongo.database["blocked_tokens"].delete_many({})
    well.store(BLOCKED.server).client.flushall()
    for document_id in ids:
        with suppress(DuplicateKeyError):  # to MongoDB some are one
            mongo.database["blocked_tokens"].insert_one({"_id": document_id})
    before = {token: is_blocked(token, keeper=well) for token in tokens}
    assert write_blocks(well, BLOCKED) is Passed.READY
    mongo.commands.clear()
    ready = {token: is_blocked(token, keeper=well) for token in tokens}
    assert mongo.commands == []
    return {token: [before[token], ready[token], is_blocked(token, keeper=alone)] for token in tokens}


def is_token(text: str | None) -> bool:
    try:
        check_id(text)
    except InvalidId:
        return False
    return True


def agree(mongo: MongoTap, keepers: Keepers, ids: list[object]) -> None:
    blocked = {text for text in map(key_text, ids) if text is not None and is_token(text)}
    others = {str(document_id) for document_id in ids} | {"NaN", "1_0", "+42", "4.20", "42.0", "1e0", OBJECT_ID.upper()}
    tokens = blocked | set(filter(is_token, others))
    for token, given_answers in answers(mongo, keepers, ids, tokens).items():
        assert given_answers == [token in blocked] * 3, token


# Close to each other on purpose: what is one to MongoDB and two to Python, or the other way round, is found there.
NUMBERS = st.one_of(
    st.integers(-3, 3),
    st.integers(-(2**63), 2**63 - 1).map(Int64),
    st.sampled_from([2**53, 2**53 + 1, 2**63 - 1, -(2**63)]).map(Int64),
    st.floats(),
    st.sampled_from([-0.0, 0.5, 0.1, 1e15, 1e21, 2.0**53, 2.0**63, -(2.0**63), 5e-324]),
)
DECIMALS = st.one_of(
    st.decimals(places=2, allow_nan=True, min_value=-3, max_value=3).map(Decimal128),
    st.sampled_from(["NaN", "-Infinity", "0E+6111", "-0", "1E+6144", "1E-6176", "1E+300", "9223372036854775808"]).map(
        Decimal128
    ),
    st.floats(allow_nan=False, allow_infinity=False).map(repr).map(Decimal128),
    st.floats(-1e3, 1e3).map(Context(prec=34).create_decimal).map(Decimal128),
    st.integers(-(2**63), 2**63 - 1).map(str).map(Decimal128),
)
TEXTS = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8),
    NUMBERS.map(str),
    st.sampled_from([TOKEN_UUID, OBJECT_ID, OBJECT_ID.upper(), TOKEN_UUID.upper(), "NaN", "1E+6144"]),
)
IDS = st.one_of(
    NUMBERS,
    DECIMALS,
    TEXTS,
    TEXTS.map(Code),
    st.binary(min_size=12, max_size=12).map(ObjectId),
    st.uuids(),
    st.uuids().map(lambda value: Binary(value.bytes, 3)),
    st.binary(max_size=16).map(Binary),
    st.booleans(),
    st.none(),
    st.builds(MinKey),
    st.fixed_dictionaries({"iss": st.just("x"), "jti": TEXTS}),
)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ids=st.lists(IDS, min_size=1, max_size=12))
@example(ids=[document_id for document_id, _ in FOREIGN_IDS])
@example(ids=[1.5, uuid.UUID(TOKEN_UUID), Code("42"), True])
def test_redis_and_mongodb_say_the_same_of_every_id(mongo: MongoTap, keepers: Keepers, ids: list[object]) -> None:
    agree(mongo, keepers, ids)


def _as_settings_read(text: str) -> list[object]:
    """A known-bad variant: MongoDB is asked for texts, integers and ObjectIds only."""
    return [each for each in ids_of(text) if isinstance(each, str | int | ObjectId)]


def _all_that_python_reads(text: str) -> list[object]:
    """A known-bad variant: `+42` and `42.0` mean 42."""
    with suppress(ValueError):
        return [text, float(text)]
    return [text]


@pytest.mark.parametrize(
    ("mutant", "document_id"),
    [(_as_settings_read, 1.5), (_as_settings_read, uuid.UUID(TOKEN_UUID)), (_all_that_python_reads, 42)],
)
def test_mutants_are_found(
    mongo: MongoTap, keepers: Keepers, monkeypatch: pytest.MonkeyPatch, mutant: Any, document_id: object
) -> None:
    monkeypatch.setattr(blocklist, "ids_of", mutant)
    with pytest.raises(AssertionError):
        agree(mongo, keepers, [document_id])
