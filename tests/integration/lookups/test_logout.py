"""Logging out: what has ended stays so, whatever was on its way; and what others write late is not raised by it."""

from __future__ import annotations

import pytest

from cachekeeper.applying.batch import apply
from cachekeeper.applying.mongo_writes import persist
from cachekeeper.errors import CacheUnavailable
from cachekeeper.model.commands import Command, Expire, Persist
from lookups import SESSION, SessionEnded, read_session, save_session
from lookups.sessions import END_SESSION, TTL_SECONDS
from testkit.gates import Gate, threads
from testkit.limits import LONG, NO_REDIS, NOWHERE
from testkit.mutating import mutate
from testkit.shop import Shop
from tests.integration.lookups.sessions import ENDED, KEY, document, log_out, nobody_is_logged_in

# --- logging out ----------------------------------------------------------------------------------------------------


def test_a_session_that_has_ended_stays_so(shop: Shop) -> None:
    keeper = shop.keeper()
    save_session("s1", {"cart": [1]}, keeper=keeper)
    saved = document(shop)["version"]
    for _ in range(2):  # a logout may be delivered twice
        log_out(keeper)
        assert shop.redis.get(KEY) is None
        assert read_session("s1", keeper=keeper) is None
        with pytest.raises(SessionEnded):
            save_session("s1", {"cart": [2]}, keeper=keeper)
        shop.flush()
        assert read_session("s1", keeper=keeper) is None
        with pytest.raises(SessionEnded):
            save_session("s1", {"cart": [2]}, keeper=keeper)
        assert shop.redis.get(KEY) is None
    assert "data" not in document(shop)
    assert document(shop)["version"] > saved  # it is a change like any other


def test_a_second_logout_changes_nothing(shop: Shop) -> None:
    keeper = shop.keeper()
    save_session("s1", {"cart": [1]}, keeper=keeper)
    log_out(keeper)
    ended = document(shop)
    log_out(keeper)
    assert document(shop) == ended


def save_is_overtaken(shop: Shop, step: str, *, known: bool) -> BaseException | None:
    """save: MongoDB · logout, whole · save: Redis, from `step` on. How the save ends."""
    client = shop.client()
    keeper = shop.keeper()
    if known:
        save_session("s1", {"cart": [1]}, keeper=keeper)
    gate = Gate()
    client.before[step].append(gate)
    with threads() as go:
        save = go(save_session, "s1", {"cart": [2]}, keeper=shop.keeper(cache=client))
        gate.wait_for_arrival()
        assert document(shop)["data"] == {"cart": [2]}
        log_out(keeper)
        gate.open()
        ended = save.exception(LONG)
    nobody_is_logged_in(shop, keeper)
    return ended


@pytest.mark.parametrize("known", [True, False], ids=["over a session", "a new one"])
def test_a_logout_overtakes_a_save_on_its_way_to_redis(shop: Shop, known: bool) -> None:  # noqa: FBT001
    assert isinstance(save_is_overtaken(shop, "change", known=known), SessionEnded)


def test_a_logout_overtakes_a_save_that_has_left_its_marker(shop: Shop) -> None:
    assert isinstance(save_is_overtaken(shop, "acquire", known=False), SessionEnded)


def test_a_logout_overtakes_a_save_that_fills(shop: Shop) -> None:
    assert isinstance(save_is_overtaken(shop, "fill", known=False), SessionEnded)


def fill_is_overtaken(shop: Shop) -> None:
    """reader: load · logout, whole · reader: fill. What Node.js sees then."""
    client, keeper = shop.client(), shop.keeper()
    save_session("s1", {"cart": [1]}, keeper=keeper)
    shop.flush()
    gate = Gate()
    client.before["fill"].append(gate)
    with threads() as go:
        early = go(read_session, "s1", keeper=shop.keeper(cache=client))
        gate.wait_for_arrival()
        log_out(keeper)
        gate.open()
        assert early.result(LONG) == {"cart": [1]}  # it began before the logout was acknowledged
    assert shop.redis.get(KEY) is None
    nobody_is_logged_in(shop, keeper)


def test_a_logout_overtakes_a_reader_that_fills(shop: Shop) -> None:
    fill_is_overtaken(shop)


def test_the_lease_and_the_deadline_each_alone_would_stop_it(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    mutate(monkeypatch, "_FILL", "local left = room(ARGV[5], m[3], ARGV[7])", "local left = tonumber(ARGV[5])")
    fill_is_overtaken(shop)
    shop.flush()
    shop.db.sessions.delete_many({})
    mutate(monkeypatch, "_EXPIRE", "redis.call('HDEL', KEYS[2], 'l', 'lx')", "")
    with pytest.raises(AssertionError):
        fill_is_overtaken(shop)


def test_a_save_between_the_two_halves_of_a_logout_is_refused(shop: Shop) -> None:
    keeper = shop.keeper()
    save_session("s1", {"cart": [1]}, keeper=keeper)
    assert persist(keeper, [[ENDED]]) == [None]
    with pytest.raises(SessionEnded):
        save_session("s1", {"cart": [2]}, keeper=keeper)
    assert apply(keeper, [[Expire(SESSION, "s1")]])[0].error is None
    nobody_is_logged_in(shop, keeper)


def test_a_save_whose_second_half_falls_between_them_ends_with_the_logout(shop: Shop) -> None:
    client = shop.client()
    keeper = shop.keeper()
    save_session("s1", {"cart": [1]}, keeper=keeper)
    gate = Gate()
    client.before["change"].append(gate)
    with threads() as go:
        save = go(save_session, "s1", {"cart": [2]}, keeper=shop.keeper(cache=client))
        gate.wait_for_arrival()
        assert persist(keeper, [[ENDED]]) == [None]
        gate.open()
        save.result(LONG)
    assert shop.redis.get(KEY) is not None  # the logout is not acknowledged yet
    assert apply(keeper, [[Expire(SESSION, "s1")]])[0].error is None
    nobody_is_logged_in(shop, keeper)


def test_logouts_and_saves_at_once_end_in_a_logout(shop: Shop) -> None:
    """Of a session that nobody knew before: both upsert the same document."""
    keepers = [shop.keeper(watched=False) for _ in range(2)]
    with threads(8) as go:
        for each in range(15):
            part = f"s{each}"
            logout: list[Command] = [Persist(SESSION, part, END_SESSION), Expire(SESSION, part)]
            saves = [go(save_session, part, {"save": at}, keeper=keepers[at % 2]) for at in range(3)]
            logouts = [go(apply, keeper, [logout]) for keeper in keepers]
            for save in saves:
                assert isinstance(save.exception(LONG), SessionEnded | None)
            assert [result.error for done in logouts for result in done.result(LONG)] == [None, None]
            assert shop.redis.get(f"session:{part}") is None
            assert read_session(part, keeper=keepers[0]) is None
            assert shop.db.sessions.count_documents({"_id": part, "data": {"$exists": True}}) == 0


# --- foreign writes ---------------------------------------------------------------------------------------------------


def late_set_after_logout(shop: Shop) -> None:
    keeper = shop.keeper()
    save_session("s1", {"cart": [1]}, keeper=keeper)
    log_out(keeper)
    assert shop.redis.set(KEY, '{"cart": [1]}', ex=TTL_SECONDS)  # without XX, too late
    assert read_session("s1", keeper=keeper) is None
    assert shop.redis.get(KEY) is None  # and nobody else sees it any more


def test_a_foreign_late_save_does_not_raise_a_session_that_has_ended(shop: Shop) -> None:
    late_set_after_logout(shop)


@pytest.mark.parametrize(
    ("script", "good", "bad"),
    [
        ("_READ_UNTIL", "if d and tonumber(d) <= clock() then", "if false then"),
        ("_EXPIRE", "redis.call('HSET', KEYS[2], 'd', digits(at))", ""),
    ],
    ids=["read ignores it", "no deadline"],
)
def test_without_the_deadline_it_does(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, script: str, good: str, bad: str
) -> None:
    mutate(monkeypatch, script, good, bad)
    with pytest.raises(AssertionError):
        late_set_after_logout(shop)


def test_the_deadline_is_remembered_longer_than_any_write_can_be_late(shop: Shop) -> None:
    keeper = shop.keeper(redelivery_seconds=100)
    log_out(keeper)
    assert 2 * TTL_SECONDS + 95 < shop.redis.ttl(f"{{{KEY}}}:meta") <= 2 * TTL_SECONDS + 100


def test_a_session_that_only_redis_knew_can_be_logged_out(shop: Shop) -> None:
    keeper = shop.keeper()
    shop.redis.set(KEY, '{"by": "node"}', ex=TTL_SECONDS)
    log_out(keeper)
    assert shop.redis.get(KEY) is None
    assert read_session("s1", keeper=keeper) is None
    shop.flush()
    with pytest.raises(SessionEnded):
        save_session("s1", {"by": "us"}, keeper=keeper)


def test_without_redis_an_ended_session_is_not_served(shop: Shop) -> None:
    keeper = shop.keeper()
    save_session("s1", {"cart": [1]}, keeper=keeper)
    log_out(keeper)
    with pytest.raises(CacheUnavailable):  # perhaps Node.js has saved another one; nobody can know
        read_session("s1", keeper=shop.keeper(redis_url=NOWHERE, **NO_REDIS))
