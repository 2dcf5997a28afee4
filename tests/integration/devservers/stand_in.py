"""A Celery application for tests that need a worker, and no more of it than that it is one."""

import os

from celery import Celery

from cachekeeper.broker.names import CONTROL_EXCHANGE

app = Celery("stand-in", broker=os.environ["CACHEKEEPER_BROKER_URL"])
app.conf.worker_pool = "threads"
app.conf.control_exchange = CONTROL_EXCHANGE  # where it is asked whether it is ready
