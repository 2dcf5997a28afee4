"""After a fork: what holds locks and sockets begins anew in the child.

The parent's threads do not exist there, so that a lock which one of them held is held for ever; and its sockets are the
parent's.
"""

from __future__ import annotations

import os
import weakref
from typing import TYPE_CHECKING, Any, TypeVar

from cachekeeper.metrics import logger, where_raised

if TYPE_CHECKING:
    from collections.abc import Callable

Owner = TypeVar("Owner")

_owners: weakref.WeakKeyDictionary[Any, Callable[[Any], object]] = weakref.WeakKeyDictionary()


def after_fork(owner: Owner, renew: Callable[[Owner], object]) -> None:
    """Have `renew(owner)` called in each child, for as long as somebody holds `owner`.

    Args:
        owner: what has locks or sockets.
        renew: makes it as it was when it was made; not bound to `owner`, or that would live for ever.
    """
    _owners[owner] = renew


def _renew_all() -> None:
    for owner, renew in list(_owners.items()):
        try:
            renew(owner)
        except Exception as error:  # noqa: BLE001  # the others must begin anew all the same
            logger.error("after a fork: %s\n%s", type(error).__name__, where_raised(error))


os.register_at_fork(after_in_child=_renew_all)
