"""Our version of Celery's consumer: it gives waiting messages to the processor, and stops fetching during a pause.

It differs from Celery's own in three ways. It takes every message, readable or not. It stops fetching during a pause.
It processes messages that wait for a thread together. All of this uses Celery's hooks: the setting `worker_consumer`,
our own `Request` class, and callbacks on the event loop.
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
    """The parts of a consumer.

    Celery's blueprint has two more: one for tasks with an ETA, which would make 28 queues on RabbitMQ, and one for
    agents. `DeadQueue` is added here.
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
        """Shut down every part, as Celery's blueprint does."""
        self.send_all(parent, "shutdown")


class Consumer(CeleryConsumer):
    """The consumer of one worker. All methods defined here except `hold` run in the event loop's thread."""

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
        # Our workers need not know of each other: no gossip, no heartbeat events, and no mingle, which would cost a
        # second at the start.
        quiet = {"without_gossip": True, "without_mingle": True, "without_heartbeat": True}
        super().__init__(on_task_request, worker_options={**(worker_options or {}), **quiet}, **options)
        # The result of a message is passed on within this process. The result from a child process would never arrive,
        # and the message would come back forever.
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
        # The event loop checks whether it should stop only after an event or when a timer is due. With an idle RabbitMQ
        # that would be up to ten seconds after the SIGTERM. So this timer does nothing but wake the loop.
        self.hub.timer.call_repeatedly(_LOOK_SECONDS, lambda: None)
        # Celery gives this warning at each lost connection. It is about a default of Celery 6, and our setting is on
        # purpose.
        warnings.filterwarnings("ignore", category=CPendingDeprecationWarning)

    def hold(self, request: ApplyRequest) -> None:
        """Put a message back once this worker has stopped fetching. Earlier, it would be delivered again at once.

        Called from any thread.
        """
        self._held.append(request)
        self.hub.call_soon(self._settle)

    def work_on(self, request: ApplyRequest) -> None:
        """Have a thread of the pool process a message."""
        self._batcher.add(request)

    def loop(self, _: object, connection: Any, consumer: Any, *args: Any) -> None:
        """Run Celery's event loop. Called for each connection to the broker."""
        self._consuming = False
        self._reconnecting.connected()
        spare_deliveries(consumer.channel)
        self._looping = True
        try:
            asynloop(self, connection, _Tap(consumer, self._settle), *args)
        finally:
            self._looping = False

    def on_connection_error_before_connected(self, exc: Exception) -> None:
        """Handle a failed attempt to connect, and pause. Celery's own method retries at once and logs each attempt."""
        if refusal(exc) is None:
            super().on_connection_error_before_connected(exc)
        self._reconnecting.failed(exc)

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """Drop a lost connection and the messages in flight on it, and wait before the next connection."""
        try:
            super().on_connection_error_after_connected(exc)
        except AttributeError as torn:
            # Celery closes the connection twice. With Redis as the broker, kombu may fail the second time, because it
            # tries to put back messages over a channel without a connection. The broker delivers them again by itself.
            COUNTERS.add("broker_connection_torn")
            where = where_raised(torn)
            logger.warning("lost the connection to the broker; it delivers the messages in flight again\n%s", where)
        self._reconnecting.failed(exc)

    def on_close(self) -> None:
        """Forget the messages to put back, since their connection is lost: the broker delivers them again by itself."""
        self._held.clear()
        super().on_close()

    def shutdown(self) -> None:
        """Send the last acknowledgements, and close the connection. Called after the pool's threads have ended."""
        self._sent(self._acknowledgements.send)()
        super().shutdown()

    def create_task_handler(self, promise: Callable[..., Any] = promise) -> Callable[[Message], None]:
        """Return the function that handles every message. Celery's own crashes on a message that is not a task."""
        task = self.app.tasks[TASK]
        wants_message = self.on_task_request

        def on_message(message: Message) -> None:
            request = ApplyRequest(
                message,
                self,
                task,
                on_ack=promise(self.call_soon_ack, (self._sent(self._acknowledgements.answer(message)),)),
                on_reject=promise(self.call_soon_ack, (self._sent(rejection(message)),)),
            )
            state.task_reserved(request)
            wants_message(request)

        return on_message

    def _sent(self, answer: Callable[..., object]) -> Callable[..., object]:
        """Wrap an answer to the broker. After the event loop's end, a lost connection is logged, not raised.

        The threads of the pool end after the event loop. Their last answers are sent when the hub closes. An error that
        is raised there ends in a traceback, and the answers behind it are not sent.
        """

        def send(*arguments: Any, **options: Any) -> object:
            try:
                return answer(*arguments, **options)
            except self.connection_errors + self.channel_errors as error:
                if self._looping:
                    raise
                COUNTERS.add("answer_unheard")
                logger.warning(
                    "while the worker stopped, messages were not acknowledged or put back (%s); they come again",
                    type(error).__name__,
                )
                return None

        return send

    def on_decode_error(self, message: Message, exc: Exception) -> None:
        """Handle a message that kombu cannot unpack. Celery's own method would write the message into the log."""
        # All messages in the queue of events, by whichever exchange and routing key they were published.
        if (message.delivery_info or {}).get("exchange") != f"{self.app.conf.control_exchange}.pidbox":
            self.create_task_handler()(message)
            return
        COUNTERS.add("control_message_unreadable")
        logger.error("ignored a control message that cannot be read (%s)", type(exc).__name__)
        message.ack()

    def _settle(self) -> None:
        """Start or stop fetching, as the pause requires, and put back held messages.

        The order matters: stop fetching first. A message put back while the worker still fetches is delivered to it
        again and again, until the delivery limit.
        """
        fetching = self.processor.pause.is_over
        # the connection is refused · the pause ends and schedules this call · SIGTERM: the closing hub runs scheduled
        # calls, and consuming over the lost connection would raise. So all of this needs `_looping`.
        if self._looping and self._consuming and not fetching:
            # kombu puts back a message that is still on its way, because its consumer was cancelled.
            self._consuming = False
            self.task_consumer.cancel()
        while self._held:
            self._held.popleft().reject(requeue=True)
        if self._looping and fetching and not self._consuming and self.task_consumer is not None:
            self._consuming = True
            self.task_consumer.consume()


class _Tap:
    """Replaces the task consumer when the event loop starts, so that our consumer decides when to consume."""

    def __init__(self, consumer: Any, consume: Callable[[], None]) -> None:
        self._consumer = consumer
        self.consume = consume

    @property
    def on_message(self) -> Any:
        """The function that is called with every message."""
        return self._consumer.on_message

    @on_message.setter
    def on_message(self, handler: Callable[[Message], None]) -> None:
        self._consumer.on_message = handler
