"""The Celery application, with a reason for each setting."""

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

# The time limit for one answer of the broker. A worker can wait longer than a publisher: only a hung broker is so slow.
_BROKER_SECONDS = 10.0
_WRONG_QUEUES = f"run the worker without -Q and -X: it consumes only the queue {QUEUE}"


class Messaging(AMQP):
    """Celery's messaging, on connections that use our transport for Redis."""

    Connection = Connection


class Worker(CeleryWorker):
    """Celery's worker, which consumes only our queue."""

    def setup_queues(self, include: Sequence[str], exclude: Sequence[str] | None = None) -> None:
        """Apply -Q and -X. If they select another queue, end in one line, instead of a traceback or an idle worker."""
        try:
            super().setup_queues(include, exclude)
        except ImproperlyConfigured:  # -Q names an unknown queue
            raise SystemExit(_WRONG_QUEUES) from None
        if set(self.app.amqp.queues.consume_from) != {QUEUE}:
            raise SystemExit(_WRONG_QUEUES)


class WorkerApp(Celery):
    """A Celery application with the processor of its worker.

    Attributes:
        processor: processes the worker's messages.
    """

    amqp_cls = f"{__name__}:{Messaging.__name__}"

    @cached_property
    def Worker(self) -> type[Worker]:  # noqa: N802  # Celery's name
        """The class of which the command `celery worker` makes an instance."""
        return self.subclass_with_self(Worker)

    processor: Processor

    backend_cls = "disabled"  # otherwise Celery would use CELERY_RESULT_BACKEND

    # Celery would use CELERY_BROKER_READ_URL and CELERY_BROKER_WRITE_URL, which may belong to another application.
    def connection_for_read(self, url: str | None = None, **options: Any) -> kombu.Connection:
        """Return a connection to our broker."""
        return super().connection_for_read(url or self.conf["broker_url"], **options)

    def connection(self, hostname: str | None = None, *arguments: Any, **options: Any) -> kombu.Connection:
        """Return a connection to our broker. Celery shows it in its banner."""
        return super().connection(hostname or self.conf["broker_url"], *arguments, **options)

    def connection_for_write(self, url: str | None = None, **options: Any) -> kombu.Connection:
        """Return a connection to our broker."""
        return super().connection_for_write(url or self.conf["broker_url"], **options)


class ApplyTask(Task[..., None]):
    """`cachekeeper.apply`: the only task. Publishers send `[[event, ...]]` as its arguments.

    Celery reads from it how to acknowledge. It is never called: the consumer gives messages to the processor, several
    at a time.
    """

    name = TASK


def create_app(settings: Settings, registry: Registry | None = None) -> WorkerApp:
    """Make the application of a worker. It opens no connection.

    Args:
        settings: must have a broker URL.
        registry: by default, everything that the modules in the settings register.

    Raises:
        SettingsError: there is no broker URL, a module cannot be found, or a setting names a view that does not exist.
        RegistrationError: the registered views, events and handlers do not fit together.
    """
    if settings.broker_url is None:
        raise SettingsError("CACHEKEEPER_BROKER_URL: is not set; a worker needs the URL of the broker")
    registry = load_registry(settings.modules) if registry is None else registry
    registry.check(settings)
    # Not set as the process's current application, which may be another one. No fixups: Django's would not apply.
    app = WorkerApp("cachekeeper", set_as_current=False, fixups=[], loader=OwnConfiguration)
    app.conf.update(_configuration(settings.broker_url))
    app.processor = Processor(settings, registry)
    app.register_task(ApplyTask())
    app.steps["worker"].add(Servers)
    # At DEBUG this logger writes whole commands, tokens included. `celery worker --loglevel debug` must not cause that.
    logging.getLogger("pymongo.command").setLevel(logging.INFO)
    return app


def _configuration(url: str) -> dict[str, Any]:
    plain = without_tls_options(url)
    return {
        # --- the broker
        # All three are set; otherwise CELERY_BROKER_URL, which may belong to another application, would win.
        "broker_url": plain,
        "broker_read_url": plain,
        "broker_write_url": plain,
        "broker_use_ssl": tls_options(url),
        "broker_transport_options": _transport_options(url),
        # The limit for one attempt to connect. While an attempt hangs, the worker does not notice that it should stop.
        "broker_connection_timeout": 4,
        # Retry without limit while the broker is unavailable: the worker has nothing else to do until it is back.
        "broker_connection_retry": True,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        "broker_channel_error_retry": True,
        # A hung RabbitMQ is noticed within one minute instead of four. (Redis has health checks instead, see below.)
        "broker_heartbeat": 30,
        # --- the queue
        "task_queues": [work_queue(url)],
        "task_default_queue": QUEUE,
        # There is one queue. A misspelt queue name is an error, not a new queue without a consumer.
        "task_create_missing_queues": False,
        # With quorum queues Celery must set the prefetch per consumer. This setting makes it detect them.
        "worker_detect_quorum_queues": True,
        # --- messages
        # JSON only: decoding it cannot run code.
        "accept_content": ["json"],
        "task_serializer": "json",
        "result_serializer": "json",
        # A message is acknowledged after its events are applied. If a worker is killed before, another one gets it.
        "task_acks_late": True,
        # No caller waits for a result.
        "result_backend": None,
        "task_ignore_result": True,
        "task_store_errors_even_if_ignored": False,
        # Task events cost a third of the throughput.
        "worker_send_task_events": False,
        "task_send_sent_event": False,
        # --- the worker
        # Most of the work is waiting for servers. prefork is slower at that, and takes half a minute to stop under
        # load. Its child processes also could not tell the consumer to stop fetching.
        "worker_pool": "threads",
        # One thread computes while the others wait for servers. More threads would wait for Python's lock.
        "worker_concurrency": 4,
        # 16 messages in flight: enough to keep the threads busy, few enough to put back when an outage begins.
        "worker_prefetch_multiplier": 4,
        # After a lost connection, prefetch as many as before: applying a message twice does no harm.
        "worker_enable_prefetch_count_reduction": False,
        # There are no rate limits. Otherwise Celery would check each message against them.
        "worker_disable_rate_limits": True,
        # Both settings are for prefork's processes. The first requeues without limit; the second publishes the message
        # again with an ETA. Here the broker redelivers a killed worker's messages, and RabbitMQ counts deliveries.
        "task_reject_on_worker_lost": False,
        "task_retry_on_worker_lost": False,
        # A message whose connection is lost is still applied, and applied again when it is redelivered. No harm.
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        # This consumer stops fetching while Redis or MongoDB is unavailable, and takes every message, readable or not.
        "worker_consumer": "cachekeeper.consuming.consumer:Consumer",
        # `celery inspect ping` shows whether a worker responds.
        "worker_enable_remote_control": True,
        # Names of our own: another application's `celery control shutdown` must not end this worker.
        "control_exchange": CONTROL_EXCHANGE,
        "event_exchange": EVENT_EXCHANGE,
        "event_queue_prefix": EVENT_EXCHANGE,
        # Keep the logging configuration that this process already has.
        "worker_hijack_root_logger": False,
        "worker_redirect_stdouts": False,
    }


def _transport_options(url: str) -> dict[str, Any]:
    options = transport_options(url, _BROKER_SECONDS)
    if is_amqp(url):
        return options
    return {
        **options,
        # One minute after a worker was killed, other workers take its messages. kombu's default is an hour, checked
        # every 100 seconds. A message whose processing takes longer is applied twice, which does no harm.
        "visibility_timeout": 60,
        "unacked_restore_interval": 5,
        "unacked_restore_throttle": 1,
        # Redis has no heartbeats. A connection that was idle for this many seconds is checked with a PING before use.
        "health_check_interval": 10,
    }
