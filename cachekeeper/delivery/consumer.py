"""Celery's consumer, with two changes: it takes every message, and it stops fetching while the gate is shut.

Both rest on Celery's own hooks: the setting `worker_consumer`, a `Request` of our own, and callbacks on its event loop.
"""

from __future__ import annotations

import warnings
from collections import deque
from typing import TYPE_CHECKING, Any, cast

from celery import bootsteps
from celery.concurrency.solo import TaskPool as SoloPool
from celery.concurrency.thread import TaskPool as ThreadPool
from celery.exceptions import CPendingDeprecationWarning
from celery.worker import state
from celery.worker.consumer import Consumer as CeleryConsumer
from celery.worker.loops import asynloop
from celery.worker.request import Request
from vine import promise

from cachekeeper.delivery.broker import QUEUE, TASK, dead_queue
from cachekeeper.delivery.envelopes import guard_channel, guard_process
from cachekeeper.delivery.messages import read_message
from cachekeeper.delivery.work import Job, Verdict
from cachekeeper.errors import SettingsError
from cachekeeper.metrics import COUNTERS, logger

if TYPE_CHECKING:
    from collections.abc import Callable

    from kombu import Message

    from cachekeeper.delivery.work import Delivery


_LOOK_SECONDS = 0.5


class Steps(bootsteps.Blueprint):
    """What a consumer is made of.

    Celery's has one more for tasks with an ETA, which would make 28 queues on RabbitMQ, and one for agents; `DeadQueue`
    is ours.
    """

    name = "Consumer"
    default_steps = {  # noqa: RUF012  # as in Celery
        "celery.worker.consumer.connection:Connection",
        "celery.worker.consumer.control:Control",
        "cachekeeper.delivery.consumer:DeadQueue",
        "celery.worker.consumer.tasks:Tasks",
        "celery.worker.consumer.consumer:Evloop",
    }

    def shutdown(self, parent: object) -> None:
        """As in Celery's."""
        self.send_all(parent, "shutdown")


class Consumer(CeleryConsumer):
    """One worker's consumer. All of its own methods but `hold` run in the event loop's thread."""

    Blueprint = Steps
    hub: Any
    task_consumer: Any
    on_task_request: Callable[[Request], object]
    connection_errors: tuple[type[Exception], ...]
    call_soon_ack: Callable[..., object]

    def __init__(
        self, on_task_request: Callable[..., Any], *, worker_options: dict[str, Any] | None = None, **options: Any
    ) -> None:
        # Workers of one kind have nothing to tell each other: no gossip, no heartbeats as events, and no second spent
        # on finding each other at the start.
        quiet = {"without_gossip": True, "without_mingle": True, "without_heartbeat": True}
        super().__init__(on_task_request, worker_options={**(worker_options or {}), **quiet}, **options)
        # What a message came to is said within this process: a child's word would never reach it, and the message would
        # come back for ever.
        if self.hub is None or not isinstance(self.pool, ThreadPool | SoloPool):
            raise SettingsError("run the worker with Celery's pool threads (the default) or solo")
        guard_process()
        self.delivery: Delivery = cast("Any", self.app).delivery
        self._held: deque[ApplyRequest] = deque()
        self._consuming = False
        self.delivery.gate.on_open = lambda: self.hub.call_soon(self._settle)
        # The event loop looks whether it should stop when something has happened, or the next timer is due: with an
        # idle RabbitMQ that is ten seconds after the SIGTERM.
        self.hub.timer.call_repeatedly(_LOOK_SECONDS, lambda: None)
        # Said at each lost connection, of a default of Celery 6; the setting is made on purpose.
        warnings.filterwarnings("ignore", category=CPendingDeprecationWarning)

    def hold(self, request: ApplyRequest) -> None:
        """Put a message back, but not before this worker has stopped fetching: else it would come back at once.

        Called from any thread.
        """
        self._held.append(request)
        self.hub.call_soon(self._settle)

    def loop(self, _: object, connection: Any, consumer: Any, *args: Any) -> None:
        """Celery's event loop, run for each connection to the broker."""
        self._consuming = False
        guard_channel(consumer.channel)
        asynloop(self, connection, _Tap(consumer, self._settle), *args)

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """Let go of a connection that is lost, with whatever is in hand."""
        try:
            super().on_connection_error_after_connected(exc)
        except AttributeError:
            # Celery closes it twice, and with Redis as the broker the second time may be too much for kombu: what is in
            # hand is to be put back over a channel that has no connection any more. It comes back by itself.
            COUNTERS.add("broker_connection_torn")
            logger.warning("the connection to the broker was lost with messages in hand")

    def on_close(self) -> None:
        """The connection is lost, and with it what was to be put back: the broker delivers it again by itself."""
        self._held.clear()
        super().on_close()

    def create_task_handler(self, promise: Callable[..., Any] = promise) -> Callable[[Message], None]:
        """What is called with every message. Celery's own looks for tasks, and dies of what is none."""
        task = self.app.tasks[TASK]
        wants_message = self.on_task_request

        def on_message(message: Message) -> None:
            try:
                request = ApplyRequest(
                    message,
                    self,
                    task,
                    on_ack=promise(self.call_soon_ack, (_heard(message, message.ack_log_error),)),
                    on_reject=promise(self.call_soon_ack, (_heard(message, message.reject_log_error),)),
                )
            except Exception as error:  # noqa: BLE001  # whatever it holds, it must not end the worker
                COUNTERS.add("message_refused")
                logger.error("a message was refused (%s)", type(error).__name__)
                message.reject_log_error(logger, self.connection_errors)
                return
            state.task_reserved(request)
            wants_message(request)

        return on_message

    def on_decode_error(self, message: Message, exc: Exception) -> None:
        """Called for a message that kombu cannot unpack. Celery's own would write it into the log."""
        if (message.delivery_info or {}).get("routing_key") == QUEUE:
            self.create_task_handler()(message)
            return
        COUNTERS.add("control_message_unreadable")
        logger.error("a control message cannot be read (%s)", type(exc).__name__)
        message.ack()

    def _settle(self) -> None:
        """Bring what this worker does in step with the gate.

        In this order: a message put back while the worker still fetches is delivered to it again, and again, until the
        delivery limit.
        """
        is_open = self.delivery.gate.is_open
        if self._consuming and not is_open:
            # A message that is on its way is put back by kombu, since nobody waits for it.
            self._consuming = False
            self.task_consumer.cancel()
        while self._held:
            self._held.popleft().reject(requeue=True)
        if is_open and not self._consuming and self.task_consumer is not None:
            self._consuming = True
            self.task_consumer.consume()


def _heard(message: Message, answer: Callable[..., object]) -> Callable[..., object]:
    """Give a message's answer, if its connection is still there.

    kombu's channel of a Redis that has lost its connection raises what nobody expects, and that would end the worker.
    The message comes again; it is applied twice, which changes nothing.
    """

    def give(*arguments: Any, **options: Any) -> object:
        channel: Any = message.channel
        transport = channel.connection
        if getattr(transport, "client", transport) is None:
            COUNTERS.add("answer_unheard")
            return None
        return answer(*arguments, **options)

    return give


class ApplyRequest(Request):
    """A message on its way through Celery.

    Whatever the message holds, the request is for `cachekeeper.apply` with the message as read: Celery's own reading
    raises for what is no task message, and would obey callbacks and expiry times in it.
    """

    def __init__(
        self,
        message: Message,
        consumer: Consumer,
        task: Any,
        *,
        on_ack: Callable[..., Any],
        on_reject: Callable[..., Any],
    ) -> None:
        self._consumer = consumer
        # Celery makes text of what a task returns, so the verdict comes back in the job.
        self._job = Job(read_message(message))
        super().__init__(
            message,
            on_ack=on_ack,
            on_reject=on_reject,
            hostname=consumer.hostname,
            app=consumer.app,
            connection_errors=consumer.connection_errors,
            task=task,
            body=((self._job,), {}, {}),
            headers={
                "task": TASK,
                "id": self._job.message.id,
                "argsrepr": "(a message)",
                "kwargsrepr": "{}",
            },
            decoded=True,
        )

    def revoked(self) -> bool:
        """Never: Celery acknowledges what was revoked, and the event would be lost."""
        return False

    def on_success(self, failed__retval__runtime: tuple[Any, Any, Any], **kwargs: Any) -> None:
        """The task has returned, or its thread was torn out of it; in that thread."""
        if self._job.verdict is Verdict.DONE:
            super().on_success(failed__retval__runtime, **kwargs)
            return
        state.task_ready(self)
        self._consumer.hold(self)


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

    def start(self, w: Any) -> None:
        """Called before the consumer starts."""
        w.app.delivery.start()

    def stop(self, w: Any) -> None:
        """Called when the consumer has stopped."""
        w.app.delivery.stop()

    def terminate(self, w: Any) -> None:
        """Called instead of `stop` where it must be quick."""
        self.stop(w)


class _Tap:
    """Stands before the task consumer when the event loop starts: whether to consume is ours to say."""

    def __init__(self, consumer: Any, consume: Callable[[], None]) -> None:
        self._consumer = consumer
        self.consume = consume

    @property
    def on_message(self) -> Any:
        """What is called with every message."""
        return self._consumer.on_message

    @on_message.setter
    def on_message(self, handler: Callable[[Message], None]) -> None:
        self._consumer.on_message = handler
