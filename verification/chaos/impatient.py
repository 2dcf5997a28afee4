"""`celery -A verification.chaos.impatient`: the worker, with a Redis broker that redelivers within seconds.

By default, the messages of a killed worker come back after a minute. No run lasts that long.
"""

from __future__ import annotations

from cachekeeper.broker.queues import is_amqp
from worker.celery import app

__all__ = ["app"]

VISIBILITY_SECONDS = 2
"""Longer than nearly every message takes. A message that takes longer is applied twice."""

if not is_amqp(str(app.conf.broker_url)):
    app.conf.broker_transport_options = {
        **app.conf.broker_transport_options,
        "visibility_timeout": VISIBILITY_SECONDS,
        "unacked_restore_interval": 1,
    }
