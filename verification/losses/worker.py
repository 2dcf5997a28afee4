"""The shipped worker with kill points (`testkit.faults_worker`), notes of finished events, and a known-bad variant.

The variant `early` acknowledges a message and removes its outbox records before it writes. Celery's default is to
acknowledge early, too.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any

from cachekeeper.broker.names import TASK
from cachekeeper.consuming import processor, request
from cachekeeper.consuming.messages import EventMessage
from cachekeeper.model.views import Server
from cachekeeper.relays.outbox import remove_delivered
from testkit.faults import MUTANT
from testkit.faults_worker import app
from testkit.waiting import wait_until
from verification.losses.changes import DONE, SLOWEST, number_in, slowest

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["app"]

_processor: Any = processor.Processor
_deal_with, _keep = _processor._deal_with, _processor._keep  # noqa: SLF001  # wraps two methods of the shipped worker
_hand = threading.local()  # the events that this thread is processing


def _held(self: processor.Processor, messages: Sequence[Any], strikes: int) -> None:
    _hand.events = [event for message in messages if isinstance(message, EventMessage) for event in message.events]
    _deal_with(self, messages, strikes)


def _noted(self: processor.Processor, letters: Any) -> None:
    """Note the applied events and dead letters before they leave the outbox, so that each has its note."""
    _keep(self, letters)
    _note(self, _hand.events)


def _note(delivery: processor.Processor, events: Sequence[object]) -> None:
    changes = {number: event for event in events if (number := number_in(event)) is not None}
    client = delivery.keeper.store(Server.CACHE).client
    pipe = client.pipeline(transaction=False)
    for number in changes:
        pipe.sadd(DONE, number)
    # An event that is delivered again later does not count as slow.
    new = [event for event, first in zip(changes.values(), pipe.execute(), strict=True) if first]
    client.zadd(SLOWEST, {"seconds": slowest(new)}, gt=True)


_processor._deal_with = _held  # noqa: SLF001  # as above
_processor._keep = _noted  # noqa: SLF001  # as above

if os.environ.get(MUTANT) == "early":
    _request: Any = request.ApplyRequest
    _init = _request.__init__
    _requests: dict[str, Any] = {}

    def _received(self: Any, message: Any, *args: Any, **options: Any) -> None:
        _init(self, message, *args, **options)
        _requests[self.read.id] = self, message

    def _early(self: processor.Processor, messages: Sequence[Any], strikes: int) -> None:
        if records := [event for message in messages if message.outbox for event in message.events]:
            remove_delivered(self.keeper, records)
        requests = [_requests[message.id] for message in messages]
        for request, _ in requests:
            request.acknowledge()
        # The event loop's thread sends the acknowledgements.
        wait_until(lambda: all(message.acknowledged for _, message in requests), "acknowledgements sent")
        _held(self, messages, strikes)

    app.tasks[TASK].acks_late = False
    _request.__init__ = _received
    _processor._deal_with = _early  # noqa: SLF001  # as above
