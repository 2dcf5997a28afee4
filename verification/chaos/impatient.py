"""`celery -A verification.chaos.impatient`: the worker, to which a Redis broker redelivers within seconds.

What a killed worker held comes back after a minute otherwise, and no run is as long as that.
"""

from __future__ import annotations

from cachekeeper.broker.queues import is_amqp
from worker.celery import app

__all__ = ["app"]

VISIBILITY_SECONDS = 2
"""Longer than nearly all work, and not than all of it: what takes longer is applied twice."""

if not is_amqp(str(app.conf.broker_url)):
    app.conf.broker_transport_options = {
        **app.conf.broker_transport_options,
        "visibility_timeout": VISIBILITY_SECONDS,
        "unacked_restore_interval": 1,
    }
