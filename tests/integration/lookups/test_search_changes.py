"""A change of a product invalidates the searches that it must, and nothing else."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest

from cachekeeper.values import fold
from lookups import SEARCH, search_products
from testkit.counting import counted
from testkit.gates import Gate, threads
from testkit.limits import LONG
from testkit.mutating import mutate
from testkit.shop import Shop
from tests.integration.lookups.searching import changed, key_of, keys, names, stock


def spares_and_hits(shop: Shop, seed: int) -> None:
    """Searches over a small alphabet full of traps; changes of names made of it. Gone is what occurs in one of them."""
    chance = random.Random(seed)
    alphabet = ["a", "A", "b", "{", "}", "%", "%25", "%25", "%7B", "5", " ", "é", "É", "k", "\u212a", "🛒", "*", "\n"]

    def some_text(longest: int) -> str:
        return "".join(chance.choices(alphabet, k=chance.randint(1, longest)))

    keeper = shop.keeper(text_limit_chars=6)
    old, new = some_text(20), some_text(20)
    inside = [
        name[i:j] for name in (old, new) for i, j in itertools.combinations(range(len(name) + 1), 2) if j - i <= 6
    ]
    texts = {fold.fold(text): text for text in [*sorted(inside), *(some_text(6)[:6] for _ in range(150))]}
    shop.redis.mset({key_of(text): "[]" for text in texts.values()})
    for text in texts.values():
        shop.redis.hset(f"{{{key_of(text)}}}:meta", "l", "somebody")  # as if a fill were under way
    changed(keeper, name=new, previous_name=old)
    left = keys(shop)
    for folded, text in texts.items():
        occurs = folded in fold.fold(old) or folded in fold.fold(new)
        wanted = set() if occurs else {key_of(text), f"{{{key_of(text)}}}:meta"}
        assert left & {key_of(text), f"{{{key_of(text)}}}:meta"} == wanted, (old, new, text)


def spares_and_hits_twelve_times(shop: Shop) -> None:
    for seed in range(12):
        shop.flush()
        spares_and_hits(shop, seed)


def test_only_texts_that_occur_in_one_of_the_names_are_invalidated(shop: Shop) -> None:
    spares_and_hits_twelve_times(shop)


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        ("math.min(first + limit - 1, total)", "math.min(first + limit - 2, total)"),
        (".. escaped(text) ..", ".. text .."),
        ("lead < 0x80 and 1 or lead < 0xE0 and 2 or lead < 0xF0 and 3 or 4", "1"),
        ("batch[#batch + 1] = '{' .. key .. '}:meta'", ""),
        ("for argument = 4, #ARGV, 2 do", "for argument = 4, 5, 2 do"),
        ("text = text:gsub(", "local _ = text:gsub("),
    ],
    ids=["shorter", "unescaped", "bytes", "values only", "one name", "braces only"],
)
def test_known_bad_invalidations_are_found(shop: Shop, monkeypatch: pytest.MonkeyPatch, good: str, bad: str) -> None:
    mutate(monkeypatch, "_INVALIDATE_WITHIN", good, bad)
    with pytest.raises(AssertionError):
        spares_and_hits_twelve_times(shop)


@pytest.mark.parametrize(
    ("fields", "gone"),
    [
        ({"name": "Oak desk", "previous_name": "Lamp"}, "lamp desk"),
        ({"name": "Lamp", "previous_name": "Lamp"}, "lamp"),
        ({"name": "Lamp", "previous_name": None}, "lamp"),
        ({"deleted": True, "name": "Lamp"}, "lamp"),
        ({"deleted": True, "previous_name": "Oak desk"}, "desk"),
        ({"deleted": True}, "lamp desk other"),
        ({"name": "Lamp"}, "lamp desk other"),  # nobody knows what it was called before
    ],
    ids=str,
)
def test_every_kind_of_product_change(shop: Shop, fields: dict[str, Any], gone: str) -> None:
    keeper = shop.keeper()
    for text in ("lamp", "desk", "other"):
        search_products(text, keeper=keeper)
    shop.redis.set("user:1:name", "Ann")
    changed(keeper, **fields)
    assert keys(shop) - {"user:1:name"} == {f"search:{text}" for text in {"lamp", "desk", "other"} - set(gone.split())}
    assert shop.redis.get("user:1:name") == b"Ann"


def test_a_name_too_long_to_be_cut_up_drops_the_view(shop: Shop) -> None:
    keeper = shop.keeper()
    search_products("other", keeper=keeper)
    with counted() as seen:
        changed(keeper, name="x" * 4097, previous_name=None)
    assert seen["view_dropped"] == 1
    assert keys(shop) == set()


@pytest.mark.parametrize("length", [20, 200, 4096])
def test_long_names(shop: Shop, length: int) -> None:
    chance = random.Random(length)
    name = "".join(chance.choices("abcdefgh ", k=length))
    texts = [name[at : at + 64] for at in range(0, length, 61)]
    keeper = shop.keeper()
    for text in [*texts, "zzz"]:
        search_products(text, keeper=keeper)
    changed(keeper, name=name, previous_name=None)
    assert keys(shop) == {"search:zzz"}


def search_is_overtaken(shop: Shop) -> None:
    """reader: load, old · commit, apply, acknowledge · reader: fill · a later reader."""
    stock(shop, "Lamp")
    keeper = shop.keeper()
    has_read = Gate()
    shop.reads.after.append(has_read)
    with threads() as go:
        early = go(names, keeper, "lamp")
        has_read.wait_for_arrival()
        shop.db.products.update_one({"_id": 0}, {"$set": {"name": "Oak desk"}})
        changed(keeper, name="Oak desk", previous_name="Lamp")
        has_read.open()
        assert early.result(LONG) == ["Lamp"]
    assert shop.redis.get("search:lamp") is None
    assert names(keeper, "lamp") == []


def test_a_search_under_way_does_not_land_after_a_change(shop: Shop) -> None:
    search_is_overtaken(shop)


def test_where_only_values_are_unlinked_it_does(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    mutate(monkeypatch, "_INVALIDATE_WITHIN", "batch[#batch + 1] = '{' .. key .. '}:meta'", "")
    with pytest.raises(AssertionError):
        search_is_overtaken(shop)


def test_a_search_is_remembered_as_long_as_its_lease_and_its_value_may_live(shop: Shop) -> None:
    life_ms = shop.keeper(lease_seconds=40).binding(SEARCH).life_ms
    assert 40_000 + 600_000 < life_ms < 40_000 + 600_000 + 60_000


def test_the_view_is_as_the_design_has_it() -> None:
    assert (SEARCH.key, SEARCH.ttl_seconds) == ("search:{text}", 600)
