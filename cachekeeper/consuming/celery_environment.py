"""Keeps the variables and modules of other Celery applications out of a worker of ours, and says so.

The command `celery` itself reads a few variables earlier, which no application can keep from it.
"""

from __future__ import annotations

import os
from typing import Any

import click
from celery.loaders.base import BaseLoader

from cachekeeper.metrics import log_once

READ_BY_CELERY = frozenset(
    {
        *("CELERY_APP", "CELERY_NO_COLOR", "CELERY_QUIET", "CELERY_SKIP_CHECKS", "CELERY_VERSION", "CELERY_WORKDIR"),
    }
)
"""What the command `celery` has read and applied before it imports the application."""

_SET_BY_CELERY = "CELERY_LOG_"  # how those names begin


class OwnConfiguration(BaseLoader):
    """Reads no configuration: all of it is in the application.

    Celery's own loaders read the module that CELERY_CONFIG_MODULE names, or a `celeryconfig.py` in the working
    directory, which may be another project's.
    """

    def read_configuration(self, env: str = "CELERY_CONFIG_MODULE") -> dict[str, Any]:  # noqa: ARG002  (Celery's own)
        """Nothing."""
        return {}


def ignore_foreign() -> None:
    """Keep the command `celery` from taking options of the worker from variables, and log which there are."""
    context = click.get_current_context(silent=True)
    if context is not None:
        # It would read CELERY_WORKER_POOL, CELERY_WORKER_QUEUES and the like, once it comes to the worker's options.
        context.auto_envvar_prefix = None
    names = sorted(
        name
        for name in os.environ.keys() - READ_BY_CELERY
        if name.startswith("CELERY_") and not name.startswith(_SET_BY_CELERY)
    )
    if names:
        log_once(
            f"foreign:{names}",
            "%s: not read by this worker, whose settings begin with CACHEKEEPER_",
            ", ".join(names),
        )
