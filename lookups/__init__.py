"""Views and lookups of the shop: they ask Redis first and MongoDB second.

from lookups import read_user

read_user(42)
"""

from cachekeeper import Keeper, close
from cachekeeper.model.registry import Registry, TtlIndex
from lookups.products import SEARCH, search_products
from lookups.sessions import SESSION, TTL_SECONDS, SessionEnded, read_session, save_session
from lookups.tokens import BLOCKED, block_token, is_blocked
from lookups.users import USER_NAME, read_user

__all__ = [
    "BLOCKED",
    "SEARCH",
    "SESSION",
    "USER_NAME",
    "Keeper",
    "SessionEnded",
    "block_token",
    "close",
    "is_blocked",
    "read_session",
    "read_user",
    "register",
    "save_session",
    "search_products",
]


def register(registry: Registry) -> None:
    """Register the views of this package, and the indexes that remove what has expired."""
    for view in (USER_NAME, SESSION, BLOCKED, SEARCH):
        registry.add_view(view)
    # An ended session stays in MongoDB as long as its deadline in Redis, so that a late save cannot revive it.
    registry.add_index(
        TtlIndex("sessions", "expires_at", lambda settings: 2 * TTL_SECONDS + settings.redelivery_seconds)
    )
    registry.add_index(TtlIndex("blocked_tokens", "expires_at", lambda settings: settings.block_leeway_seconds))
