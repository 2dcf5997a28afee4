"""Keeps variables and modules of other Celery applications out of our worker, and logs the variables' names.

The command `celery` itself reads a few variables before it loads the application. No application can prevent that.
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
"""Variables that the command `celery` has read and applied before it imports the application."""

_SET_BY_CELERY = "CELERY_LOG_"  # the prefix of the variables that Celery itself sets


class OwnConfiguration(BaseLoader):
    """Reads no configuration, because the application contains all of it.

    Celery's own loaders read the module that CELERY_CONFIG_MODULE names, or a `celeryconfig.py` in the working
    directory. Either may belong to another project.
    """

    def read_configuration(self, env: str = "CELERY_CONFIG_MODULE") -> dict[str, Any]:  # noqa: ARG002  (Celery's own)
        """Return an empty configuration."""
        return {}


def ignore_foreign() -> None:
    """Keep the command `celery` from taking the worker's options from variables, and log the variables' names."""
    context = click.get_current_context(silent=True)
    if context is not None:
        # Otherwise it would read CELERY_WORKER_POOL, CELERY_WORKER_QUEUES and the like as the worker's options.
        context.auto_envvar_prefix = None
    names = sorted(
        name
        for name in os.environ.keys() - READ_BY_CELERY
        if name.startswith("CELERY_") and not name.startswith(_SET_BY_CELERY)
    )
    if names:
        log_once(
            f"foreign:{names}",
            "%s: ignored; this worker reads only variables that begin with CACHEKEEPER_",
            ", ".join(names),
        )
