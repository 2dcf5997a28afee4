"""The Celery application, each setting with its reason."""

from __future__ import annotations

import logging
from functools import cached_property
from typing import TYPE_CHECKING, Any

from celery import Celery, Task
from celery.app.amqp import AMQP
from celery.apps.worker import Worker as CeleryWorker
from celery.exceptions import ImproperlyConfigured

from cachekeeper.broker.names import CONTROL_EXCHANGE, EVENT_EXCHANGE, QUEUE, TASK
from cachekeeper.broker.queues import is_amqp, tls_options, transport_options, work_queue
from cachekeeper.consuming.celery_environment import OwnConfiguration
from cachekeeper.consuming.processor import Processor
from cachekeeper.consuming.redis_channel import Connection
from cachekeeper.consuming.worker_steps import Servers
from cachekeeper.errors import SettingsError
from cachekeeper.model.registry import Registry, load_registry
from cachekeeper.values.urls.broker_url import without_tls_options

if TYPE_CHECKING:
    from collections.abc import Sequence

    import kombu

    from cachekeeper.settings import Settings

# For one answer of the broker. Longer than a publisher's: only a broker that hangs keeps a worker waiting.
_BROKER_SECONDS = 10.0
_WRONG_QUEUES = f"run the worker without -Q and -X: it consumes the queue {QUEUE}, and no other"


class Messaging(AMQP):
    """Celery's messaging, on connections whose transport for Redis is ours."""

    Connection = Connection


class Worker(CeleryWorker):
    """Celery's worker, on the one queue."""

    def setup_queues(self, include: Sequence[str], exclude: Sequence[str] | None = None) -> None:
        """Called with -Q and -X. For whoever gave them, who has no use for a traceback or for an idle worker."""
        try:
            super().setup_queues(include, exclude)
        except ImproperlyConfigured:  # it has no such queue
            raise SystemExit(_WRONG_QUEUES) from None
        if set(self.app.amqp.queues.consume_from) != {QUEUE}:
            raise SystemExit(_WRONG_QUEUES)


class WorkerApp(Celery):
    """A Celery application that carries its work.

    Attributes:
        processor: what its worker does with a message.
    """

    amqp_cls = f"{__name__}:{Messaging.__name__}"

    @cached_property
    def Worker(self) -> type[Worker]:  # noqa: N802  # Celery's name
        """What the command `celery worker` makes."""
        return self.subclass_with_self(Worker)

    processor: Processor

    backend_cls = "disabled"  # else that of CELERY_RESULT_BACKEND

    # Celery asks CELERY_BROKER_READ_URL and CELERY_BROKER_WRITE_URL first, which may be another application's.
    def connection_for_read(self, url: str | None = None, **options: Any) -> kombu.Connection:
        """A connection to our broker."""
        return super().connection_for_read(url or self.conf["broker_url"], **options)

    def connection(self, hostname: str | None = None, *arguments: Any, **options: Any) -> kombu.Connection:
        """A connection to our broker; what Celery shows at its start."""
        return super().connection(hostname or self.conf["broker_url"], *arguments, **options)

    def connection_for_write(self, url: str | None = None, **options: Any) -> kombu.Connection:
        """A connection to our broker."""
        return super().connection_for_write(url or self.conf["broker_url"], **options)


class ApplyTask(Task[..., None]):
    """`cachekeeper.apply`: the one task. Publishers send `[[event, ...]]` as its arguments.

    Celery asks it how to acknowledge, and nobody calls it: the consumer gives messages to the processor, several at a
    time.
    """

    name = TASK


def create_app(settings: Settings, registry: Registry | None = None) -> WorkerApp:
    """The application of a worker. Connects to nothing.

    Args:
        settings: with a broker.
        registry: default: what the modules of the settings register.

    Raises:
        SettingsError: there is no broker, a module cannot be found, or a setting names a view that there is not.
        RegistrationError: what the modules register does not fit together.
    """
    if settings.broker_url is None:
        raise SettingsError("CACHEKEEPER_BROKER_URL: is not set, and a worker needs it")
    registry = load_registry(settings.modules) if registry is None else registry
    registry.check(settings)
    # Not the current application of a process that may have one of its own, and no concern of Django's.
    app = WorkerApp("cachekeeper", set_as_current=False, fixups=[], loader=OwnConfiguration)
    app.conf.update(_configuration(settings.broker_url))
    app.processor = Processor(settings, registry)
    app.register_task(ApplyTask())
    app.steps["worker"].add(Servers)
    # At DEBUG it writes whole commands, tokens included; `celery worker --loglevel debug` is not meant to ask for that.
    logging.getLogger("pymongo.command").setLevel(logging.INFO)
    return app


def _configuration(url: str) -> dict[str, Any]:
    plain = without_tls_options(url)
    return {
        # --- the broker
        # All three: else CELERY_BROKER_URL, which may be another application's, would win.
        "broker_url": plain,
        "broker_read_url": plain,
        "broker_write_url": plain,
        "broker_use_ssl": tls_options(url),
        "broker_transport_options": _transport_options(url),
        # For one attempt to connect: while it hangs, the worker does not hear that it should stop.
        "broker_connection_timeout": 4,
        # A broker that is away comes back; until then there is nothing else to do.
        "broker_connection_retry": True,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        "broker_channel_error_retry": True,
        # A hung RabbitMQ is noticed within a minute, not four. (Redis has no heartbeats, but health checks, below.)
        "broker_heartbeat": 30,
        # --- the queue
        "task_queues": [work_queue(url)],
        "task_default_queue": QUEUE,
        # One queue: a misspelt one is an error, not a new queue that nobody reads.
        "task_create_missing_queues": False,
        # With quorum queues Celery must set the prefetch for each consumer; it finds out by itself.
        "worker_detect_quorum_queues": True,
        # --- messages
        # JSON only: what it decodes to can do nothing.
        "accept_content": ["json"],
        "task_serializer": "json",
        "result_serializer": "json",
        # A message is acknowledged when its events are applied; a worker that is killed before leaves it to another.
        "task_acks_late": True,
        # Nobody waits for a result.
        "result_backend": None,
        "task_ignore_result": True,
        "task_store_errors_even_if_ignored": False,
        # Task events cost a third of the throughput.
        "worker_send_task_events": False,
        "task_send_sent_event": False,
        # --- the worker
        # Applying is waiting for servers. prefork is slower at it, and takes half a minute to stop under load; and a
        # process of its own could not tell the consumer to stop fetching.
        "worker_pool": "threads",
        # One computes while the others wait; more would wait for Python's lock.
        "worker_concurrency": 4,
        # 16 messages in hand: enough to keep the threads busy, few enough to put back when a server goes away.
        "worker_prefetch_multiplier": 4,
        # After a lost connection as many as before: what is then applied twice does no harm.
        "worker_enable_prefetch_count_reduction": False,
        # There are none; each message would be held against them.
        "worker_disable_rate_limits": True,
        # Both are for prefork's processes. The first loops without limit; the second publishes the message anew, with
        # an ETA. Here a killed worker's messages come back from the broker, and RabbitMQ counts.
        "task_reject_on_worker_lost": False,
        "task_retry_on_worker_lost": False,
        # A message whose connection is lost is applied all the same, and again when it is redelivered: no harm.
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        # Stops fetching while Redis or MongoDB is away, and takes whatever is in the queue.
        "worker_consumer": "cachekeeper.consuming.consumer:Consumer",
        # `celery inspect ping` tells whether a worker is well.
        "worker_enable_remote_control": True,
        # Another application's `celery control shutdown` is not meant for this worker.
        "control_exchange": CONTROL_EXCHANGE,
        "event_exchange": EVENT_EXCHANGE,
        "event_queue_prefix": EVENT_EXCHANGE,
        # Whoever configured logging in this process meant it.
        "worker_hijack_root_logger": False,
        "worker_redirect_stdouts": False,
    }


def _transport_options(url: str) -> dict[str, Any]:
    options = transport_options(url, _BROKER_SECONDS)
    if is_amqp(url):
        return options
    return {
        **options,
        # A worker that was killed leaves its messages to others after a minute; kombu's default is an hour, looked at
        # every 100 seconds. A message that takes longer is applied twice, which does no harm.
        "visibility_timeout": 60,
        "unacked_restore_interval": 5,
        "unacked_restore_throttle": 1,
        # Redis has no heartbeats: a connection that was idle so long is asked for a sign of life before it is used.
        "health_check_interval": 10,
    }
