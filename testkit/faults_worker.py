"""The shipped worker, with points at which it kills itself, in the order in which a message passes them."""

from typing import Any

from cachekeeper.applying import batch as applying
from cachekeeper.consuming import acks, poison_guard, processor, request
from testkit.faults import before
from worker.celery import app

__all__ = ["app"]

_work: Any = processor
_plan: Any = applying._Plan
_request: Any = request.ApplyRequest
_envelopes: Any = poison_guard
_envelopes.sound = before("worker-popped", _envelopes.sound)  # off the list, and nothing is done with it yet
_work.apply = before("worker-received", _work.apply)
_plan.run = before("worker-persisted", _plan.run)
_work.Processor._keep = before("worker-applied", _work.Processor._keep)
_work.Processor._warm = before("worker-left", _work.Processor._warm)
_answers: Any = acks
_answers._acknowledge = before("worker-acknowledging", _answers._acknowledge)  # several together, to Redis alone
_request.on_success = before("worker-warmed", _request.on_success)
