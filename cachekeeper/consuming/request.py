"""A message on its way through Celery: answers Celery's questions about it, and acknowledges it or puts it back."""

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

# Celery gets this in place of the message, so that no content of a message can make the request fail.
_NOTHING = SimpleNamespace(delivery_info={}, properties={})


class Receiver(Protocol):
    """The part of the consumer that a message uses."""

    hostname: Any
    app: Any
    connection_errors: tuple[type[Exception], ...]

    def hold(self, request: ApplyRequest) -> None:
        """Put a message back, once the worker has stopped fetching."""

    def work_on(self, request: ApplyRequest) -> None:
        """Have a thread process a message."""


class ApplyRequest(Request):
    """A message on its way through Celery.

    The request is always for `cachekeeper.apply` and holds the message as read here, even if that is unreadable.
    Celery's own code raises if it reads a message that is not a task, and would obey callbacks and expiry times in it.
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
        """The number of events in the message."""
        return len(self.read.events) if isinstance(self.read, EventMessage) else 0

    def revoked(self) -> bool:
        """Return False: Celery would acknowledge a revoked message, and its events would be lost."""
        return False

    def execute_using_pool(self, _pool: object, **_options: object) -> None:  # type: ignore[override]  # unused
        """Process the message. Celery calls this; its own method takes a thread for each message, and traces it."""
        self._consumer.work_on(self)

    def settle(self, verdict: Verdict, seconds: float) -> None:
        """Acknowledge the message or put it back. Called in the thread that processed it.

        Args:
            verdict: acknowledge it, or put it back.
            seconds: how long the processing took.
        """
        if verdict is Verdict.DONE:
            self.on_success((False, None, seconds))
            return
        state.task_ready(self)
        self._consumer.hold(self)
