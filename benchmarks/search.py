"""The cost of invalidating searches: independent of how many are cached, and bounded by the length of the name."""

from __future__ import annotations

import random
import string
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median

from cachekeeper.devservers import Guardian, RedisServer, find_redis
from cachekeeper.protocol import Registration, Store, Value, scripts
from cachekeeper.protocol.outcomes import Acquired, Filled
from cachekeeper.protocol.store import substrings
from lookups import SEARCH
from testkit.report import Figure, at_most, plain, ratio, rounds, store

SEED = 7
LIMIT = 64
LEASE_MS = 10_000
LIFE_MS = LEASE_MS + round(SEARCH.ttl_seconds * 1000)
FEW, MANY = 1_000, 1_000_000
MATCHES = 20
ROUNDS = 100
BLIND_TARGET = 1.5
BLIND_LENGTHS = (20, 60)
LENGTH_TARGETS = {20: None, 60: 80, 200: 400}


def main() -> bool:
    """Measure, and return whether all targets were met."""
    found = find_redis()
    with Guardian() as guardian:
        few, many = RedisServer(guardian, found, name="few"), RedisServer(guardian, found, name="many")
        few.start()
        many.start()
        try:
            figures = [*_blind(few, many), *_lengths(few)]
        finally:
            few.stop()
            many.stop()
    return store("search_invalidation", figures, [found], SEED)


def _blind(few: RedisServer, many: RedisServer) -> list[Figure]:
    """Measure the same name, with the same number of matches, among few and among many cached searches."""
    rng = random.Random(SEED)
    names = {length: _name(rng, length) for length in BLIND_LENGTHS}
    stores = {}
    for server, count in ((few, FEW), (many, MANY)):
        stores[count] = Store(server.client(timeout=60))
        _fill(stores[count], rng, count, avoid=" ".join(names.values()))
    figures = [figure for length, name in names.items() for figure in _blind_for(stores, length, name, rng)]
    # Last, because deleting a filter loses its contents.
    for there in stores.values():
        there.client.delete(SEARCH.filter_key)
    figures += [
        figure for length, name in names.items() for figure in _blind_for(stores, length, name, rng, believed=False)
    ]
    for there in stores.values():
        there.client.close()
    return figures


def _blind_for(
    stores: dict[int, Store], length: int, name: str, rng: random.Random, *, believed: bool = True
) -> list[Figure]:
    """Measure one name. `believed=False`: as in the first minutes after a flush or an eviction.

    In those minutes changes do not use the new filter yet.
    """
    matching = rng.sample(list(substrings([name], LIMIT)), MATCHES)

    def cache_matches(count: str) -> None:
        _cache(stores[int(count)], matching)

    contenders = {str(n): partial(_invalidate, stores[n], name) for n in stores}
    seconds = rounds(contenders, count=ROUNDS, prepare=cache_matches)
    for count, there in stores.items():
        assert there.client.dbsize() == count + 1, "only the matches must be gone; the filter is one key more"
        assert not any(there.client.exists(f"search:{text}") for text in matching), "a match is still cached"
    said = f"invalidation by a name of {length} characters, {MATCHES} matches"
    if not believed:
        said += ", just after the filter was evicted"
    value = ratio(seconds, str(MANY), str(FEW))
    ratio_said = f"{said}: at {MANY:,} cached searches to the same at {FEW:,}"
    return [
        at_most(ratio_said, value, BLIND_TARGET) if believed else plain(ratio_said, value),
        *(
            plain(f"{said}: at {count:,} cached searches", median(seconds[str(count)]) * 1e3, "milliseconds")
            for count in stores
        ),
    ]


def _fill(store: Store, rng: random.Random, count: int, *, avoid: str) -> None:
    """Cache `count` searches whose texts do not occur in `avoid`."""
    texts: set[str] = set()
    while len(texts) < count:
        text = "".join(rng.choices(string.ascii_lowercase, k=rng.randint(5, 12)))
        if text not in avoid:
            texts.add(text)
    ordered = list(texts)
    # Twice: when the filter grows, it is made anew, and then knows only the searches that come later. In production the
    # earlier searches have expired by the time that changes use the filter.
    for _ in range(2):
        for at in range(0, count, 5000):
            _cache(store, ordered[at : at + 5000])
    _grow_old(store)


def _grow_old(store: Store) -> None:
    """Make the filter as old as a search can be cached: from that age on, changes use it."""
    store.client.setrange(SEARCH.filter_key, 0, "0" * 20)  # the time from which it is used


def _cache(store: Store, texts: Sequence[str]) -> None:
    """Cache searches as readers do: register each with its lease, then fill it."""
    acquires = [
        scripts.acquire(
            SEARCH.template.key(text),
            "benchmark",
            lease_ms=LEASE_MS,
            refresh=True,
            registration=Registration(SEARCH.filter_key, text, LIFE_MS),
        )
        for text in texts
    ]
    assert set(store.run_all(acquires)) == {Acquired.GRANTED}
    fills = [
        scripts.fill(
            SEARCH.template.key(text),
            "benchmark",
            Value(f'[{{"_id":1,"name":"{text}"}}]'.encode(), None),
            ttl_ms=86_400_000,  # they outlive the run
            marker_ms=LIFE_MS,
        )
        for text in texts
    ]
    assert set(store.run_all(fills)) == {Filled.STORED}


def _invalidate(store: Store, name: str) -> None:
    store.invalidate_within(SEARCH.template, LIMIT, [name], filter_key=SEARCH.filter_key)


def _lengths(server: RedisServer) -> list[Figure]:
    """Measure one name of each length, beside the smallest script call. Without the filter, which is the worst case."""
    rng = random.Random(SEED)
    client = server.client(timeout=60)
    client.delete(SEARCH.filter_key)
    redis = Store(client)
    names = {length: _name(rng, length) for length in LENGTH_TARGETS}

    def once() -> None:
        redis.run(scripts.read_until("nothing:here"))

    contenders: dict[str, Callable[[], None]] = {"one EVALSHA": once}
    for length, name in names.items():
        contenders[str(length)] = partial(_invalidate, redis, name)
    seconds = rounds(contenders, count=ROUNDS)
    figures = []
    for length, name in names.items():
        times = ratio(seconds, str(length), "one EVALSHA")
        said = f"name of {length} characters, every text in it looked for, to one EVALSHA round trip"
        target = LENGTH_TARGETS[length]
        figures.append(plain(said, times) if target is None else at_most(said, times, target))
        figures.append(plain(f"name of {length} characters, sent", _sent(redis, name), "bytes"))
        figures.append(plain(f"name of {length} characters, distinct texts in it", len(substrings([name], LIMIT))))
    client.close()
    return figures


def _sent(store: Store, name: str) -> int:
    """Return how many bytes the invalidation sends."""
    connection = store.client.connection_pool.get_connection()
    try:
        calls = [
            ("EVALSHA", step.script.sha, len(step.keys), *step.keys, *step.args)
            for step in scripts.invalidate_within(SEARCH.template, LIMIT, [name], filter_key=SEARCH.filter_key)
        ]
        packed = [part for call in calls for part in connection.pack_command(*call)]  # type: ignore[no-untyped-call]
        return sum(map(len, packed))
    finally:
        store.client.connection_pool.release(connection)


def _name(rng: random.Random, length: int) -> str:
    """Return a name with hardly any repetition, so with about as many distinct substrings as its length allows."""
    return "".join(rng.choices(string.ascii_lowercase + string.digits + " ", k=length))
