"""Logged-out tokens: `blocked:{token id}`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cachekeeper import Keeper, given_or_default
from cachekeeper.applying.batch import block
from cachekeeper.model.views import BlocklistView
from cachekeeper.values.ids import check_id
from cachekeeper.values.times import check_time

if TYPE_CHECKING:
    from datetime import datetime
    from decimal import Decimal
    from fractions import Fraction

    from cachekeeper.protocol.outcomes import Blocked

BLOCKED = BlocklistView(name="blocked", key="blocked:{id}", collection="blocked_tokens", ends="expires_at")


def block_token(
    token_id: str | int, expires_at: datetime | str | float | Decimal | Fraction | None, *, keeper: Keeper | None = None
) -> Blocked:
    """Block a token until it expires by itself, plus the leeway of the setting `BLOCK_LEEWAY_SECONDS`.

    A block only grows: a second call never shortens it, and a block without an end stays forever.

    Args:
        token_id: the token's id (`jti`; where several issuers share a Redis, join `iss` and `jti` on both sides).
        expires_at: a time with a zone, ISO 8601 text with a zone, or seconds since 1970 (`exp`; a fraction is rounded
            up); None for a token that never expires.
        keeper: a keeper with clients or settings of your own; default: the one for the environment.

    Returns:
        `BLOCKED`; `KEPT` where an equal or longer block exists; `OVER` where the token has expired already, and
        nothing was written. After `BLOCKED` and `KEPT`, both MongoDB (majority) and Redis hold the block.

    Raises:
        InvalidId, InvalidTime: an argument cannot be used; nothing was written.
        WriteRefused: a validator or a unique index of the collection forbids the block; nothing was written.
        DatabaseUnavailable: MongoDB failed; it is not known whether the block was written.
        PersistedNotCached: MongoDB has the block, but Redis failed. Try again; it is safe.
    """
    part = check_id(token_id, "token_id")
    until = None if expires_at is None else check_time(expires_at, "expires_at")
    return block(given_or_default(keeper), BLOCKED, part, until)


def is_blocked(token_id: str | int, *, keeper: Keeper | None = None) -> bool:
    """Whether a token is blocked.

    Args:
        token_id: the id that was given to `block_token`.
        keeper: a keeper with clients or settings of your own; default: the one for the environment.

    Raises:
        InvalidId: `token_id` cannot be an id.
        Unavailable: neither Redis nor MongoDB gave a certain answer. Treat the token as blocked.
    """
    return given_or_default(keeper).is_blocked(BLOCKED, token_id, "token_id")
