"""The reader on real servers: its races brought about step by step, and for each guarantee a variant that breaks it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from cachekeeper import Codec, Document, View
from cachekeeper.errors import DamagedDocument, DatabaseBehind, ViewFailed
from cachekeeper.protocol import Value, new_nonce, scripts
from cachekeeper.protocol.outcomes import Acquired, Filled
from cachekeeper.reading.core import Start, Target
from cachekeeper.reading.singleflight import Flight
from cachekeeper.reading.sync import SyncReader
from cachekeeper.values.codecs import Text
from lookups import USER_NAME, read_user
from testkit.counting import counted
from testkit.gates import Gate, opened, threads
from testkit.limits import LONG, ONE_SECOND, SLACK
from testkit.mutating import mutate
from testkit.shop import Shop, changed_user, meta, put_user
from testkit.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable


T = USER_NAME.template
KEY = T.key("1")


# --- a fill that began before a change ------------------------------------------------------------------------------


def load_is_overtaken_by(shop: Shop, version: int | None, *, started: int | None = 1) -> None:
    """reader: acquire, load old · event: commit, apply, acknowledge · reader: fill · a later reader."""
    put_user(shop, "old", started)
    keeper, worker = shop.keeper(), shop.keeper()
    has_read = Gate()
    shop.reads.after.append(has_read)
    with threads() as go:
        early = go(read_user, 1, keeper=keeper)
        has_read.wait_for_arrival()
        put_user(shop, "new", version)
        changed_user(worker, "new", version)
        has_read.open()
        assert early.result(LONG) == "old"  # it began before the change was acknowledged
    assert shop.redis.get(KEY) in (None, b"new")
    assert read_user(1, keeper=keeper) == "new"
    assert shop.redis.get(KEY) == b"new"


@pytest.mark.parametrize("version", [2, None], ids=["versioned", "unversioned"])
@pytest.mark.parametrize("started", [1, None], ids=["from versioned", "from unversioned"])
def test_a_fill_that_began_before_a_change_does_not_land(shop: Shop, version: int | None, started: int | None) -> None:
    load_is_overtaken_by(shop, version, started=started)


@pytest.mark.parametrize(
    ("version", "script", "good", "bad"),
    [
        (None, "_FILL", "if m[1] ~= ARGV[1] then return {'lost'} end", ""),
        (None, "_INVALIDATE", "redis.call('DEL', KEYS[2])", "redis.call('HDEL', KEYS[2], 'v', 'ax')"),
    ],
    ids=["fill without lease", "invalidate keeps the lease"],
)
def test_without_the_lease_it_lands(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, version: int | None, script: str, good: str, bad: str
) -> None:
    mutate(monkeypatch, script, good, bad)
    with pytest.raises(AssertionError):
        load_is_overtaken_by(shop, version)


# --- a late reader and an old load ----------------------------------------------------------------------------------


def late_reader_meets_old_load(shop: Shop, arrivals: list[str], version: int | None, started: int | None = 1) -> None:
    """Like above, but the later reader comes while the old load is still in the air, in the same process."""
    put_user(shop, "old", started)
    keeper = shop.keeper()
    has_read = Gate()
    shop.reads.after.append(has_read)
    with threads() as go:
        early = go(read_user, 1, keeper=keeper)
        has_read.wait_for_arrival()
        put_user(shop, "new", version)
        changed_user(keeper, "new", version)
        late = go(read_user, 1, keeper=keeper)
        wait_until(
            lambda: late.done() or "flight" in arrivals, "the late reader has its answer, or waits for another's"
        )
        has_read.open()
        assert late.result(LONG) == "new"
        assert early.result(LONG) == "old"
    assert shop.redis.get(KEY) == b"new"
    assert shop.reads.count == 2


@pytest.mark.parametrize("version", [2, None], ids=["versioned", "unversioned"])
def test_a_late_reader_never_joins_an_old_load(shop: Shop, arrivals: list[str], version: int | None) -> None:
    late_reader_meets_old_load(shop, arrivals, version)


def one_flight_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """The usual single flight: whoever asks for a key joins whatever load of it is in the air."""
    flights: dict[str, Flight] = {}
    drive = SyncReader._drive

    def joining(self: SyncReader, reading: Any, target: Target[Any], ttl_ms: int) -> Any:
        if target.key in flights:
            return flights[target.key].wait(LONG)
        flight = flights[target.key] = Flight()
        found: Any = drive(self, reading, target, ttl_ms)
        flight.land(found)
        return found

    monkeypatch.setattr(SyncReader, "_drive", joining)


@pytest.mark.parametrize("version", [2, None], ids=["versioned", "unversioned"])
def test_a_single_flight_by_key_hands_it_the_old_value(
    shop: Shop, arrivals: list[str], monkeypatch: pytest.MonkeyPatch, version: int | None
) -> None:
    one_flight_a_key(monkeypatch)
    with pytest.raises(AssertionError, match="assert 'old' == 'new'"):
        late_reader_meets_old_load(shop, arrivals, version)


@pytest.mark.parametrize(
    ("version", "started", "script", "good", "bad"),
    [
        # Where the old document has a version, the marker would still refuse its fill.
        (2, None, "_CHANGE", "redis.call('HDEL', KEYS[2], 'l', 'lx', 'ax')", "redis.call('HDEL', KEYS[2], 'ax')"),
        (None, 1, "_INVALIDATE", "redis.call('DEL', KEYS[2])", "redis.call('HDEL', KEYS[2], 'v', 'ax')"),
    ],
    ids=["change", "invalidate"],
)
def test_an_event_that_spares_the_lease_lets_it_join(
    shop: Shop,
    arrivals: list[str],
    monkeypatch: pytest.MonkeyPatch,
    version: int | None,
    started: int | None,
    script: str,
    good: str,
    bad: str,
) -> None:
    mutate(monkeypatch, script, good, bad)
    with pytest.raises(AssertionError, match="assert 'old' == 'new'"):
        late_reader_meets_old_load(shop, arrivals, version, started)


# --- a load that is older than what an event has announced ----------------------------------------------------------


def database_catches_up(shop: Shop) -> None:
    """The event is there before the database: a deposed primary, or a producer that publishes too early."""
    put_user(shop, "old", 4)
    keeper = shop.keeper()
    changed_user(keeper, "new", 5)
    assert meta(shop, T, "1") == {b"v": b"5"}  # the marker
    again = Gate()
    shop.reads.before.extend([opened(), again])
    with threads() as go, counted() as seen:
        reader = go(read_user, 1, keeper=keeper)
        wait_until(lambda: again.reached or reader.done(), "it loads again, or answers")
        assert not reader.done(), "it was content with the old value"
        assert shop.redis.get(KEY) is None
        put_user(shop, "new", 5)
        again.open()
        assert reader.result(LONG) == "new"
    assert seen["stale_load"] == 1
    assert shop.reads.count == 2
    assert shop.redis.get(KEY) == b"new"


def test_a_load_older_than_an_announced_version_is_refused_and_done_again(shop: Shop) -> None:
    database_catches_up(shop)


def test_without_the_marker_it_lands(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    mutate(monkeypatch, "_FILL", "return {'stale', m[2]}", "")
    with pytest.raises(AssertionError, match="content with the old value"):
        database_catches_up(shop)


def test_a_database_that_stays_behind_is_a_typed_error_within_the_limit(shop: Shop) -> None:
    put_user(shop, "old", 4)
    keeper = shop.keeper(**ONE_SECOND)
    changed_user(keeper, "new", 5)
    started = time.monotonic()
    with pytest.raises(DatabaseBehind, match=r"view user_name: .* version 5, .* has 4.*without a version"):
        read_user(1, keeper=keeper)
    assert time.monotonic() - started < keeper.settings.lookup_timeout_seconds + SLACK
    assert shop.redis.get(KEY) is None
    put_user(shop, "new", 5)
    assert read_user(1, keeper=keeper) == "new"


def test_an_event_without_a_version_cures_a_database_that_stays_behind(shop: Shop) -> None:
    """A restored backup, say."""
    put_user(shop, "restored", 4)
    keeper = shop.keeper(**ONE_SECOND)
    changed_user(keeper, "lost", 5)
    with pytest.raises(DatabaseBehind):
        read_user(1, keeper=keeper)
    changed_user(keeper, "restored")
    assert read_user(1, keeper=keeper) == "restored"
    assert shop.redis.get(KEY) == b"restored"


def test_a_document_that_loses_its_version_is_cached_again(shop: Shop) -> None:
    put_user(shop, "versioned", 4)
    keeper = shop.keeper()
    changed_user(keeper, "versioned", 4)
    put_user(shop, "unversioned")
    changed_user(keeper, "unversioned")
    assert read_user(1, keeper=keeper) == "unversioned"
    assert meta(shop, T, "1") == {}
    changed_user(keeper, "late", 3)  # a redelivery: it must not stand
    assert read_user(1, keeper=keeper) == "unversioned"


# --- a lease holder that dies ---------------------------------------------------------------------------------------


def hold(shop: Shop, lease_ms: int) -> str:
    """Another process takes the lease, and is killed."""
    nonce = new_nonce()
    assert shop.keeper().store(USER_NAME.server).run(scripts.acquire(KEY, nonce, lease_ms=lease_ms)) is Acquired.GRANTED
    return nonce


def test_a_dead_holders_lease_is_waited_out(shop: Shop) -> None:
    put_user(shop, "Ann", 1)
    keeper = shop.keeper()
    started = time.monotonic()  # before the lease, which begins in Redis
    nonce = hold(shop, 300)
    assert read_user(1, keeper=keeper) == "Ann"
    assert 0.29 < time.monotonic() - started < 5  # Redis counts milliseconds
    assert shop.redis.get(KEY) == b"Ann"
    assert shop.reads.count == 1
    # It was not dead after all, only slow: its fill comes too late.
    late = scripts.fill(KEY, nonce, Value(b"old", 0), ttl_ms=1000, marker_ms=1000)
    assert keeper.store(USER_NAME.server).run(late) is Filled.LEASE_LOST
    assert shop.redis.get(KEY) == b"Ann"


def test_where_the_lease_outlasts_the_lookup_mongodb_is_asked_and_nothing_is_filled(shop: Shop) -> None:
    put_user(shop, "Ann", 1)
    keeper = shop.keeper(**ONE_SECOND)
    nonce = hold(shop, 60_000)
    started = time.monotonic()
    assert read_user(1, keeper=keeper) == "Ann"
    elapsed = time.monotonic() - started
    # One load must still fit; not earlier, or everybody would load, and not later than the limit.
    one_load = keeper.settings.load_timeout_seconds + 2 * keeper.settings.redis_timeout_seconds
    limit = keeper.settings.lookup_timeout_seconds
    assert limit - one_load - 0.05 < elapsed < limit + SLACK
    assert shop.redis.get(KEY) is None
    assert meta(shop, T, "1")[b"l"] == nonce.encode()


def test_a_holder_whose_load_fails_gives_the_lease_back(shop: Shop) -> None:
    shop.db.users.insert_one({"_id": 1, "name": 5})
    keeper = shop.keeper()
    for _ in range(2):
        started = time.monotonic()
        with pytest.raises(DamagedDocument):
            read_user(1, keeper=keeper)
        assert time.monotonic() - started < 5
    assert b"l" not in meta(shop, T, "1")


def test_so_does_one_whose_view_has_a_bug(shop: Shop) -> None:
    def value(document: Any) -> object:
        return document["nmae"]

    broken: View[str] = View(
        name="broken",
        key="broken:{id}",
        ttl_seconds=60,
        codec=Text(),
        loader=Document("users", value, fields=("name",)),
    )
    put_user(shop, "Ann")
    keeper = shop.keeper()
    for _ in range(2):
        with pytest.raises(ViewFailed, match="view broken: its loader raised KeyError"):
            keeper.read(broken, 1)
    assert shop.redis.keys("*") == []


# --- small things ---------------------------------------------------------------------------------------------------


def test_scripts_that_the_server_forgot_are_sent_again(shop: Shop) -> None:
    put_user(shop, "Ann", 1)
    keeper = shop.keeper()
    assert read_user(1, keeper=keeper) == "Ann"
    shop.flush()
    shop.redis.script_flush()
    assert read_user(1, keeper=keeper) == "Ann"
    assert shop.redis.get(KEY) == b"Ann"


def test_metadata_may_vanish_at_any_time(shop: Shop) -> None:
    put_user(shop, "old", 1)
    keeper = shop.keeper()
    assert read_user(1, keeper=keeper) == "old"
    shop.redis.delete(f"{{{KEY}}}:meta")
    assert read_user(1, keeper=keeper) == "old"
    assert shop.reads.count == 1
    put_user(shop, "new", 2)
    changed_user(keeper, "new", 2)
    assert shop.redis.get(KEY) is None  # over a K of unknown version nothing is written
    assert read_user(1, keeper=keeper) == "new"


def test_what_a_reader_finds_damaged_it_does_not_return(shop: Shop) -> None:
    """A hit is decoded; and where that fails, `find` is told so."""
    starts = []
    find = SyncReader.find

    def spying(self: SyncReader, target: Target[Any], ttl_ms: int, start: Start, began: float) -> Any:
        starts.append(start)
        return find(self, target, ttl_ms, start, began)

    put_user(shop, "Ann", 1)
    shop.redis.set(KEY, b"\xff")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SyncReader, "find", spying)
        assert read_user(1, keeper=shop.keeper()) == "Ann"
    assert starts == [Start.DAMAGED]


def test_views_of_ones_own_are_read_like_the_shipped_ones(shop: Shop) -> None:
    class Shouted(Text):
        def decode(self, raw: bytes) -> str:
            return super().decode(raw).upper()

    codec: Codec[str] = Shouted()
    loader = Document("users", lambda document: document["name"], fields=("name",))
    view = View(name="shouted", key="shouted:{id}", ttl_seconds=60, codec=codec, loader=loader)
    put_user(shop, "Ann")
    keeper = shop.keeper()
    read: Callable[[], object] = lambda: keeper.read(view, 1)  # noqa: E731
    assert [read(), read()] == ["ANN", "ANN"]
    assert shop.redis.get("shouted:1") == b"Ann"
    assert shop.reads.count == 1
