"""Celery's consumer, which hands waiting messages to the processor and stops fetching during a pause.

Three things differ from Celery's own: it takes every message, whatever is in it; it stops fetching during a pause; and
messages that wait for a thread are dealt with together. All rest on Celery's hooks: the setting `worker_consumer`, a
`Request` of our own, and callbacks on its event loop.
"""

from __future__ import annotations

import os
import threading
import time
import traceback
import warnings
from collections import deque
from types import SimpleNamespace
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

from cachekeeper.broker.names import TASK
from cachekeeper.broker.queues import dead_queue
from cachekeeper.broker.refusals import ReconnectPause, refusal
from cachekeeper.consuming.acks import Acknowledgements, rejection, spare_deliveries
from cachekeeper.consuming.messages import EventMessage, read_message
from cachekeeper.consuming.poison_guard import guard_process
from cachekeeper.consuming.processor import Verdict
from cachekeeper.errors import SettingsError
from cachekeeper.metrics import COUNTERS, logger

if TYPE_CHECKING:
    from collections.abc import Callable

    from kombu import Message

    from cachekeeper.consuming.processor import Processor


_WRONG_POOL = "run the worker with Celery's pool threads (the default) or solo"
_LOOK_SECONDS = 0.5
# What Celery is shown of a message: whatever is in it cannot make the request fail.
_NOTHING = SimpleNamespace(delivery_info={}, properties={})
_EVENTS_AT_ONCE = 500  # beyond them a round trip is a small part of the work


class Steps(bootsteps.Blueprint):
    """What a consumer is made of.

    Celery's has one more for tasks with an ETA, which would make 28 queues on RabbitMQ, and one for agents; `DeadQueue`
    is ours.
    """

    name = "Consumer"
    default_steps = {  # noqa: RUF012  # as in Celery
        "celery.worker.consumer.connection:Connection",
        "celery.worker.consumer.control:Control",
        "cachekeeper.consuming.consumer:DeadQueue",
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
            raise SettingsError(_WRONG_POOL)
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
            where = "".join(traceback.format_tb(torn.__traceback__))
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


class MessageBatcher:
    """Messages that wait for a thread. Safe across threads.

    Whoever is free takes half of what waits: so a message that comes alone is dealt with at once; under load many share
    one thread's turn and one round trip, which cost more than a small message does; and where the work is waiting for
    MongoDB, all threads have some.

    Args:
        pool: Celery's.
        processor: deals with them.
    """

    def __init__(self, pool: Any, processor: Processor) -> None:
        self._pool = pool
        self._processor = processor
        self._lock = threading.Lock()
        self._waiting: deque[ApplyRequest] = deque()
        self._threads = 0

    def add(self, request: ApplyRequest) -> None:
        """Have it dealt with, by a further thread unless all are at work."""
        with self._lock:
            self._waiting.append(request)
            if self._threads >= self._pool.limit:
                return
            self._threads += 1
        self._pool.apply_async(self._work, callback=lambda _: None)

    def _work(self) -> None:
        try:
            while batch := self._take():
                self._deal_with(batch)
        except BaseException as error:
            with self._lock:
                self._threads -= 1
            # The pool forgets what its threads end of.
            COUNTERS.add("thread_ended")
            logger.error("a thread ended with messages in hand: %s", type(error).__name__)
            raise

    def _take(self) -> list[ApplyRequest]:
        """Half of what waits, or one message of many events; nothing where nothing waits: this thread's end."""
        with self._lock:
            batch: list[ApplyRequest] = []
            events, most = 0, (len(self._waiting) + 1) // 2
            while len(batch) < most and (not batch or events + self._waiting[0].events <= _EVENTS_AT_ONCE):
                request = self._waiting.popleft()
                events += request.events
                batch.append(request)
            if not batch:
                self._threads -= 1
            return batch

    def _deal_with(self, batch: list[ApplyRequest]) -> None:
        began = time.monotonic()
        verdicts = [Verdict.AWAY] * len(batch)  # of a thread that is torn out of it
        try:
            for request in batch:
                request.on_accepted(os.getpid(), began)  # type: ignore[arg-type]  # what Celery's own pools give it
            verdicts = self._processor.process([request.read for request in batch])
        finally:
            for request, verdict in zip(batch, verdicts, strict=True):
                request.settle(verdict, time.monotonic() - began)
        logger.debug("dealt with %d messages in %.4f s", len(batch), time.monotonic() - began)


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
            raise SystemExit(_WRONG_POOL)
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
