"""The race conformance suite: this project is fresh in every case, and every case can show a stale read.

`make races` also plays the libraries. Their results are in its table and in no test, because they change with the
libraries' versions.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from cachekeeper.devservers import FoundServer, Guardian, MongoServer, RedisServer
from verification.races.adapters import DOGPILE, OURS, PLAIN, REUSED, WRITE_THROUGH, Contender
from verification.races.adapters.plain import Plain
from verification.races.cases import CASES, Case
from verification.races.mutants import MUTANTS, Mutant, mutated
from verification.races.playing import Ending, play
from verification.races.stage import Servers, watching

BY_NAME = {case.name: case for case in CASES}
NO_METADATA = {
    "overtaken load, metadata evicted at each step",
    "events out of order, metadata evicted at each step",
    "search fill against a product change, metadata evicted",
    "a cached search older than the filter of texts",
}
STALE = {
    PLAIN.name: {
        "slow fill after a change",
        "slow fill after a deletion, held on the wire",
        "slow fill after all users were dropped",
        "the same lease again (ABA)",
        "Redis restarts between lease and fill",
        "Redis restarts, then the event finds nothing",
        "overtaken load, value evicted at each step",
        "logout overtakes a session's save",
        "logout overtakes a session's load",
        "a foreign SET after the logout",
        "a shorter block after a longer one",
        "flush while blocks are being warmed",
        "search fill against a product change",
    },
    REUSED.name: {
        "the same lease again (ABA)",
        "Redis restarts between lease and fill",
        "Redis restarts, then the event finds nothing",
    },
}
# Cases in which these two contenders and all mutants are fresh.
STALE_FOR_OTHERS = {
    "events out of order, value evicted at each step": WRITE_THROUGH,
    "blocked while 'not blocked' is being looked up": DOGPILE,
}


@pytest.fixture(scope="module")
def servers(guardian: Guardian, redis_found: FoundServer, mongo_server: MongoServer) -> Iterator[Servers]:
    redis = RedisServer(guardian, redis_found)  # a server of its own, because some cases restart it
    redis.start()
    try:
        with watching(redis, mongo_server) as servers:
            yield servers
    finally:
        redis.kill()


each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


@each_case
def test_this_project_is_fresh(case: Case, servers: Servers) -> None:
    ended = play(case, OURS, servers)
    assert ended.ending is Ending.FRESH, ended.why


@pytest.mark.parametrize("contender", [PLAIN, REUSED], ids=lambda contender: contender.name)
@each_case
def test_where_others_are_stale(case: Case, contender: Contender, servers: Servers) -> None:
    if contender is PLAIN and case.name in NO_METADATA:
        expected = Ending.NOT_APPLICABLE
    else:
        expected = Ending.STALE if case.name in STALE[contender.name] else Ending.FRESH
    ended = play(case, contender, servers)
    assert ended.ending is expected, ended.why


@pytest.mark.parametrize(
    ("mutant", "name"),
    [(mutant, name) for mutant in MUTANTS for name in mutant.cases],
    ids=lambda part: part.name if isinstance(part, Mutant) else part,
)
def test_a_wrong_script_is_stale(mutant: Mutant, name: str, servers: Servers) -> None:
    with mutated(mutant):
        assert play(BY_NAME[name], OURS, servers).ending is Ending.STALE


@pytest.mark.filterwarnings("ignore:Call to deprecated setex")  # dogpile.cache calls it
@pytest.mark.parametrize(
    ("name", "contender"), STALE_FOR_OTHERS.items(), ids=lambda part: part.name if isinstance(part, Contender) else part
)
def test_what_only_others_get_wrong(name: str, contender: Contender, servers: Servers) -> None:
    assert play(BY_NAME[name], contender, servers).ending is Ending.STALE


def test_every_case_can_fail() -> None:
    seen = {name for mutant in MUTANTS for name in mutant.cases}.union(STALE_FOR_OTHERS, *STALE.values())
    assert seen == set(BY_NAME)


def test_a_mutant_whose_script_has_changed_says_so() -> None:
    gone = Mutant("of another time", [("fill", "no such line", "")], [])
    with pytest.raises(LookupError, match=r"fill\.lua does not hold 'no such line'"), mutated(gone):
        pass


class _Raises(Plain):
    def read_user(self) -> str | None:
        raise ConnectionError


class _Swallows(Plain):
    def read_user(self) -> str | None:
        logging.getLogger("a library").error("could not write")
        return super().read_user()


def test_an_error_that_is_swallowed_is_no_fresh_answer(servers: Servers) -> None:
    contender = Contender("swallows", _Swallows, "")
    assert play(BY_NAME["event 2 before event 1"], contender, servers).ending is Ending.ERROR


def test_a_play_that_breaks_is_no_ending(servers: Servers) -> None:
    """An error of the suite itself is not counted against a contender."""
    with pytest.raises(ConnectionError):
        play(BY_NAME["event 2 before event 1"], Contender("raises", _Raises, ""), servers)
