"""A message on its way through Celery: what Celery asks of it, and what becomes of it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Protocol

from celery.worker import state
from celery.worker.request import Request

from cachekeeper.broker.names import TASK
from cachekeeper.consuming.messages import EventMessage, read_message
from cachekeeper.consuming.processor import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable

    from kombu import Message

# What Celery is shown of a message: whatever is in it cannot make the request fail.
_NOTHING = SimpleNamespace(delivery_info={}, properties={})


class Receiver(Protocol):
    """The consumer, as far as a message knows it."""

    hostname: Any
    app: Any
    connection_errors: tuple[type[Exception], ...]

    def hold(self, request: ApplyRequest) -> None:
        """Put a message back, once the worker has stopped fetching."""

    def work_on(self, request: ApplyRequest) -> None:
        """Have a thread deal with it."""


class ApplyRequest(Request):
    """A message on its way through Celery.

    Whatever the message holds, the request is for `cachekeeper.apply` with the message as read: Celery's own reading
    raises for what is no task message, and would obey callbacks and expiry times in it.
    """

    def __init__(
        self,
        message: Message,
        consumer: Receiver,
        task: Any,
        *,
        on_ack: Callable[..., Any],
        on_reject: Callable[..., Any],
    ) -> None:
        self._consumer = consumer
        self.read = read_message(message)
        super().__init__(
            _NOTHING,
            on_ack=on_ack,
            on_reject=on_reject,
            hostname=consumer.hostname,
            app=consumer.app,
            connection_errors=consumer.connection_errors,
            task=task,
            body=((), {}, {}),
            headers={
                "task": TASK,
                "id": self.read.id,
                "argsrepr": "(a message)",
                "kwargsrepr": "{}",
            },
            decoded=True,
        )

    @property
    def events(self) -> int:
        """How many there are in the message."""
        return len(self.read.events) if isinstance(self.read, EventMessage) else 0

    def revoked(self) -> bool:
        """Never: Celery acknowledges what was revoked, and the event would be lost."""
        return False

    def execute_using_pool(self, _pool: object, **_options: object) -> None:  # type: ignore[override]  # nobody asks
        """What Celery calls to have it done. Its own takes a thread for each message, and traces it."""
        self._consumer.work_on(self)

    def settle(self, verdict: Verdict, seconds: float) -> None:
        """Acknowledge the message or put it back; in the thread that dealt with it.

        Args:
            verdict: what is to become of it.
            seconds: that it took.
        """
        if verdict is Verdict.DONE:
            self.on_success((False, None, seconds))
            return
        state.task_ready(self)
        self._consumer.hold(self)
