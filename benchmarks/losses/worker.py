"""The shipped worker with points (`tests.real.faults_worker`), a note of the slowest event, and a known-bad variant.

The variant, `early`, acknowledges a message and removes its records before it writes, as Celery does by default.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.losses.changes import slowest
from cachekeeper.delivery import work
from cachekeeper.delivery.broker import TASK
from cachekeeper.delivery.messages import Parcel
from cachekeeper.delivery.outbox import leave
from cachekeeper.views import Server
from tests.real.faults import MUTANT, VARIABLE
from tests.real.faults_worker import app

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["app"]

_delivery: Any = work.Delivery
_process = _delivery._process  # noqa: SLF001  # the shipped worker, with a little around it
_note = Path(os.environ[VARIABLE], f"slowest-{os.getpid()}")
_worst = 0.0


def _noted(self: work.Delivery, message: Any, strikes: int) -> None:
    global _worst  # noqa: PLW0603  # of this process
    _process(self, message, strikes)
    if isinstance(message, Parcel) and (seconds := slowest(_new(self, message.events))) > _worst:
        _worst = seconds
        _note.write_text(str(seconds))


def _new(delivery: work.Delivery, events: Sequence[object]) -> list[object]:
    """Those that no worker has been done with before: one that is delivered again, later, is not late."""
    pipe = delivery.keeper.store(Server.CACHE).client.pipeline(transaction=False)
    for event in events:
        pipe.set(f"losses:{event['id'] if isinstance(event, dict) else event}", 1, nx=True)
    return [event for event, first in zip(events, pipe.execute(), strict=True) if first]


def _early(self: work.Delivery, message: Any, strikes: int) -> None:
    if message.outbox:
        leave(self.keeper, message.events)
    time.sleep(0.1)  # until the acknowledgement is out, which another thread sends
    _noted(self, message, strikes)


_delivery._process = _noted  # noqa: SLF001  # as above
if os.environ.get(MUTANT) == "early":
    app.tasks[TASK].acks_late = False
    _delivery._process = _early  # noqa: SLF001  # as above
