"""The shipped worker, with points at which it kills itself, listed in the order in which a message passes them."""

from typing import Any

from cachekeeper.applying import batch as applying
from cachekeeper.consuming import acks, poison_guard, processor, request
from testkit.faults import before
from worker.celery import app

__all__ = ["app"]

_processor: Any = processor
_plan: Any = applying._Plan
_request: Any = request.ApplyRequest
_poison_guard: Any = poison_guard
_poison_guard.sound = before("worker-popped", _poison_guard.sound)  # taken off the list, not handled yet
_processor.apply = before("worker-received", _processor.apply)
_plan.run = before("worker-persisted", _plan.run)
_processor.Processor._keep = before("worker-applied", _processor.Processor._keep)
_processor.Processor._warm = before("worker-left", _processor.Processor._warm)
_acks: Any = acks
_acks._acknowledge = before("worker-acknowledging", _acks._acknowledge)  # several together; only with Redis
_request.on_success = before("worker-warmed", _request.on_success)
