"""Included in a worker that processes a message only after it was told to stop. It may end its broker first."""

import os
from typing import Any

from celery.worker import state
from redis import Redis

from cachekeeper.consuming import processor
from testkit.waiting import wait_until

_processor: Any = processor.Processor
_process = _processor.process


def _late(*arguments: Any) -> Any:
    wait_until(lambda: state.should_stop is not None, "the signal", 60)
    if os.environ.pop("LATE_WORKER_ENDS_ITS_BROKER", None):
        Redis.from_url(os.environ["CACHEKEEPER_BROKER_URL"]).shutdown(nosave=True)
    return _process(*arguments)


_processor.process = _late
