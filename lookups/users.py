"""User names: `user:{id}:name`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cachekeeper import Keeper, given_or_default
from cachekeeper.model.sources import ABSENT, Document
from cachekeeper.model.views import View
from cachekeeper.values.codecs import Text

if TYPE_CHECKING:
    from cachekeeper.model.sources import StoredDocument


def _name(document: StoredDocument) -> object:
    name = document.get("name")
    return ABSENT if name is None else name


USER_NAME = View(
    name="user_name",
    key="user:{id}:name",
    ttl_seconds=3600,
    codec=Text(),
    loader=Document("users", _name, fields=("name",)),
    version="version",
    warm=True,
)


def read_user(user_id: str | int, *, keeper: Keeper | None = None) -> str | None:
    """A user's name.

    Args:
        user_id: text or an integer; see the setting `ID_TYPES` for how it maps to `_id`.
        keeper: a keeper with clients or settings of your own; default: the one for the environment.

    Returns:
        The name, or None: the user does not exist, or has no name. None never means an outage.

    Raises:
        InvalidId: `user_id` cannot be an id.
        Unavailable: neither Redis nor MongoDB answered within the time limit (`DatabaseUnavailable`, `Overloaded`).
        DamagedDocument: the user's name in MongoDB is not text.
    """
    name = given_or_default(keeper).read(USER_NAME, user_id, "user_id")
    return None if name is ABSENT else name
