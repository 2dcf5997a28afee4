"""Celery steps that a worker starts and stops beside its consumer."""

from __future__ import annotations

from typing import Any

from celery import bootsteps
from celery.concurrency.solo import TaskPool as SoloPool
from celery.concurrency.thread import TaskPool as ThreadPool

from cachekeeper.broker.queues import dead_queue

WRONG_POOL = "run the worker with Celery's pool threads (the default) or solo"


class DeadQueue(bootsteps.StartStopStep):
    """Declares the queue for messages that RabbitMQ gives up. Without it, they would be lost."""

    requires = ("celery.worker.consumer.connection:Connection",)

    def start(self, c: Any) -> None:
        """Declare the queue, on RabbitMQ only. Called for each connection."""
        if c.connection.transport.driver_type == "amqp":
            with c.connection.channel() as channel:
                dead_queue()(channel).declare()


class Servers(bootsteps.StartStopStep):
    """Starts and stops the worker's background threads."""

    def __init__(self, w: Any, **options: Any) -> None:
        super().__init__(w, **options)
        # Checked before Celery makes the pool. One line for the person who gave the options, instead of a traceback.
        if not issubclass(w.pool_cls, ThreadPool | SoloPool):
            raise SystemExit(WRONG_POOL)
        if options.get("autoscale"):
            raise SystemExit("run the worker without --autoscale; set the number of threads with -c, such as -c 4")

    def start(self, w: Any) -> None:
        """Start the processor. Called before the consumer starts."""
        w.app.processor.start()

    def stop(self, w: Any) -> None:
        """Stop the processor. Called after the consumer has stopped."""
        w.app.processor.stop()

    def terminate(self, w: Any) -> None:
        """Stop the event processor. Celery calls this, not `stop`, at a cold shutdown (SIGQUIT, a second SIGINT)."""
        self.stop(w)
