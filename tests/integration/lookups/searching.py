"""Searches of products, the changes of a product, and the keys that are there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cachekeeper.applying.batch import apply
from cachekeeper.values import fold
from lookups import SEARCH, search_products
from producers import ProductChanged
from testkit.shop import Shop
from worker.handlers import on_product_changed

if TYPE_CHECKING:
    from cachekeeper.reading.keeper import Keeper


def names(keeper: Keeper, text: str) -> list[str]:
    return [each["name"] for each in search_products(text, keeper=keeper)]


def key_of(text: str) -> str:
    return f"search:{fold.escape_braces(fold.fold(text))}"


def changed(keeper: Keeper, **fields: Any) -> None:
    """A product changed; acknowledged when this returns.

    The filter of registered texts, where there is one, is believed: that is where a text could be missed.
    """
    cache = keeper.store(SEARCH.server).client
    if cache.exists(SEARCH.filter_key):
        cache.setrange(SEARCH.filter_key, 0, "0" * 20)
    commands = list(on_product_changed(ProductChanged(product_id="1", **fields)))
    assert [result.error for result in apply(keeper, [commands])] == [None]


def keys(shop: Shop) -> set[str]:
    """All but the filter of registered texts."""
    return {key.decode() for key in shop.dump()} - {SEARCH.filter_key}


def stock(shop: Shop, *wanted: str) -> None:
    shop.db.products.insert_many([{"_id": each, "name": name} for each, name in enumerate(wanted)])
