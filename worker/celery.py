"""The Celery application for `celery -A worker worker`, if no other project's `worker` hides this package.

It is the same application as `cachekeeper`'s.
"""

from cachekeeper.celery import app

__all__ = ["app"]
