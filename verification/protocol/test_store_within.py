"""Invalidate every text that occurs in a name, and no other, cached or in flight; on every server.

Each test runs twice: with a filter of registered texts that is used, and after the filter was evicted.
"""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cachekeeper.protocol import Registration, Value, scripts
from cachekeeper.protocol.outcomes import Acquired, Filled
from cachekeeper.protocol.scripts import STARTS_PER_CALL
from cachekeeper.values.fold import escape_braces
from cachekeeper.values.keys import Template, meta_key
from verification.protocol.store_lab import LEASE, MARKER, TTL, StoreLab

TEMPLATE = Template("search:", ":v1")
LIMIT = 64
FILTER = "cachekeeper:search-texts"
LIFE = LEASE + TTL

pytestmark = pytest.mark.parametrize("believed", [True, False], ids=["believed", "evicted"])


def key(text: str) -> str:
    return TEMPLATE.key(escape_braces(text))


def acquire(text: str, *, refresh: bool = False) -> scripts.Step[object]:
    registration = Registration(FILTER, text, LIFE)
    return scripts.acquire(key(text), "mine", lease_ms=LEASE, refresh=refresh, registration=registration)


def occurring(names: list[str], limit: int = LIMIT) -> set[str]:
    """Return the texts that occur in a name, found in the simplest way."""
    return {
        name[first:last]
        for name in names
        for first in range(len(name))
        for last in range(first + 1, len(name) + 1)
        if last - first <= limit
    }


def cache(lab: StoreLab, texts: set[str], *, believed: bool) -> None:
    """Write a value and metadata for each text, and register it."""
    pipe = lab.client.pipeline(transaction=False)
    for text in texts:
        pipe.set(key(text), "[]")
        pipe.hset(meta_key(key(text)), "v", 1)
    pipe.execute()
    lab.client.delete(FILTER)  # its size depends on the number of keys
    assert set(lab.store.run_all([acquire(text, refresh=True) for text in texts])) == {Acquired.GRANTED}
    settle(lab, believed=believed)


def settle(lab: StoreLab, *, believed: bool) -> None:
    """Make the filter old enough to be used, or delete it."""
    if believed:
        lab.client.setrange(FILTER, 0, "0" * 20)
    else:
        lab.client.delete(FILTER)


def left(lab: StoreLab, texts: set[str]) -> set[str]:
    """Return the texts that have a value or metadata."""
    every = sorted(texts)
    pipe = lab.client.pipeline(transaction=False)
    for text in every:
        pipe.exists(key(text))
        pipe.exists(meta_key(key(text)))
    answers = pipe.execute()
    return {text for at, text in enumerate(every) if any(answers[2 * at : 2 * at + 2])}


def invalidate(lab: StoreLab, *names: str, limit: int = LIMIT) -> None:
    lab.store.invalidate_within(TEMPLATE, limit, names, filter_key=FILTER)


def test_what_occurs_goes_and_nothing_else(store_lab: StoreLab, *, believed: bool) -> None:
    inside = {"laptop", "lap", "p", "top 1", "laptop 15"}
    outside = {"laptops", "apt", "tap", "15 laptop", "l p"} - occurring(["laptop 15"])
    cache(store_lab, inside | outside, believed=believed)
    invalidate(store_lab, "laptop 15")
    assert left(store_lab, inside | outside) == outside


def test_the_old_and_the_new_name_in_one_call(store_lab: StoreLab, *, believed: bool) -> None:
    cache(store_lab, {"old", "new", "other"}, believed=believed)
    invalidate(store_lab, "old name", "new name")
    assert left(store_lab, {"old", "new", "other"}) == {"other"}


def test_no_name_is_nothing_to_do(store_lab: StoreLab, *, believed: bool) -> None:
    cache(store_lab, {"x"}, believed=believed)
    invalidate(store_lab)
    invalidate(store_lab, "")
    assert left(store_lab, {"x"}) == {"x"}


def test_texts_of_exactly_the_limit_go_longer_ones_are_never_cached(store_lab: StoreLab, *, believed: bool) -> None:
    texts = {"abc", "abcd", "abcde"}
    cache(store_lab, texts, believed=believed)
    invalidate(store_lab, "xabcdex", limit=4)
    assert left(store_lab, texts) == {"abcde"}


@pytest.mark.parametrize("name", ["a{b}c", "50%", "%7B", "%25", "%%7D{", "100%7Bx", "}{", "{", "%257D"])
def test_braces_and_percent_signs(store_lab: StoreLab, name: str, *, believed: bool) -> None:
    inside = occurring([name])
    outside = {text + "?" for text in inside} | {"%7Bq", "%25q"}
    cache(store_lab, inside | outside, believed=believed)
    invalidate(store_lab, name)
    assert left(store_lab, inside | outside) == outside


@pytest.mark.parametrize("name", ["größe", "日本語", "a😀b", "😀😀", "ÿĀ߿ࠀ\uffff\U00010000\U0010ffff", "e\u0301"])
def test_characters_of_one_to_four_bytes(store_lab: StoreLab, name: str, *, believed: bool) -> None:
    inside = occurring([name])
    cache(store_lab, inside, believed=believed)
    invalidate(store_lab, name)
    assert left(store_lab, inside) == set()


def test_a_limit_counts_characters_not_bytes(store_lab: StoreLab, *, believed: bool) -> None:
    cache(store_lab, {"😀😀", "😀😀😀"}, believed=believed)
    invalidate(store_lab, "😀😀😀", limit=2)
    assert left(store_lab, {"😀😀", "😀😀😀"}) == {"😀😀😀"}


@pytest.mark.parametrize("length", [STARTS_PER_CALL - 1, STARTS_PER_CALL, STARTS_PER_CALL + 1, 3 * STARTS_PER_CALL + 5])
def test_long_names_take_several_calls_and_lose_nothing_between_them(
    store_lab: StoreLab, length: int, *, believed: bool
) -> None:
    name = "".join(chr(0x4E00 + at) for at in range(length))
    inside = {name[first : first + size] for first in range(length) for size in (1, 2, 10) if first + size <= length}
    outside = {name[at] + "?" for at in range(0, length, 10)}
    cache(store_lab, inside | outside, believed=believed)
    calls = scripts.invalidate_within(TEMPLATE, 10, [name], filter_key=FILTER)
    assert sum((len(call.args) - 3) // 2 for call in calls) == -(-length // STARTS_PER_CALL)
    assert len(calls) == (2 if length > 2 * STARTS_PER_CALL else 1)
    invalidate(store_lab, name, limit=10)
    assert left(store_lab, inside | outside) == outside


def test_more_keys_than_one_command_may_hold(store_lab: StoreLab, *, believed: bool) -> None:
    name = "".join(chr(0x4E00 + at) for at in range(STARTS_PER_CALL))
    inside = occurring([name])
    assert len(inside) > 4000
    cache(store_lab, inside, believed=believed)
    invalidate(store_lab, name)
    assert left(store_lab, inside) == set()


def test_a_fill_under_way_does_not_land(store_lab: StoreLab, *, believed: bool) -> None:
    """The search is not cached yet; its reader has asked MongoDB before the change."""
    assert store_lab.run(acquire("lap")) is Acquired.GRANTED
    settle(store_lab, believed=believed)
    invalidate(store_lab, "laptop")
    filled = store_lab.run(scripts.fill(key("lap"), "mine", Value(b"[]", None), ttl_ms=TTL, marker_ms=MARKER))
    assert filled is Filled.LEASE_LOST
    assert left(store_lab, {"lap"}) == set()


def test_other_keys_are_not_touched(store_lab: StoreLab, *, believed: bool) -> None:
    cache(store_lab, {"lap"}, believed=believed)
    store_lab.client.set("lap", "x")
    store_lab.client.set("search:lap", "x")
    store_lab.client.set("lap:v1", "x")
    invalidate(store_lab, "laptop")
    assert store_lab.client.exists("lap", "search:lap", "lap:v1") == 3


# Few characters, so that names repeat texts and share texts; and all characters that are escaped.
letters = st.text(st.sampled_from("ab%25{}7BDé😀"), min_size=1, max_size=12)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names=st.lists(letters, min_size=1, max_size=3), others=st.sets(letters, max_size=8), limit=st.integers(1, 12))
def test_it_is_what_the_plain_way_finds(
    store_lab: StoreLab, names: list[str], others: set[str], limit: int, *, believed: bool
) -> None:
    store_lab.client.flushall()
    inside = occurring(names, limit)
    cache(store_lab, inside | others, believed=believed)
    invalidate(store_lab, *names, limit=limit)
    assert left(store_lab, inside | others) == others - inside
