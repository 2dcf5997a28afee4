"""Empty Celery tasks in the application's own worker, beside its own messages: what a batch is measured against.

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
    """Nothing."""


class Consumer(consumer.Consumer):
    """The worker's own consumer; the empty tasks go through Celery's instead, as in any worker."""

    def create_task_handler(self, promise: Any = promise) -> Callable[[Message], None]:
        """What is called with every message."""
        ours = super().create_task_handler(promise)
        celerys = CeleryConsumer.create_task_handler(self, promise)

        def on_message(message: Message) -> None:
            (celerys if message.headers.get("task") == NAME else ours)(message)

        return on_message
