"""Logged-out tokens while servers are away: an answer from MongoDB or an error within the time limit, never 'no'."""

import time

import pytest

from cachekeeper import CachekeeperError, DatabaseUnavailable, Keeper, PersistedNotCached, Unavailable
from cachekeeper.devservers import MongoServer, RedisServer, ServerProcess
from cachekeeper.protocol.outcomes import Blocked
from cachekeeper.reading.blocklist import BlocklistReader
from lookups import block_token, is_blocked
from testkit.taps import Cut, MongoTap, RedisTap, Words
from testkit.tokens import KEY, NO_REDIS, NOWHERE_MONGO, NOWHERE_REDIS, READY, SHORT, TOKEN, end_of, keeping, soon

OUTAGES = ["refused", "hung", "killed"]
SLACK = 1.5
"""Seconds by which a busy machine may be late."""


def strike(outage: str, server: ServerProcess) -> None:
    """What happens to a server that has answered before; 'refused' is one that never did."""
    if outage == "hung":
        server.pause()
    elif outage == "killed":
        server.kill()


def timed(keeper: Keeper) -> bool | CachekeeperError:
    """What `is_blocked` says, within its time limit."""
    began = time.monotonic()
    answer: bool | CachekeeperError
    try:
        answer = is_blocked(TOKEN, keeper=keeper)
    except CachekeeperError as error:
        answer = error
    assert time.monotonic() - began < keeper.settings.lookup_timeout_seconds + SLACK
    return answer


@pytest.mark.parametrize("outage", OUTAGES)
def test_mongodb_answers_while_redis_is_away(
    own_redis: RedisServer, mongo_server: MongoServer, database: str, outage: str
) -> None:
    url = NOWHERE_REDIS if outage == "refused" else own_redis.url
    with MongoTap(mongo_server, database) as mongo, keeping(url, mongo, **NO_REDIS) as keeper:
        with own_redis.client() as client:
            client.set(READY, "true")
        if outage != "refused":
            assert timed(keeper) is False
            assert mongo.commands == []
        strike(outage, own_redis)
        assert timed(keeper) is False
        mongo.database["blocked_tokens"].insert_one({"_id": TOKEN, "expires_at": None})
        assert timed(keeper) is True
        assert mongo.of("blocked_tokens") == ["find", "insert", "find"]


def _fail_open(self: BlocklistReader, part: str) -> bool:
    """A mutant: an outage is taken for 'no'."""
    try:
        return _is_blocked(self, part)
    except Unavailable:
        return False


_is_blocked = BlocklistReader.is_blocked


@pytest.mark.parametrize("mutant", [False, True])
@pytest.mark.parametrize("outage", OUTAGES)
def test_with_both_away_it_is_an_error_and_never_no(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, outage: str, *, mutant: bool
) -> None:
    if mutant:
        monkeypatch.setattr(BlocklistReader, "is_blocked", _fail_open)
    servers: list[ServerProcess] = []
    urls = (NOWHERE_REDIS, NOWHERE_MONGO)
    if outage != "refused":
        own_redis: RedisServer = request.getfixturevalue("own_redis")
        own_mongo: MongoServer = request.getfixturevalue("own_mongo")
        servers, urls = [own_redis, own_mongo], (own_redis.url, own_mongo.url)
        with keeping(*urls) as patient:  # the first write of a new MongoDB takes longer than the others
            block_token(TOKEN, None, keeper=patient)
    with keeping(*urls, **SHORT) as keeper:
        if outage != "refused":
            block_token(TOKEN, None, keeper=keeper)
            assert timed(keeper) is True
        for server in servers:
            strike(outage, server)
        for _ in range(2):  # the second meets what the first has learnt of the outage
            answer = timed(keeper)
            if mutant:
                assert answer is False
            else:
                assert isinstance(answer, DatabaseUnavailable)
                assert TOKEN not in str(answer)


@pytest.mark.parametrize("outage", OUTAGES)
def test_without_mongodb_redis_still_says_what_it_knows(
    request: pytest.FixtureRequest, redis_server: RedisServer, outage: str
) -> None:
    url, server = NOWHERE_MONGO, None
    if outage != "refused":
        server = request.getfixturevalue("own_mongo")
        url = server.url
        with keeping(redis_server.url, url) as patient:  # as above
            block_token(TOKEN, None, keeper=patient)
    with keeping(redis_server.url, url, **SHORT) as keeper, redis_server.client() as client:
        if server is not None:
            block_token(TOKEN, None, keeper=keeper)
            strike(outage, server)
        client.set(KEY, "true")
        assert timed(keeper) is True
        client.delete(KEY)
        assert isinstance(timed(keeper), DatabaseUnavailable), "absent and not ready: only MongoDB knows"
        client.set(READY, "true")
        assert timed(keeper) is False


@pytest.mark.parametrize("outage", OUTAGES)
def test_a_block_that_redis_did_not_take_is_in_mongodb_and_may_be_repeated(
    own_redis: RedisServer, mongo_server: MongoServer, database: str, outage: str
) -> None:
    until = soon()
    with MongoTap(mongo_server, database) as mongo:
        with keeping(NOWHERE_REDIS if outage == "refused" else own_redis.url, mongo, **NO_REDIS) as keeper:
            strike(outage, own_redis)
            with pytest.raises(PersistedNotCached) as caught:
                block_token(TOKEN, until, keeper=keeper)
            assert TOKEN not in str(caught.value)
            assert end_of(mongo.database) == until
        own_redis.restart()
        with keeping(own_redis.url, mongo) as keeper, own_redis.client() as client:
            assert block_token(TOKEN, until, keeper=keeper) is Blocked.BLOCKED
            assert client.get(KEY) == b"true"


@pytest.mark.parametrize("outage", OUTAGES)
def test_a_block_that_mongodb_did_not_take_is_nowhere(
    request: pytest.FixtureRequest, redis_server: RedisServer, outage: str
) -> None:
    url = NOWHERE_MONGO
    if outage != "refused":
        server: MongoServer = request.getfixturevalue("own_mongo")
        url = server.url
        strike(outage, server)
    with keeping(redis_server.url, url, **SHORT) as keeper, redis_server.client() as client:
        began = time.monotonic()
        with pytest.raises(DatabaseUnavailable) as caught:
            block_token(TOKEN, soon(), keeper=keeper)
        assert time.monotonic() - began < keeper.settings.lookup_timeout_seconds + SLACK
        assert TOKEN not in str(caught.value)
        assert client.keys() == []


def test_a_full_redis_is_an_outage_too(own_redis: RedisServer, mongo_server: MongoServer, database: str) -> None:
    with MongoTap(mongo_server, database) as mongo, keeping(own_redis.url, mongo) as keeper:
        with own_redis.client() as client:
            client.config_set("maxmemory", "1")
        with pytest.raises(PersistedNotCached):
            block_token(TOKEN, None, keeper=keeper)
        assert is_blocked(TOKEN, keeper=keeper) is True


def test_an_answer_that_was_lost(redis_server: RedisServer, mongo_server: MongoServer, database: str) -> None:
    lost: list[bytes] = []

    def lose(words: Words) -> None:
        if words[0] in {b"EVALSHA", b"EXEC"} and words[0] not in lost:
            lost.append(words[0])
            raise Cut

    with RedisTap(redis_server) as tap, MongoTap(mongo_server, database) as mongo, keeping(tap.url, mongo) as keeper:
        block_token("another", None, keeper=keeper)  # the script is known to the server
        tap.after = lose
        with pytest.raises(PersistedNotCached):
            block_token(TOKEN, None, keeper=keeper)
        assert block_token(TOKEN, None, keeper=keeper) is Blocked.KEPT
        mongo.commands.clear()
        assert is_blocked(TOKEN, keeper=keeper) is True
        assert mongo.of("blocked_tokens") == ["find"]
        assert lost == [b"EVALSHA", b"EXEC"]
