"""The shop's event handlers, which a Celery worker runs: `celery -A cachekeeper worker`."""

from cachekeeper.model.registry import Registry
from producers.events import ProductChanged, UserDeleted, UserLoggedOut, UserUpdated
from worker.handlers import on_product_changed, on_user_deleted, on_user_logged_out, on_user_updated

__all__ = ["register"]


def register(registry: Registry) -> None:
    """Register the handlers of this package."""
    registry.add_handler(UserUpdated, on_user_updated)
    registry.add_handler(UserDeleted, on_user_deleted)
    registry.add_handler(UserLoggedOut, on_user_logged_out)
    registry.add_handler(ProductChanged, on_product_changed)
