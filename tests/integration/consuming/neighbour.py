"""Another Celery application, with Celery's own names, on the same broker.

celery -A tests.integration.consuming.neighbour worker
"""

import os
import time

from celery import Celery

from cachekeeper.devservers.worker_process import WorkerProcess

BROKER = "NEIGHBOUR_BROKER_URL"

app = Celery("neighbour", broker=os.environ.get(BROKER), set_as_current=False)
app.conf.update(worker_pool="solo", worker_prefetch_multiplier=1, task_ignore_result=True)


@app.task(acks_late=True)
def work_for_hours() -> None:
    """Longer than any test."""
    time.sleep(3600)


class Neighbour(WorkerProcess):
    """Its worker."""

    def _not_ready(self) -> str | None:
        with Celery("neighbour-ping", broker=self.environment[BROKER], set_as_current=False) as asking:
            return None if asking.control.ping(timeout=1, limit=1) else "no answer to a ping"
