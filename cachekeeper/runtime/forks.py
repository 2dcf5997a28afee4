"""After a fork, renews the child's objects that hold locks and sockets.

The parent's threads do not exist in the child, so a lock that one of them held would stay locked forever. The sockets
belong to the parent.
"""

from __future__ import annotations

import os
import weakref
from typing import TYPE_CHECKING, Any, TypeVar

from cachekeeper.runtime.failures import log_failure

if TYPE_CHECKING:
    from collections.abc import Callable

Owner = TypeVar("Owner")

_owners: weakref.WeakKeyDictionary[Any, Callable[[Any], object]] = weakref.WeakKeyDictionary()


def after_fork(owner: Owner, renew: Callable[[Owner], object]) -> None:
    """Call `renew(owner)` in each forked child, as long as `owner` exists.

    Args:
        owner: an object with locks or sockets.
        renew: resets it to its initial state. It must not be bound to `owner`, or `owner` would live forever.
    """
    _owners[owner] = renew


def _renew_all() -> None:
    for owner, renew in list(_owners.items()):
        try:
            renew(owner)
        except Exception as error:  # noqa: BLE001  # the other objects must be renewed too
            log_failure("renewing an object after a fork failed", error=error)


os.register_at_fork(after_in_child=_renew_all)
