"""Included in a worker that deals with a message only after it was told to stop."""

from typing import Any

from celery.worker import state

from cachekeeper.consuming import processor
from testkit.waiting import wait_until

_processor: Any = processor.Processor
_process = _processor.process


def _late(*arguments: Any) -> Any:
    wait_until(lambda: state.should_stop is not None, "the signal", 60)
    return _process(*arguments)


_processor.process = _late
