"""Celery's consumer, which hands waiting messages to the processor and stops fetching during a pause.

Three things differ from Celery's own: it takes every message, whatever is in it; it stops fetching during a pause; and
messages that wait for a thread are dealt with together. All rest on Celery's hooks: the setting `worker_consumer`, a
`Request` of our own, and callbacks on its event loop.
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
from vine import promise

from cachekeeper.broker.names import TASK
from cachekeeper.broker.refusals import ReconnectPause, refusal
from cachekeeper.consuming.acks import Acknowledgements, rejection, spare_deliveries
from cachekeeper.consuming.message_batcher import MessageBatcher
from cachekeeper.consuming.poison_guard import guard_process
from cachekeeper.consuming.request import ApplyRequest
from cachekeeper.consuming.worker_steps import WRONG_POOL
from cachekeeper.errors import SettingsError
from cachekeeper.metrics import COUNTERS, logger, where_raised

if TYPE_CHECKING:
    from collections.abc import Callable

    from kombu import Message

    from cachekeeper.consuming.processor import Processor


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
        "cachekeeper.consuming.worker_steps:DeadQueue",
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
    on_task_request: Callable[[ApplyRequest], object]
    connection_errors: tuple[type[Exception], ...]
    channel_errors: tuple[type[Exception], ...]
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
            raise SettingsError(WRONG_POOL)
        guard_process()
        self.processor: Processor = cast("Any", self.app).processor
        self._held: deque[ApplyRequest] = deque()
        self._batcher = MessageBatcher(self.pool, self.processor)
        self._acknowledgements = Acknowledgements(self.hub.call_later)
        self._consuming = False
        self._looping = False  # whether the event loop runs, with a connection
        self._reconnecting = ReconnectPause(state.maybe_shutdown)
        self.processor.pause.on_over = lambda: self.hub.call_soon(self._settle)
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

    def work_on(self, request: ApplyRequest) -> None:
        """Have a thread of the pool deal with a message."""
        self._batcher.add(request)

    def loop(self, _: object, connection: Any, consumer: Any, *args: Any) -> None:
        """Celery's event loop, run for each connection to the broker."""
        self._consuming = False
        self._reconnecting.connected()
        spare_deliveries(consumer.channel)
        self._looping = True
        try:
            asynloop(self, connection, _Tap(consumer, self._settle), *args)
        finally:
            self._looping = False

    def on_connection_error_before_connected(self, exc: Exception) -> None:
        """The broker took no connection. Celery's own logs each attempt, and makes the next at once."""
        if refusal(exc) is None:
            super().on_connection_error_before_connected(exc)
        self._reconnecting.failed(exc)

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """Let go of a connection that is lost, with whatever is in hand, and wait before the next."""
        try:
            super().on_connection_error_after_connected(exc)
        except AttributeError as torn:
            # Celery closes it twice, and with Redis as the broker the second time may be too much for kombu: what is in
            # hand is to be put back over a channel that has no connection any more. It comes back by itself.
            COUNTERS.add("broker_connection_torn")
            where = where_raised(torn)
            logger.warning("the connection to the broker was lost with messages in hand\n%s", where)
        self._reconnecting.failed(exc)

    def on_close(self) -> None:
        """The connection is lost, and with it what was to be put back: the broker delivers it again by itself."""
        self._held.clear()
        super().on_close()

    def shutdown(self) -> None:
        """The pool's threads have ended: answer for the last of their messages, and close the connection."""
        try:
            self._acknowledgements.send()
        except self.connection_errors + self.channel_errors as error:
            COUNTERS.add("answer_unheard")
            logger.warning("the last acknowledgements did not reach the broker (%s)", type(error).__name__)
        super().shutdown()

    def create_task_handler(self, promise: Callable[..., Any] = promise) -> Callable[[Message], None]:
        """What is called with every message. Celery's own looks for tasks, and dies of what is none."""
        task = self.app.tasks[TASK]
        wants_message = self.on_task_request

        def on_message(message: Message) -> None:
            request = ApplyRequest(
                message,
                self,
                task,
                on_ack=promise(self.call_soon_ack, (self._acknowledgements.answer(message),)),
                on_reject=promise(self.call_soon_ack, (rejection(message),)),
            )
            state.task_reserved(request)
            wants_message(request)

        return on_message

    def on_decode_error(self, message: Message, exc: Exception) -> None:
        """Called for a message that kombu cannot unpack. Celery's own would write it into the log."""
        # By whatever exchange and key somebody brought it into the queue of events.
        if (message.delivery_info or {}).get("exchange") != f"{self.app.conf.control_exchange}.pidbox":
            self.create_task_handler()(message)
            return
        COUNTERS.add("control_message_unreadable")
        logger.error("a control message cannot be read (%s)", type(exc).__name__)
        message.ack()

    def _settle(self) -> None:
        """Bring what this worker does in step with the pause.

        In this order: a message put back while the worker still fetches is delivered to it again, and again, until the
        delivery limit.
        """
        fetching = self.processor.pause.is_over
        # the connection is refused · the pause is over, which asks for this · SIGTERM: the hub, as it closes, calls
        # whatever was asked for, and to consume over the connection that is lost would raise.
        if self._looping and self._consuming and not fetching:
            # A message that is on its way is put back by kombu, since nobody waits for it.
            self._consuming = False
            self.task_consumer.cancel()
        while self._held:
            self._held.popleft().reject(requeue=True)
        if self._looping and fetching and not self._consuming and self.task_consumer is not None:
            self._consuming = True
            self.task_consumer.consume()


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
