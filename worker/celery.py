"""What `celery -A worker worker` finds where no other project's `worker` hides this one: the same application."""

from cachekeeper.celery import app

__all__ = ["app"]
