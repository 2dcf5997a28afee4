"""Product search: `search:{folded text}`."""

from __future__ import annotations

from typing import Any

from cachekeeper import Keeper, given_or_default
from cachekeeper.model.sources import Query
from cachekeeper.model.views import TextView
from cachekeeper.values import fold
from cachekeeper.values.codecs import Json

SEARCH: TextView[list[dict[str, Any]]] = TextView(
    name="search",
    key="search:{text}",
    ttl_seconds=600,
    codec=Json(list),
    loader=Query("products", lambda folded: {"name": fold.condition(folded)}),
)


def search_products(text: str, *, keeper: Keeper | None = None) -> list[dict[str, Any]]:
    """All products whose name contains `text`, in the order of `_id`. Upper and lower case are the same.

    The text is taken literally. A product whose `name` is not one text, such as an array of names, is never found: an
    event names one text, so a change of such a product could not be invalidated exactly.

    Args:
        text: up to 512 bytes. Texts over the setting `TEXT_LIMIT_CHARS` are answered from MongoDB and not cached.
        keeper: a keeper with clients or settings of your own; default: the one for the environment.

    Returns:
        The whole documents, in the shape that a Node.js service gets from Mongoose's `.lean()` and `JSON.stringify`:
        object ids as 24 hexadecimal digits, dates as ISO 8601. The same on a hit, a fill and an outage.

    Raises:
        InvalidText: empty, too long, or with NUL or lone surrogates.
        Unavailable: neither Redis nor MongoDB answered within the time limit (`DatabaseUnavailable`, `Overloaded`).
        DamagedDocument: a product that the text finds cannot be read.
    """
    return given_or_default(keeper).search(SEARCH, text)
