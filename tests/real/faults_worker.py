"""The shipped worker, with points at which it kills itself."""

from typing import Any

from cachekeeper import applying
from cachekeeper.delivery import work
from tests.real.faults import before
from worker.celery import app

__all__ = ["app"]

_work: Any = work
_plan: Any = applying._Plan
_work.apply = before("worker-received", _work.apply)
_plan.run = before("worker-persisted", _plan.run)
_work.leave = before("worker-applied", _work.leave)
_work.Delivery._warm = before("worker-left", _work.Delivery._warm)
