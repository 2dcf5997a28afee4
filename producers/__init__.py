"""Events for upstream services, which publish what happened.

from producers import UserUpdated, publish

publish(UserUpdated(user_id="42", name="Ada", version=7))
"""

from cachekeeper.model.events import CollectionChanged
from cachekeeper.model.registry import Registry
from cachekeeper.publishing.buffered import BufferedPublisher
from cachekeeper.publishing.publisher import Publisher, publish, publish_many
from producers import outbox
from producers.change_stream import WATCHES
from producers.events import ProductChanged, UserDeleted, UserLoggedOut, UserUpdated

__all__ = [
    "BufferedPublisher",
    "CollectionChanged",
    "ProductChanged",
    "Publisher",
    "UserDeleted",
    "UserLoggedOut",
    "UserUpdated",
    "outbox",
    "publish",
    "publish_many",
    "register",
]


def register(registry: Registry) -> None:
    """Register the events of this package, and the watches that make them from changes in MongoDB."""
    for event in (UserUpdated, UserDeleted, UserLoggedOut, ProductChanged):
        registry.add_event(event)
    for watch in WATCHES:
        registry.add_watch(watch)
