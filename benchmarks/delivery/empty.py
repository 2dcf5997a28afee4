"""Empty Celery tasks in the application's own worker, beside its own messages. Batches are compared with them.

celery -A cachekeeper worker --include benchmarks.delivery.empty -- worker.consumer=benchmarks.delivery.empty:Consumer
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery import shared_task
from celery.worker.consumer import Consumer as CeleryConsumer
from vine import promise

from cachekeeper.consuming import consumer

if TYPE_CHECKING:
    from collections.abc import Callable

    from kombu import Message

NAME = "benchmarks.empty"
BODY = b'[[],{},{"callbacks":null,"errbacks":null,"chain":null,"chord":null}]'


@shared_task(name=NAME)
def empty() -> None:
    """Do nothing."""


class Consumer(consumer.Consumer):
    """The worker's own consumer, except that empty tasks go through Celery's consumer, as in any worker."""

    def create_task_handler(self, promise: Any = promise) -> Callable[[Message], None]:
        """Return the function that is called with every message."""
        ours = super().create_task_handler(promise)
        celerys = CeleryConsumer.create_task_handler(self, promise)

        def on_message(message: Message) -> None:
            (celerys if message.headers.get("task") == NAME else ours)(message)

        return on_message
