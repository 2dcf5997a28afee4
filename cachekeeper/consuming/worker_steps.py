"""What a worker starts and ends beside its consumer, by way of Celery's steps."""

from __future__ import annotations

from typing import Any

from celery import bootsteps
from celery.concurrency.solo import TaskPool as SoloPool
from celery.concurrency.thread import TaskPool as ThreadPool

from cachekeeper.broker.queues import dead_queue

WRONG_POOL = "run the worker with Celery's pool threads (the default) or solo"


class DeadQueue(bootsteps.StartStopStep):
    """Makes the queue for what RabbitMQ gives up: without it, that would be lost."""

    requires = ("celery.worker.consumer.connection:Connection",)

    def start(self, c: Any) -> None:
        """Called for each connection."""
        if c.connection.transport.driver_type == "amqp":
            with c.connection.channel() as channel:
                dead_queue()(channel).declare()


class Servers(bootsteps.StartStopStep):
    """Starts and ends the work beside the messages."""

    def __init__(self, w: Any, **options: Any) -> None:
        super().__init__(w, **options)
        # Before Celery makes the pool. For whoever gave the options, who has no use for a traceback.
        if not issubclass(w.pool_cls, ThreadPool | SoloPool):
            raise SystemExit(WRONG_POOL)
        if options.get("autoscale"):
            raise SystemExit("run the worker without --autoscale; -c 4 gives it four threads")

    def start(self, w: Any) -> None:
        """Called before the consumer starts."""
        w.app.processor.start()

    def stop(self, w: Any) -> None:
        """Called when the consumer has stopped."""
        w.app.processor.stop()

    def terminate(self, w: Any) -> None:
        """Called instead of `stop` where it must be quick."""
        self.stop(w)
