"""The reader on real servers: its races brought about step by step, and for each guarantee a variant that breaks it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from cachekeeper import Codec, Document, View
from cachekeeper.applying import apply
from cachekeeper.codecs import Text
from cachekeeper.commands import Invalidate, Write
from cachekeeper.database import DatabaseReads
from cachekeeper.errors import DamagedDocument, DatabaseBehind
from cachekeeper.reader.core import Start, Target
from cachekeeper.reader.flights import Flight, SharedFlights
from cachekeeper.reader.sync import SyncReader
from cachekeeper.store import Value, new_nonce, steps
from cachekeeper.store.outcomes import Acquired, Filled
from lookups import USER_NAME, read_user
from tests.shop import LONG, QUICK, SLACK, Gate, Shop, counted, meta, mutate, opened, threads
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from cachekeeper.keeper import Keeper
    from cachekeeper.loaders import Absent

T = USER_NAME.template
KEY = T.key("1")


def put(shop: Shop, name: str, version: int | None = None) -> None:
    """What an upstream service does to its document."""
    fields: dict[str, Any] = {"name": name} if version is None else {"name": name, "version": version}
    shop.db.users.replace_one({"_id": 1}, fields, upsert=True)


def changed(keeper: Keeper, name: str, version: int | None = None) -> None:
    """The event about it; acknowledged when this returns."""
    command = Invalidate(USER_NAME, "1") if version is None else Write(USER_NAME, "1", name, version)
    assert [result.error for result in apply(keeper, [[command]])] == [None]


@pytest.fixture
def arrivals(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Who has come where he waits for others: `flight` for somebody else's load, `slot` for a read of MongoDB."""
    seen: list[str] = []
    wait, slot = Flight.wait, DatabaseReads.slot

    def telling_wait(self: Flight, seconds: float) -> Value | Absent | None:
        seen.append("flight")
        return wait(self, seconds)

    def telling_slot(self: DatabaseReads, patience: float) -> Any:
        seen.append("slot")
        return slot(self, patience)

    monkeypatch.setattr(Flight, "wait", telling_wait)
    monkeypatch.setattr(DatabaseReads, "slot", telling_slot)
    return seen


# --- a fill that began before a change ------------------------------------------------------------------------------


def load_is_overtaken_by(shop: Shop, version: int | None, *, started: int | None = 1) -> None:
    """reader: acquire, load old · event: commit, apply, acknowledge · reader: fill · a later reader."""
    put(shop, "old", started)
    keeper, worker = shop.keeper(), shop.keeper()
    has_read = Gate()
    shop.reads.after.append(has_read)
    with threads() as go:
        early = go(read_user, 1, keeper=keeper)
        has_read.wait_for_arrival()
        put(shop, "new", version)
        changed(worker, "new", version)
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
    put(shop, "old", started)
    keeper = shop.keeper()
    has_read = Gate()
    shop.reads.after.append(has_read)
    with threads() as go:
        early = go(read_user, 1, keeper=keeper)
        has_read.wait_for_arrival()
        put(shop, "new", version)
        changed(keeper, "new", version)
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
    put(shop, "old", 4)
    keeper = shop.keeper()
    changed(keeper, "new", 5)
    assert meta(shop, T, "1") == {b"v": b"5"}  # the marker
    again = Gate()
    shop.reads.before.extend([opened(), again])
    with threads() as go, counted() as seen:
        reader = go(read_user, 1, keeper=keeper)
        wait_until(lambda: again.reached or reader.done(), "it loads again, or answers")
        assert not reader.done(), "it was content with the old value"
        assert shop.redis.get(KEY) is None
        put(shop, "new", 5)
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
    put(shop, "old", 4)
    keeper = shop.keeper(**QUICK)
    changed(keeper, "new", 5)
    started = time.monotonic()
    with pytest.raises(DatabaseBehind, match="view user_name"):
        read_user(1, keeper=keeper)
    assert time.monotonic() - started < QUICK["lookup_timeout_seconds"] + SLACK
    assert shop.redis.get(KEY) is None
    put(shop, "new", 5)
    assert read_user(1, keeper=keeper) == "new"


def test_a_document_that_loses_its_version_is_cached_again(shop: Shop) -> None:
    put(shop, "versioned", 4)
    keeper = shop.keeper()
    changed(keeper, "versioned", 4)
    put(shop, "unversioned")
    changed(keeper, "unversioned")
    assert read_user(1, keeper=keeper) == "unversioned"
    assert meta(shop, T, "1") == {}
    changed(keeper, "late", 3)  # a redelivery: it must not stand
    assert read_user(1, keeper=keeper) == "unversioned"


# --- a lease holder that dies ---------------------------------------------------------------------------------------


def hold(shop: Shop, lease_ms: int) -> str:
    """Another process takes the lease, and is killed."""
    nonce = new_nonce()
    assert shop.keeper().store(USER_NAME.server).run(steps.acquire(KEY, nonce, lease_ms=lease_ms)) is Acquired.GRANTED
    return nonce


def test_a_dead_holders_lease_is_waited_out(shop: Shop) -> None:
    put(shop, "Ann", 1)
    keeper = shop.keeper()
    nonce = hold(shop, 300)
    started = time.monotonic()
    assert read_user(1, keeper=keeper) == "Ann"
    assert 0.2 < time.monotonic() - started < 5
    assert shop.redis.get(KEY) == b"Ann"
    assert shop.reads.count == 1
    # It was not dead after all, only slow: its fill comes too late.
    late = steps.fill(KEY, nonce, Value(b"old", 0), ttl_ms=1000, marker_ms=1000)
    assert keeper.store(USER_NAME.server).run(late) is Filled.LEASE_LOST
    assert shop.redis.get(KEY) == b"Ann"


def test_where_the_lease_outlasts_the_lookup_mongodb_is_asked_and_nothing_is_filled(shop: Shop) -> None:
    put(shop, "Ann", 1)
    keeper = shop.keeper(**QUICK)
    nonce = hold(shop, 60_000)
    started = time.monotonic()
    assert read_user(1, keeper=keeper) == "Ann"
    # One load must still fit; not earlier, or everybody would load, and not later than the limit.
    one_load = QUICK["load_timeout_seconds"] + 2 * QUICK["redis_timeout_seconds"]
    assert QUICK["lookup_timeout_seconds"] - one_load - 0.05 < time.monotonic() - started
    assert time.monotonic() - started < QUICK["lookup_timeout_seconds"] + SLACK
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
    put(shop, "Ann")
    keeper = shop.keeper()
    for _ in range(2):
        with pytest.raises(KeyError):
            keeper.read(broken, 1)
    assert shop.redis.keys("*") == []


# --- herds ----------------------------------------------------------------------------------------------------------


def herd(shop: Shop, processes: int, readers: int) -> None:
    """So many readers of so many processes miss one key at once; the load ends when all have come."""
    put(shop, "Ann", 1)
    clients = [shop.client() for _ in range(processes)]
    keepers = [shop.keeper(cache=client) for client in clients]
    first = Gate()
    shop.reads.before.append(first)
    with threads(processes * readers) as go:
        names = [go(read_user, 1, keeper=keeper) for keeper in keepers for _ in range(readers)]
        first.wait_for_arrival()
        try:
            wait_until(
                lambda: shop.reads.count > 1 or all(each.counted["acquire"] >= readers for each in clients),
                "all have come, or somebody loads, too",
            )
        finally:
            first.open()
        assert {name.result(LONG) for name in names} == {"Ann"}
    assert shop.reads.count == 1


def test_fifty_misses_in_one_process_cost_one_read(shop: Shop) -> None:
    herd(shop, 1, 50)


def test_fifty_misses_in_two_processes_cost_one_read(shop: Shop) -> None:
    herd(shop, 2, 25)


def test_without_leases_they_cost_more(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    mutate(monkeypatch, "_ACQUIRE", "return {'taken', m[1], tonumber(m[2]) - now}", "")
    with pytest.raises(AssertionError):
        herd(shop, 1, 10)


def test_an_error_is_shared_like_a_value(shop: Shop) -> None:
    shop.db.users.insert_one({"_id": 1, "name": 5})
    client = shop.client()
    keeper = shop.keeper(cache=client)
    first = Gate()
    shop.reads.before.append(first)
    with threads() as go:
        names = [go(read_user, 1, keeper=keeper) for _ in range(8)]
        first.wait_for_arrival()
        wait_until(lambda: client.counted["acquire"] == 8, "all have come", 10)
        first.open()
        for name in names:
            with pytest.raises(DamagedDocument):
                name.result(LONG)
    assert shop.reads.count == 1


# --- loads without a lease ------------------------------------------------------------------------------------------


def outage(shop: Shop, arrivals: list[str]) -> None:
    """Redis is away, one read may run at a time. X holds it; A and B wait; A reads old; C comes after the change."""
    put(shop, "old")
    shop.db.users.insert_one({"_id": 2, "name": "Bob"})
    keeper = shop.keeper(redis_url="redis://127.0.0.1:1/0", load_concurrency=1)
    slot_is_held, has_read_old = Gate(), Gate()
    shop.reads.before.append(slot_is_held)
    shop.reads.after.extend([opened(), has_read_old])
    with threads() as go:
        try:
            x = go(read_user, 2, keeper=keeper)
            slot_is_held.wait_for_arrival()
            a, b = (go(read_user, 1, keeper=keeper) for _ in range(2))
            wait_until(lambda: sorted(arrivals) == ["flight", "slot", "slot"], "one of them leads, one waits for it")
            slot_is_held.open()
            has_read_old.wait_for_arrival()
            put(shop, "new")
            c = go(read_user, 1, keeper=keeper)
            wait_until(lambda: len(arrivals) == 4, "the third waits, whatever for")
        finally:
            slot_is_held.open()
            has_read_old.open()
        assert x.result(LONG) == "Bob"
        assert (a.result(LONG), b.result(LONG)) == ("old", "old")
        assert c.result(LONG) == "new"
    assert shop.reads.count == 3
    assert shop.reads.most_at_once == 1


def test_in_an_outage_a_load_is_shared_by_those_who_came_before_it_began(shop: Shop, arrivals: list[str]) -> None:
    outage(shop, arrivals)


def test_one_that_is_joined_after_it_began_answers_with_the_past(
    shop: Shop, arrivals: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SharedFlights, "_begin", lambda *_: None)
    with pytest.raises(AssertionError, match="assert 'old' == 'new'"):
        outage(shop, arrivals)


# --- small things ---------------------------------------------------------------------------------------------------


def test_scripts_that_the_server_forgot_are_sent_again(shop: Shop) -> None:
    put(shop, "Ann", 1)
    keeper = shop.keeper()
    assert read_user(1, keeper=keeper) == "Ann"
    shop.flush()
    shop.redis.script_flush()
    assert read_user(1, keeper=keeper) == "Ann"
    assert shop.redis.get(KEY) == b"Ann"


def test_metadata_may_vanish_at_any_time(shop: Shop) -> None:
    put(shop, "old", 1)
    keeper = shop.keeper()
    assert read_user(1, keeper=keeper) == "old"
    shop.redis.delete(f"{{{KEY}}}:meta")
    assert read_user(1, keeper=keeper) == "old"
    assert shop.reads.count == 1
    put(shop, "new", 2)
    changed(keeper, "new", 2)
    assert shop.redis.get(KEY) is None  # over a K of unknown version nothing is written
    assert read_user(1, keeper=keeper) == "new"


def test_what_a_reader_finds_damaged_it_does_not_return(shop: Shop) -> None:
    """A hit is decoded; and where that fails, `find` is told so."""
    starts = []
    find = SyncReader.find

    def spying(self: SyncReader, target: Target[Any], ttl_ms: int, start: Start) -> Any:
        starts.append(start)
        return find(self, target, ttl_ms, start)

    put(shop, "Ann", 1)
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
    put(shop, "Ann")
    keeper = shop.keeper()
    read: Callable[[], object] = lambda: keeper.read(view, 1)  # noqa: E731
    assert [read(), read()] == ["ANN", "ANN"]
    assert shop.redis.get("shouted:1") == b"Ann"
    assert shop.reads.count == 1
