"""`celery -A verification.soak.worker`: the shipped worker, which reports its prefetch and counts applied events.

The mutants leak: at each connection to the broker (`sockets`, `threads`, `prefetch`) or at each message (`messages`).
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

from celery import bootsteps
from celery.worker import state

from cachekeeper.broker.queues import is_amqp
from cachekeeper.consuming import processor
from cachekeeper.consuming.messages import EventMessage
from verification.soak.reporting import VISIBILITY, is_mutant, lead, report
from verification.soak.workload import number_in
from worker.celery import app

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["app"]

_REPORT_SECONDS = 0.5
_MOST_EVENTS = 1 << 23
_LARGE = 256 * 1024
"""Bytes that the mutant `messages` keeps with each message, as if messages were large."""
_SOCKETS = 2
"""The mutant `sockets` leaves this many open at each connection. One alone would hide in the noise of pools."""
_leaked: list[Any] = []

lead()
if (visibility := os.environ.get(VISIBILITY)) and not is_amqp(str(app.conf.broker_url)):
    app.conf.broker_transport_options = {**app.conf.broker_transport_options, "visibility_timeout": int(visibility)}


class Applied:
    """The set of applied events. Its size is fixed, so that it does not grow while memory is measured."""

    def __init__(self) -> None:
        self._bits = bytearray(_MOST_EVENTS // 8)
        self._lock = threading.Lock()
        self.distinct = 0
        self.twice = 0
        # Written to now: the system counts memory only after the first write to it.
        self._bits[:] = b"\0" * len(self._bits)

    def add(self, number: int) -> None:
        """Note that this event was applied."""
        at, bit = number >> 3, 1 << (number & 7)
        with self._lock:
            if self._bits[at] & bit:
                self.twice += 1
            else:
                self._bits[at] |= bit
                self.distinct += 1


applied = Applied()
_processor: Any = processor.Processor
_deal_with = _processor._deal_with  # noqa: SLF001  # wraps a method of the shipped worker


def _noted(self: processor.Processor, messages: Sequence[Any], strikes: int) -> None:
    """Process the messages, then note their events as applied."""
    _deal_with(self, messages, strikes)
    if is_mutant("messages"):
        _leaked.extend((message, bytearray(_LARGE)) for message in messages)
    for message in messages:
        for event in message.events if isinstance(message, EventMessage) else ():
            if (number := number_in(event)) is not None:
                applied.add(number)


_processor._deal_with = _noted  # noqa: SLF001  # as above


class Watch(bootsteps.StartStopStep):
    """A Celery bootstep that starts with each connection to the broker."""

    requires = ("celery.worker.consumer.tasks:Tasks",)
    connections = 0
    connected_at = 0.0
    consumer: Any = None

    def start(self, c: Any) -> None:
        """Report on this consumer from now on."""
        if not Watch.connections:
            threading.Thread(target=_report_for_ever, name="soak-report", daemon=True).start()
        Watch.connections += 1
        Watch.connected_at = time.monotonic()  # all processes of a machine share this clock
        Watch.consumer = c
        if is_mutant("sockets"):
            # Listening sockets, because the next cut would close connections through the proxy.
            _leaked.extend(socket.create_server(("127.0.0.1", 0)) for _ in range(_SOCKETS))
        if is_mutant("threads"):
            threading.Thread(target=threading.Event().wait, daemon=True).start()
        if is_mutant("prefetch") and Watch.connections > 1:
            # Celery does the same for a task with an ETA. Here it is never undone.
            c.initial_prefetch_count += 1
            c.qos.increment_eventually()
            c.qos.update()

    def stop(self, c: Any) -> None:  # noqa: ARG002  # Celery's signature
        """Note that the connection is lost."""
        Watch.connected_at = 0.0


def _report_for_ever() -> None:
    pause = threading.Event()
    while not pause.wait(_REPORT_SECONDS):
        # The event loop's thread may change the values meanwhile. Then the next report reads them again.
        with contextlib.suppress(AttributeError, RuntimeError):
            report(_facts())


def _facts() -> dict[str, Any]:
    consumer = Watch.consumer
    facts: dict[str, Any] = {
        "connections": Watch.connections,
        "connected_at": Watch.connected_at,
        "applied": applied.distinct,
        "twice": applied.twice,
        "wanted": consumer.qos.value,
        "in_hand": len(state.reserved_requests),
    }
    channel: Any = consumer.task_consumer.channel
    qos: Any = getattr(channel, "qos", None)
    if hasattr(qos, "_dirty"):
        # kombu fetches while delivered - dirty < prefetch_count. So a dirty tag that is not in delivered lets it fetch
        # one message too many. Dirty is read twice, because the event loop's thread may flush both sets in between.
        before, delivered, after = set(qos._dirty), set(qos._delivered), set(qos._dirty)  # noqa: SLF001  # no other way
        stray = len((before & after) - delivered)
        facts["prefetch"] = qos.prefetch_count + stray
    else:
        facts["prefetch"] = consumer.qos.value
    return facts


app.steps["consumer"].add(Watch)
